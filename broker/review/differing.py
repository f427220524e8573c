"""`broker diff`: two states of the objects in, who gains or loses what out, and an exit code that a pull request can be held by."""

import json
from collections.abc import Sequence
from typing import TextIO

from broker import files, policy
from broker.objects import Resources
from broker.review import describing
from broker.review.assuming import complete
from broker.review.checking import errors_of, told
from broker.review.comparing import Change, compare
from broker.review.printing import GAINED, OK, WRONG, Output, Read


def diff(old: Read, new: Read, settings: policy.Settings, output: Output, stdout: TextIO) -> int:
    """Print what is different, and for whom.

    Returns:
        0 when nobody gains, 4 when somebody does, 1 when nobody knows: objects cannot be read, or new ones are not accepted.
    """
    try:
        before, after = _snapshot(old, settings), _snapshot(new, settings)
    except files.Unreadable as broken:
        _write(broken.problems, None, output, stdout)
        return WRONG
    errors = [told(one) for one in errors_of(*after) if not one.object.startswith("Secret ")]  # which are not under review here
    changes = compare(before[1], after[1])
    _write(errors, changes, output, stdout)
    if errors:
        return WRONG
    return GAINED if any(one.gives_more for one in changes) else OK


def _snapshot(read: Read, settings: policy.Settings) -> tuple[Resources, policy.Snapshot]:
    resources = read()
    return resources, policy.build(complete(resources), settings)


def _write(errors: Sequence[str], changes: Sequence[Change] | None, output: Output, stdout: TextIO) -> None:
    """changes: None when there is no telling."""
    if output == "json":
        found = {"gains": None, "changes": None} if changes is None else describing.told(changes)
        stdout.write(json.dumps({"errors": list(errors), **found}, indent=2) + "\n")
    elif output == "markdown":
        stdout.write(describing.markdown(changes or (), errors) + "\n")
    else:
        stdout.write("\n".join([*errors, *([describing.text(changes)] if changes is not None else [])]) + "\n")
