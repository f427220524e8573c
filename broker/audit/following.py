"""Reading an audit log while it is written, on through each rotation."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Final

from broker.audit.folder import siblings
from broker.audit.lines import LINE_BYTES
from broker.audit.reading import Raw

EVERY_S: Final = 0.25


class Followed:
    """A file that grows. `more` gives the whole lines that were written since the last time, from the file's beginning on at first.

    What the file was before, by the names that rotation gives, is read to its end before the next one is begun.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path).resolve()
        self._file: IO[bytes] = self._path.open("rb")
        self._number = 0
        self._half = b""

    def more(self) -> Iterator[Raw]:
        """All that there is now.

        Raises:
            OSError: the file cannot be read.
        """
        while True:
            following = self._following()
            yield from self._rest()
            if following is None:
                return
            self._file.close()
            self._file, self._number, self._half = following.open("rb"), 0, b""

    def forever(self, wait: Callable[[float], None]) -> Iterator[Raw]:
        """Line after line, and never an end."""
        while True:
            yield from self.more()
            wait(EVERY_S)

    def close(self) -> None:
        self._file.close()

    def _rest(self) -> Iterator[Raw]:
        while piece := self._file.readline(LINE_BYTES + 1):
            self._half += piece
            if self._half.endswith(b"\n"):
                whole, self._half = self._half, b""
                self._number += 1
                yield Raw(self._number, whole if len(whole) <= LINE_BYTES else b"")
            elif len(self._half) > LINE_BYTES:
                self._half = self._half[: LINE_BYTES + 1]

    def _following(self) -> Path | None:
        """The file after ours; None while ours is the one that is written. Asked before ours is read to its end: so no line is missed."""
        own = os.fstat(self._file.fileno())
        if _is(self._path, own):
            return None
        full = siblings(self._path)
        ours = next((at for at, name in enumerate(full) if _is(name, own)), None)
        if ours is not None and ours + 1 < len(full):
            return full[ours + 1]
        return self._path if self._path.exists() else None


def _is(path: Path, own: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), own)
    except FileNotFoundError:
        return False
