"""A folder of YAML as the source of objects, watched for changes. The Kubernetes API is the other source of the same Resources.

Every `*.yaml` and `*.yml` below the folder is read, many documents a file; names that begin with a dot are passed over (editors'
files, and the ..data folders of mounted ConfigMaps). One file that is no YAML says that nobody knows what the objects are:
a start fails on it, and a running broker keeps what it has, loudly.
"""

import asyncio
import hashlib
import logging
import os
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Final

from broker.objects import Document, Resources, Stray, collect, read_document
from broker.objects.origin import Origin
from broker.objects.reading import as_mapping
from broker.objects.yamltext import FILE_BYTES, InvalidYaml, read_yaml

log = logging.getLogger(__name__)

POLL_S: Final = 0.25
FILES: Final = 2_000
# A write within the same tick of the file system's clock, of the same length, leaves no trace but the content: it is compared
# for this many polls after a change.
SETTLING_POLLS: Final = 8

_Marks = tuple[tuple[str, int, int, int], ...]  # path, mtime in ns, bytes, inode


class Unreadable(Exception):
    """There is no telling what the files say. Each problem is `file:line:column: message`."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True, slots=True)
class _Seen:
    marks: _Marks
    digest: bytes


class Folder:
    """The objects in files below these paths; a path may be a file, too.

    environment: what `${env:NAME}` in a Secret's value means.
    """

    def __init__(self, paths: Path | Iterable[Path], environment: Mapping[str, str]) -> None:
        self._paths = (paths,) if isinstance(paths, Path) else tuple(paths)
        self._environment = environment
        self._seen = _Seen((), b"")
        self._settling = 0

    def read(self) -> Resources:
        """Read everything.

        Raises:
            Unreadable: a path is not there, a file cannot be opened, or one is no YAML.
        """
        marks = self._look()
        contents, problems = _contents(marks)
        self._seen = _Seen(marks, _digest(contents))
        documents: list[Document | Stray] = []
        for path, data in contents:
            try:
                documents.extend(_documents(path, data, self._environment))
            except InvalidYaml as wrong:
                problems.append(f"{path}:{wrong.line}:{wrong.column}: {wrong}")
        if problems:
            raise Unreadable(problems)
        return collect(documents)

    def why_not_ready(self) -> list[str]:
        """Nothing: what was read at the start is enough."""
        return []

    def remarks(self) -> list[str]:
        return []

    def stale_s(self) -> dict[tuple[str, str], float]:
        return {}

    async def changes(self, poll_s: float = POLL_S) -> AsyncGenerator[Resources]:
        """The objects after each change, for as long as one asks. A change that cannot be read is logged, and yields nothing."""
        while True:
            await asyncio.sleep(poll_s)
            try:
                resources = await asyncio.to_thread(self.reread)
            except Unreadable as broken:
                log.error("resources_unreadable", extra={"problems": broken.problems, "in_force": "what was read before"})  # noqa: TRY400
            else:
                if resources is not None:
                    log.info("resources_read", extra={"files": len(self._seen.marks)})
                    yield resources

    def reread(self) -> Resources | None:
        """Everything, or None when nothing changed since the last reading.

        Raises:
            Unreadable: as read does, once for each change.
        """
        try:
            marks = self._look()
        except Unreadable:
            if self._seen.marks:
                self._seen = _Seen((), b"")
                raise
            return None
        if marks != self._seen.marks:
            self._settling = SETTLING_POLLS
        elif self._settling > 0:
            self._settling -= 1
        else:
            return None
        contents, _ = _contents(marks)
        if _digest(contents) == self._seen.digest and [name for name, *_ in marks] == [name for name, *_ in self._seen.marks]:
            self._seen = _Seen(marks, self._seen.digest)
            return None
        return self.read()

    def _look(self) -> _Marks:
        marks: list[tuple[str, int, int, int]] = []
        for path in sorted(set(_files(self._paths))):
            try:
                stat = path.stat()
            except FileNotFoundError:
                if path.is_symlink():
                    raise Unreadable([f"{path}: is a link to a file that is not there"]) from None
                continue  # it went while we looked; the next look will not list it
            except OSError as error:
                raise Unreadable([f"{path}: cannot be read: {error.strerror}"]) from None
            if not S_ISREG(stat.st_mode):
                raise Unreadable([f"{path}: is no regular file"])
            marks.append((str(path), stat.st_mtime_ns, stat.st_size, stat.st_ino))
        return tuple(marks)


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    found = 0
    for path in paths:
        if path.is_file():
            yield path
            continue
        if not path.is_dir():
            raise Unreadable([f"{path}: is neither a folder nor a file; give the folder with the objects"])
        for folder, folders, names in os.walk(path, onerror=_stop):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in names:
                if name.endswith((".yaml", ".yml")) and not name.startswith("."):
                    found += 1
                    if found > FILES:
                        raise Unreadable([f"{path}: has more than {FILES} YAML files; give a folder with the objects alone"])
                    yield Path(folder, name)


def _stop(error: OSError) -> None:
    raise Unreadable([f"{error.filename}: cannot be read: {error.strerror}"]) from None


def _contents(marks: _Marks) -> tuple[list[tuple[str, bytes]], list[str]]:
    contents: list[tuple[str, bytes]] = []
    problems: list[str] = []
    for path, *_ in marks:
        try:
            with Path(path).open("rb") as file:
                data = file.read(FILE_BYTES + 1)
        except FileNotFoundError:
            continue
        except OSError as error:
            problems.append(f"{path}: cannot be read: {error.strerror}")
            continue
        if len(data) > FILE_BYTES:
            problems.append(f"{path}: has more than {FILE_BYTES} bytes; split it")
        contents.append((path, data[:FILE_BYTES]))
    return contents, problems


def _digest(contents: Iterable[tuple[str, bytes]]) -> bytes:
    digest = hashlib.sha256()
    for path, data in contents:
        digest.update(f"{path}\0{len(data)}\0".encode())
        digest.update(data)
    return digest.digest()


def _documents(path: str, data: bytes, environment: Mapping[str, str]) -> Iterator[Document | Stray]:
    """The objects of one file.

    Raises:
        InvalidYaml: it is no YAML, or nobody can tell what kind of object a document is: it may be a Deny, which must not vanish.
    """
    for document in read_yaml(data):
        origin = Origin(path, document.marks)
        found = read_document(document.value, origin, environment, tuple(document.faults))
        if isinstance(found, Stray) and found.ours and (document.faults or _is_list(document.value)):
            fault = document.faults[0] if document.faults else found.fault
            line, column = document.marks.get(fault.path) or document.marks.get("") or (1, 1)
            raise InvalidYaml(f"{fault}; this may be an AIAccessPolicy that denies, so nothing of this file counts", line, column)
        yield found


def _is_list(value: object) -> bool:
    kind = (as_mapping(value) or {}).get("kind")
    return isinstance(kind, str) and kind.endswith("List")
