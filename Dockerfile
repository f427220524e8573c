# syntax=docker/dockerfile:1
# One image for every role: `broker serve`, `broker gateway`, `broker controller`, `python -m webhook`. What is in it is what uv.lock says.
#
#   docker buildx build --sbom=true --provenance=mode=max --tag inference-broker:0.1.0 .
#
# BASE may be given by digest. Nothing in the image runs a shell; no process writes to its own file system.
ARG BASE=python:3.13-slim-trixie

FROM ${BASE} AS build
ENV UV_PYTHON_DOWNLOADS=never UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1 UV_PROJECT_ENVIRONMENT=/app
RUN pip install --no-cache-dir --no-compile uv==0.13.9
WORKDIR /source
COPY pyproject.toml uv.lock README.md LICENSE ./
RUN uv sync --frozen --no-default-groups --extra counting --no-install-project
COPY broker broker
COPY webhook webhook
RUN uv sync --frozen --no-default-groups --extra counting --no-editable \
    && uv export --quiet --frozen --no-default-groups --extra counting --format cyclonedx1.5 --output-file /app/sbom.cdx.json

FROM ${BASE}
LABEL org.opencontainers.image.title="inference-broker" \
    org.opencontainers.image.description="Agents call models with their SPIFFE identity instead of an API key" \
    org.opencontainers.image.licenses="Apache-2.0"
ENV PATH=/app/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
COPY --from=build /app /app
USER 65532:65532
ENTRYPOINT ["broker"]
