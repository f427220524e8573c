"""`broker check`: what is wrong with the objects. Statuses are those that they have in Kubernetes; places are file:line:column."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TextIO

from broker import files, policy
from broker.cells import plain
from broker.names import API_VERSION
from broker.objects import Resources
from broker.policy.status import ObjectStatus
from broker.policy.written import written
from broker.review.printing import OK, WRONG, Output, Read, write


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to mend (error) or to know (warning). `place` is file:line:column."""

    place: str
    object: str
    path: str
    message: str


def check(read: Read, settings: policy.Settings, output: Output, stdout: TextIO) -> int:
    """Print every fault of these objects, and what each would be told.

    Returns:
        0 when every object is accepted (a provider that is not ready is a warning), else 1.
    """
    try:
        resources = read()
    except files.Unreadable as broken:
        write({"objects": [], "errors": list(broken.problems), "warnings": []}, "\n".join(broken.problems), output, stdout)
        return WRONG
    snapshot = policy.build(resources, settings)
    errors = list(errors_of(resources, snapshot))
    warnings = list(warnings_of(resources, snapshot))
    report = {
        "objects": [status_of(status) for status in snapshot.statuses],
        "errors": [asdict(one) for one in errors],
        "warnings": [asdict(one) for one in warnings],
    }
    write(report, "\n".join(_check_text(snapshot.statuses, errors, warnings)), output, stdout)
    return WRONG if errors else OK


def of_files(read: Read) -> Read:
    """As `read`, but no object at all is a fault: whoever has mistyped a folder must not hear that all is well."""

    def found() -> Resources:
        resources = read()
        if not any((resources.routing, resources.access, resources.providers, resources.secrets, resources.strays)):
            raise files.Unreadable(["there is no object: of a folder, files are read whose names end with .yaml or .yml"])
        return resources

    return found


def status_of(status: ObjectStatus) -> dict[str, object]:
    """One object's status as Kubernetes has it, but for the times of its conditions."""
    about = status.about
    return {
        "apiVersion": "v1" if about.kind == "Secret" else API_VERSION,
        "kind": about.kind,
        "metadata": {"name": about.name, "namespace": about.namespace or ""},
        "status": written(status),
    }


def errors_of(resources: Resources, snapshot: policy.Snapshot) -> Iterator[Finding]:
    """What is to be mended before these objects do what they say."""
    yield from _strays(resources, ours=True)
    for status in snapshot.statuses:
        yield from _errors(status)


def warnings_of(resources: Resources, snapshot: policy.Snapshot) -> Iterator[Finding]:
    """What is to be known of objects that work."""
    yield from _strays(resources, ours=False)
    for status in snapshot.statuses:
        yield from _warnings(status)
    yield from _overlooked(snapshot)


def told(one: Finding, kind: str = "error") -> str:
    """In one line."""
    named = "" if one.place == one.object else f"{one.object}: "  # what comes from a cluster stands in no file
    line = f"{one.place}: {kind}: {named}{f'{one.path}: ' if one.path else ''}{one.message}"
    return plain(line)  # a field may be called anything


def _strays(resources: Resources, *, ours: bool) -> Iterator[Finding]:
    for stray in resources.strays:
        if stray.ours == ours:
            yield Finding(stray.origin.place(stray.fault.path) if stray.origin else "", "document", stray.fault.path, stray.fault.message)


def _errors(status: ObjectStatus) -> Iterator[Finding]:
    about = status.about
    for fault in about.faults:
        yield Finding(about.place(fault.path), str(about), fault.path, fault.message)
    for condition in status.conditions:
        if condition.type == "Accepted" and condition.reason == "NameConflict":
            yield Finding(about.place(condition.path), str(about), condition.path, condition.message)


def _warnings(status: ObjectStatus) -> Iterator[Finding]:
    about = status.about
    if about.faults:
        return
    for row in (*status.providers, *status.models):
        if not row.ready and row.reason != "NameConflict":
            what = "provider" if row in status.providers else "model"
            yield Finding(about.place(row.path), str(about), row.path, f"{what} {row.name} is not ready ({row.reason}): {row.message}")
    for condition in status.conditions:
        if condition.status == "False" and condition.type in ("Ready", "ModelsResolved"):
            yield Finding(about.place(condition.path), str(about), condition.path, f"{condition.reason}: {condition.message}")
    for path, notice in status.notices:
        yield Finding(about.place(path), str(about), path, notice)


def _overlooked(snapshot: policy.Snapshot) -> Iterator[Finding]:
    abouts = {(status.about.kind, status.about.ref): status.about for status in snapshot.statuses}
    for one in policy.oversights(snapshot.rules):
        about = abouts["AIAccessPolicy", one.policy]
        yield Finding(about.place(one.path), str(about), one.path, one.message)


def _check_text(statuses: Sequence[ObjectStatus], errors: Sequence[Finding], warnings: Sequence[Finding]) -> Iterator[str]:
    for kind, findings in (("error", errors), ("warning", warnings)):
        yield from (told(one, kind) for one in findings)
    for status in statuses:
        conditions = ", ".join(f"{one.type}={one.status}{'' if one.status == 'True' else f'/{one.reason}'}" for one in status.conditions)
        yield f"{status.about}: {conditions}"
    yield f"objects: {len(statuses)}, errors: {len(errors)}, warnings: {len(warnings)}"
