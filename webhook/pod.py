"""What of a Pod is read, with the bounds that the rest relies on. What stands elsewhere in it is neither read nor changed."""

from typing import Annotated, Final

import msgspec

from webhook import review

CONTAINERS: Final = 500  # of each kind; the annotation that says what was done must stay far below the 256 KiB of all annotations
_ENTRIES: Final = 10_000

Name = Annotated[str, msgspec.Meta(max_length=4096)]
Names = Annotated[dict[Name, str], msgspec.Meta(max_length=_ENTRIES)]


class EnvVar(msgspec.Struct, frozen=True, rename="camel"):
    """`value` None and `value_from` None together are the empty text."""

    name: Name
    value: str | None = None
    value_from: dict[str, msgspec.Raw] | None = None


class Port(msgspec.Struct, frozen=True, rename="camel"):
    container_port: int
    protocol: Name | None = None


class Security(msgspec.Struct, frozen=True, rename="camel"):
    run_as_user: int | None = None


class Container(msgspec.Struct, frozen=True, rename="camel"):
    name: Name
    command: Annotated[list[str], msgspec.Meta(max_length=_ENTRIES)] | None = None
    args: Annotated[list[str], msgspec.Meta(max_length=_ENTRIES)] | None = None
    env: Annotated[list[EnvVar], msgspec.Meta(max_length=_ENTRIES)] | None = None
    env_from: Annotated[list[msgspec.Raw], msgspec.Meta(max_length=_ENTRIES)] | None = None
    ports: Annotated[list[Port], msgspec.Meta(max_length=_ENTRIES)] | None = None
    restart_policy: Name | None = None
    security_context: Security | None = None


class Csi(msgspec.Struct, frozen=True):
    driver: Name


class Volume(msgspec.Struct, frozen=True, rename="camel"):
    name: Name
    csi: Csi | None = None
    empty_dir: dict[str, msgspec.Raw] | None = None


class Os(msgspec.Struct, frozen=True):
    name: Name


class Metadata(msgspec.Struct, frozen=True):
    annotations: Names | None = None


class Spec(msgspec.Struct, frozen=True, rename="camel"):
    containers: Annotated[list[Container], msgspec.Meta(max_length=CONTAINERS)]
    init_containers: Annotated[list[Container], msgspec.Meta(max_length=CONTAINERS)] | None = None
    volumes: Annotated[list[Volume], msgspec.Meta(max_length=_ENTRIES)] | None = None
    host_network: bool | None = None
    host_pid: bool | None = msgspec.field(name="hostPID", default=None)
    share_process_namespace: bool | None = None
    os: Os | None = None
    node_selector: Names | None = None
    security_context: Security | None = None


class Pod(msgspec.Struct, frozen=True):
    metadata: Metadata
    spec: Spec

    @property
    def annotations(self) -> dict[str, str]:
        return self.metadata.annotations or {}


def read(raw: bytes | msgspec.Raw) -> Pod:
    """Raises ValueError, with the path of what is wrong."""
    return review.decode(raw, Pod)
