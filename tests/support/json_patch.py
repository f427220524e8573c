"""RFC 6902 as a judge: what of it a JSON Patch of ours may use, applied to the letter. Anything else is an AssertionError."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any


def apply(document: Any, patch: Iterable[Mapping[str, Any]]) -> Any:
    """A copy of the document, patched."""
    changed = copy.deepcopy(document)
    for operation in patch:
        if operation["op"] == "move":
            assert set(operation) == {"op", "from", "path"}
            _add(changed, operation["path"], _remove(changed, operation["from"]))
        else:
            assert operation["op"] == "add"
            assert set(operation) == {"op", "path", "value"}
            _add(changed, operation["path"], copy.deepcopy(operation["value"]))
    return changed


def _steps(pointer: str) -> list[str]:
    """RFC 6901: "~1" is "/", and "~0" is "~"."""
    assert pointer.startswith("/")
    return [step.replace("~1", "/").replace("~0", "~") for step in pointer[1:].split("/")]


def _parent(document: Any, pointer: str) -> tuple[Any, str]:
    *way, last = _steps(pointer)
    for step in way:
        document = document[int(step)] if isinstance(document, list) else document[step]
    return document, last


def _add(document: Any, pointer: str, value: Any) -> None:
    parent, last = _parent(document, pointer)
    if isinstance(parent, list):
        at = len(parent) if last == "-" else int(last)
        assert 0 <= at <= len(parent), f"{pointer} is beyond the end"
        parent.insert(at, value)
    else:
        assert isinstance(parent, dict), f"{pointer} leads through no object"
        parent[last] = value


def _remove(document: Any, pointer: str) -> Any:
    parent, last = _parent(document, pointer)
    return parent.pop(int(last) if isinstance(parent, list) else last)
