"""YAML, the plain part of it, into values with a place for each. Pure.

What surprises people is refused, each with its place: duplicate keys, anchors and aliases (a short text can mean gigabytes),
tags (a text can name a type), merge keys, depth beyond reason. Words are read as YAML 1.2 has them: `yes`, `on` and `1:30` are
text, not true, true and 90.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import yaml
from yaml import events

from broker.objects.reading import UNREADABLE, Fault

DEPTH: Final = 32
FILE_BYTES: Final = 1 << 20

_INT: Final = re.compile(r"[-+]?(0|[1-9][0-9]{0,18})")
_FLOAT: Final = re.compile(r"[-+]?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]{1,3})?")
_WORDS: Final[dict[str, object]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


class InvalidYaml(Exception):
    """The text is no YAML at all. `line` and `column` count from 1."""

    def __init__(self, message: str, line: int, column: int) -> None:
        super().__init__(message)
        self.line = line
        self.column = column


@dataclass(slots=True)
class YamlDocument:
    """One document of a file.

    marks: (line, column) of each path; a field's is that of its name. "" is the document itself.
    faults: what was refused; UNREADABLE stands in the value where it was.
    """

    value: object
    marks: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    faults: list[Fault] = field(default_factory=list[Fault])


def read_yaml(data: bytes) -> tuple[YamlDocument, ...]:
    """Every document of a file but the empty ones.

    Raises:
        InvalidYaml: there is no telling what the file says.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        raise InvalidYaml("is not UTF-8", before.count(b"\n") + 1, error.start - before.rfind(b"\n")) from None
    try:
        return tuple(_Reader(yaml.parse(text, Loader=yaml.CSafeLoader)).documents())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise InvalidYaml(f"is no YAML: {error.problem or error.context or 'it cannot be read'}", *where) from None
    except yaml.YAMLError:
        raise InvalidYaml("is no YAML: it has characters that no text file has", 1, 1) from None


class _Reader:
    def __init__(self, stream: Iterator[events.Event]) -> None:
        self._stream = stream
        self._document = YamlDocument(None)

    def documents(self) -> Iterator[YamlDocument]:
        for event in self._stream:
            if isinstance(event, events.DocumentStartEvent):
                self._document = YamlDocument(None)
                first = next(self._stream)
                self._document.value = self._value(first, "", 0)
                self._mark("", first)
                if self._document.value is not None:
                    yield self._document

    def _mark(self, path: str, event: events.Event) -> None:
        self._document.marks.setdefault(path, _place(event))

    def _refuse(self, path: str, event: events.Event, message: str) -> object:
        self._mark(path, event)
        self._document.faults.append(Fault(path, message))
        return UNREADABLE

    def _value(self, event: events.Event, path: str, depth: int) -> object:
        if isinstance(event, events.AliasEvent):
            return self._refuse(path, event, "is an alias (*name), which is not read; write the value out")
        if depth > DEPTH:  # at once: the parser's own time grows with the square of the depth
            raise InvalidYaml(f"lies deeper than {DEPTH} levels", *_place(event))
        refused = self._refused(event, path)
        if isinstance(event, events.ScalarEvent):
            value: object = _scalar(event)
        elif isinstance(event, events.SequenceStartEvent):
            value = self._list(path, depth)
        else:
            value = self._mapping(path, depth)
        return value if refused is None else refused

    def _refused(self, event: events.Event, path: str) -> object | None:
        if isinstance(event, events.NodeEvent) and event.anchor is not None:
            return self._refuse(path, event, "has an anchor (&name), which is not read; write the value where it is needed")
        if isinstance(event, (events.ScalarEvent, events.CollectionStartEvent)) and event.tag is not None:
            return self._refuse(path, event, "has a tag (!name), which is not read; write the value alone")
        return None

    def _list(self, path: str, depth: int) -> list[object]:
        items: list[object] = []
        for event in self._stream:
            if isinstance(event, events.SequenceEndEvent):
                break
            where = f"{path}[{len(items)}]"
            self._mark(where, event)
            items.append(self._value(event, where, depth + 1))
        return items

    def _mapping(self, path: str, depth: int) -> dict[str, object]:
        fields: dict[str, object] = {}
        for event in self._stream:
            if isinstance(event, events.MappingEndEvent):
                break
            name = self._name(event, path, depth)
            where = path if name is None else f"{path}.{name}" if path else name
            if name is not None and name in fields:
                line, _ = self._document.marks[where]
                self._document.marks.pop(where)
                self._refuse(where, event, f"is written twice, first in line {line}; leave one of the two out")
                self._value(next(self._stream), where, depth + 1)
                fields[name] = UNREADABLE
                continue
            if name is not None:
                self._mark(where, event)
            value = self._value(next(self._stream), where, depth + 1)
            if name is not None:
                fields[name] = value
        return fields

    def _name(self, event: events.Event, path: str, depth: int) -> str | None:
        if isinstance(event, events.ScalarEvent) and event.tag is None and event.anchor is None:
            if event.value == "<<" and event.implicit[0]:
                self._refuse(path, event, "has a merge key (<<), which is not read; write the fields out")
                return None
            if isinstance(_scalar(event), str):
                return event.value
        self._refuse(path, event, "has a field whose name is no text; put it in quotes")
        if isinstance(event, events.CollectionStartEvent):
            self._value(event, path, depth + 1)
        return None


def _place(event: events.Event) -> tuple[int, int]:
    mark = event.start_mark
    return (mark.line + 1, mark.column + 1) if mark else (1, 1)


def _scalar(event: events.ScalarEvent) -> object:
    """Text, unless it stands there plainly and looks like something else."""
    text: str = event.value
    if not event.implicit[0]:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text
