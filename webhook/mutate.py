"""A Pod in, a JSON Patch out: its local gateway, and the variables by which its containers find it. Pure.

The same Pod again, with what other webhooks have added since, gets only what is new: the API server asks twice
(reinvocationPolicy IfNeeded). Nothing of a Pod goes into the gateway's image, command or arguments but the port, which is a number.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from broker import sdk_env
from broker.names import DIALECTS_ANNOTATION, GATEWAY_CONTAINER, INJECT, INJECTED_ANNOTATION, PORT_ANNOTATION, PORT_MAX
from webhook import config, pod, sidecar, variables
from webhook.config import Gateway
from webhook.pod import Container, Pod
from webhook.review import BAD_REQUEST, Operation, Request, Verdict, cut

MIRROR: Final = "kubernetes.io/config.mirror"  # the API server's picture of a Pod that a kubelet runs from a file
OS_LABEL: Final = "kubernetes.io/os"
SHOWN: Final = 100  # characters of somebody's text in a message

_LEAVE_ALONE: Final = f'annotate the Pod (in a Deployment: its template) with {INJECT}: "false" to run it without a local gateway'


class Refused(ValueError):
    """The Pod cannot have what was asked for. The message says what to do."""


@dataclass(frozen=True, slots=True)
class _Wish:
    """What the Pod's annotations ask for."""

    dialects: tuple[str, ...]
    port: int


def judge(request: Request, gateway: Gateway, version: str) -> Verdict:
    """What becomes of one Pod. `version` is ours, for the annotation.

    A request that is about anything but the creation of a Pod passes as it is.
    """
    if (request.kind.group, request.kind.kind) != ("", "Pod") or request.operation != "CREATE" or request.sub_resource:
        return Verdict()
    try:
        read = pod.read(request.object)
    except ValueError as error:
        return Verdict(allowed=False, code=BAD_REQUEST, message=f"the Pod cannot be read: {error}")
    try:
        return _inject(read, gateway, version) if _wanted(read) else Verdict()
    except Refused as refusal:
        return Verdict(allowed=False, message=str(refusal))


def _wanted(it: Pod) -> bool:
    said = it.annotations.get(INJECT, "true")
    if said not in ("true", "false"):
        raise Refused(f'annotation {INJECT}: {_shown(said)} is neither "true" nor "false"')
    return said == "true"


def _inject(it: Pod, gateway: Gateway, version: str) -> Verdict:
    if MIRROR in it.annotations:
        return Verdict(warnings=("a static Pod cannot be changed here: it runs without a local gateway",))
    wish = _wish(it, gateway)
    _judge_pod(it, gateway, wish.port)
    plans = [_planned(field, index, container, wish) for field, index, container in _agents(it)]
    patch = (
        *(operation for plan in plans for operation in _environment(plan)),
        *_gateway_first(it, gateway, wish.port),
        *_volumes(it, gateway),
        *_annotation(it, _note(plans, wish, version)),
    )
    return Verdict(patch=patch, warnings=(*_warnings(plans, gateway), *_process_warnings(it, gateway)))


def _wish(it: Pod, gateway: Gateway) -> _Wish:
    try:
        port = config.port(it.annotations[PORT_ANNOTATION]) if PORT_ANNOTATION in it.annotations else gateway.port
    except ValueError as error:
        raise Refused(f"annotation {PORT_ANNOTATION}: {error}") from error
    return _Wish(_dialects(it.annotations.get(DIALECTS_ANNOTATION)), port)


def _dialects(said: str | None) -> tuple[str, ...]:
    """In our own order, so that the same wish is the same patch."""
    if said is None:
        return tuple(sdk_env.BY_DIALECT)
    if said.strip() == "none":
        return ()
    asked = [sdk_env.SAME_SDK.get(entry.strip(), entry.strip()) for entry in said.split(",")]
    for entry in asked:
        if entry not in sdk_env.BY_DIALECT:
            known = ", ".join(sdk_env.BY_DIALECT)
            raise Refused(f"annotation {DIALECTS_ANNOTATION}: {_shown(entry)} is no dialect; give some of {known}, or none")
    return tuple(dialect for dialect in sdk_env.BY_DIALECT if dialect in asked)


# -- what cannot be


def _judge_pod(it: Pod, gateway: Gateway, port: int) -> None:
    spec = it.spec
    if spec.host_network:
        raise Refused(
            "a Pod with hostNetwork shares its node's loopback, where every Pod like it would reach its local gateway: "
            f"take hostNetwork away, or {_LEAVE_ALONE}"
        )
    if (spec.os is not None and spec.os.name == "windows") or (spec.node_selector or {}).get(OS_LABEL) == "windows":
        raise Refused(f"there is no local gateway for Windows: {_LEAVE_ALONE}")
    if _shares_processes(it):
        for _, _, container in _agents(it):
            if _uid(container, it) == gateway.uid:
                raise Refused(
                    f"container {_shown(container.name)} sees the local gateway's process and has its user id {gateway.uid}, so it could "
                    "read its key: give it another runAsUser, or take shareProcessNamespace and hostPID away"
                )
    _judge_names(it, gateway, port)
    for _, _, container in _agents(it):
        if any(one.container_port == port and one.protocol in (None, "TCP") for one in container.ports or ()):
            raise Refused(
                f"container {_shown(container.name)} has port {port}, where the local gateway listens: give it another, "
                f'or the gateway with annotation {PORT_ANNOTATION}: "{port + 1 if port < PORT_MAX else config.PORT_MIN}"'
            )


def _judge_names(it: Pod, gateway: Gateway, port: int) -> None:
    """The names that are ours are held by what we put there, or by nothing."""
    if any(container.name == GATEWAY_CONTAINER for container in it.spec.containers):
        raise Refused(f"the name {GATEWAY_CONTAINER} belongs to the injected local gateway: rename that container")
    present = [container for container in it.spec.init_containers or () if container.name == GATEWAY_CONTAINER]
    if present and (len(present) > 1 or INJECTED_ANNOTATION not in it.annotations or present[0].restart_policy != "Always"):
        raise Refused(f"the name {GATEWAY_CONTAINER} belongs to the injected local gateway: take that init container away or rename it")
    if present and f"--port={port}" not in (present[0].args or ()):
        raise Refused(f"the Pod has a local gateway that does not listen on port {port}: take its init container {GATEWAY_CONTAINER} away")
    meant = sidecar.container(gateway, port)
    if present and (present[0].command, present[0].args) != (meant["command"], meant["args"]):
        raise Refused(
            f"the Pod has a local gateway that does not run what is injected here: take its init container {GATEWAY_CONTAINER} away, "
            "and it gets one that does"
        )
    for volume in it.spec.volumes or ():
        ours = volume.csi is not None and volume.csi.driver == gateway.spiffe_csi_driver
        if (volume.name == sidecar.SPIFFE_VOLUME and not ours) or (volume.name == sidecar.NO_TOKEN_VOLUME and volume.empty_dir is None):
            raise Refused(f"the name {volume.name} belongs to a volume of the injected local gateway: rename that volume")


def _shares_processes(it: Pod) -> bool:
    return bool(it.spec.share_process_namespace or it.spec.host_pid)


def _uid(container: Container, it: Pod) -> int | None:
    """As whom it runs; None = whom its image says."""
    own = container.security_context.run_as_user if container.security_context else None
    of_pod = it.spec.security_context.run_as_user if it.spec.security_context else None
    return of_pod if own is None else own


# -- what is done


@dataclass(frozen=True, slots=True)
class _Planned:
    """One container of the agent's. `env` is where its environment stands in the Pod as it came."""

    container: Container
    env: str
    plan: variables.Environment


def _agents(it: Pod) -> Iterator[tuple[str, int, Container]]:
    """Every container but ours, with its field and its place in it."""
    for field, containers in (("containers", it.spec.containers), ("initContainers", it.spec.init_containers or ())):
        for index, container in enumerate(containers):
            if container.name != GATEWAY_CONTAINER:
                yield field, index, container


def _planned(field: str, index: int, container: Container, wish: _Wish) -> _Planned:
    return _Planned(container, f"/spec/{field}/{index}/env", variables.plan(container.env or (), wish.dialects, wish.port))


def _environment(one: _Planned) -> Iterator[Operation]:
    """By the places that containers have now: these operations come before the one that moves them."""
    yield from (_operation(f"{one.env}/{at}/value", value) for at, value in one.plan.changed)
    added: list[object] = [{"name": name, "value": value} for name, value in one.plan.added]
    yield from _appended(one.env, added, there=one.container.env is not None)


def _gateway_first(it: Pod, gateway: Gateway, port: int) -> Iterator[Operation]:
    """First, so that every other init container finds it running."""
    init = it.spec.init_containers
    at = next((n for n, container in enumerate(init or ()) if container.name == GATEWAY_CONTAINER), None)
    ours = sidecar.container(gateway, port)
    if init is None:
        yield _operation("/spec/initContainers", [ours])
    elif at is None:
        yield _operation("/spec/initContainers/0", ours)
    elif at > 0:
        yield {"op": "move", "from": f"/spec/initContainers/{at}", "path": "/spec/initContainers/0"}


def _volumes(it: Pod, gateway: Gateway) -> Iterator[Operation]:
    present = {volume.name for volume in it.spec.volumes or ()}
    missing: list[object] = [volume for volume in sidecar.volumes(gateway) if volume["name"] not in present]
    yield from _appended("/spec/volumes", missing, there=it.spec.volumes is not None)


def _appended(place: str, values: list[object], *, there: bool) -> Iterator[Operation]:
    if there:
        yield from (_operation(f"{place}/-", value) for value in values)
    elif values:
        yield _operation(place, values)


def _note(plans: Sequence[_Planned], wish: _Wish, version: str) -> str:
    """What was done, for people and their tools: which variables lead to the gateway, and which the Pod's author kept."""
    containers = {
        one.container.name: {"variables": one.plan.injected, **({"kept": one.plan.kept} if one.plan.kept else {})} for one in plans
    }
    note = {"version": version, "port": wish.port, "dialects": wish.dialects, "containers": containers}
    return msgspec.json.encode(note).decode()


def _annotation(it: Pod, note: str) -> Iterator[Operation]:
    if it.metadata.annotations is None:
        yield _operation("/metadata/annotations", {INJECTED_ANNOTATION: note})
    elif it.annotations.get(INJECTED_ANNOTATION) != note:
        yield _operation(f"/metadata/annotations/{INJECTED_ANNOTATION.replace('~', '~0').replace('/', '~1')}", note)


def _operation(path: str, value: object) -> Operation:
    """RFC 6902 §4.1: what is there already is replaced."""
    return {"op": "add", "path": path, "value": value}


# -- what its author should know


def _warnings(plans: Sequence[_Planned], gateway: Gateway) -> Iterator[str]:
    for one in plans:
        container, plan = one.container, one.plan
        who = f"container {_shown(container.name)}"
        if plan.elsewhere:
            yield f"{who} keeps its own {' and '.join(plan.elsewhere)} and gets no variables of that dialect"
        if plan.keys and not gateway.passthrough:
            yield f"{who} still has {' and '.join(plan.keys)}: the local gateway hands on no key, so take it out of the Pod"
        if unmerged := [name for name in plan.kept if name in sdk_env.NO_PROXY]:
            yield f"{who} takes {' and '.join(unmerged)} from elsewhere: see that 127.0.0.1 and localhost are in it"
        if container.env_from and plan.added:
            yield f"{who} has envFrom: what it brings under the name of an injected variable does not count"


def _process_warnings(it: Pod, gateway: Gateway) -> Iterator[str]:
    if _shares_processes(it) and any(_uid(container, it) in (None, 0) for _, _, container in _agents(it)):
        yield f"containers share their processes with the local gateway: set runAsUser, to anything but 0 and {gateway.uid}, in each"


def _shown(text: str) -> str:
    """Somebody's text, within a message: short, and on one line."""
    return repr(cut(text, SHOWN))
