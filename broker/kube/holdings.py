"""What is kept of a collection: as much of each namespace as it has room for. Pure.

Whoever may write in one namespace decides how much is there, and what is there costs every broker memory, and time at each change. So a
namespace that has more than its room loses all of it, and nobody else anything: a part of it might grant what the rest denies.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

_T = TypeVar("_T")

Key = tuple[str, str]  # namespace, name


@dataclass(frozen=True, slots=True)
class Room:
    """What one namespace may have of one kind. `size` in bytes, of what counts of the objects, as JSON."""

    objects: int = 10_000
    size: int = 4 << 20

    def __str__(self) -> str:
        return f"{self.objects} or {self.size >> 10} KiB"


ROOM: Final = Room()


@dataclass(frozen=True, slots=True)
class Kept(Generic[_T]):
    """One object, and what it takes of its namespace's room."""

    digest: bytes
    size: int
    value: _T


class Holdings(Generic[_T]):
    """The objects of a collection.

    crowded: namespaces that had more than their room since the holdings were made. They stay so, however little is left: what was
        let go is read anew by a new list alone.
    """

    def __init__(self, room: Room) -> None:
        self.crowded: frozenset[str] = frozenset()
        self._room = room
        self._kept: dict[Key, Kept[_T]] = {}
        self._loads: defaultdict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def values(self) -> Iterator[_T]:
        return (kept.value for kept in self._kept.values())

    @property
    def digests(self) -> dict[Key, bytes]:
        return {key: kept.digest for key, kept in self._kept.items()}

    def get(self, key: Key) -> Kept[_T] | None:
        return self._kept.get(key)

    def put(self, key: Key, kept: Kept[_T]) -> bool:
        """Whether something else is there now."""
        before = self._kept.get(key)
        if key[0] in self.crowded or (before is not None and before.digest == kept.digest):
            return False
        self._kept[key] = kept
        objects, size = self._weigh(key[0], 0 if before else 1, kept.size - (before.size if before else 0))
        if objects > self._room.objects or size > self._room.size:
            self.crowded |= {key[0]}
            self._loads.pop(key[0])
            for other in [one for one in self._kept if one[0] == key[0]]:
                del self._kept[other]
        return True

    def drop(self, key: Key) -> bool:
        """Whether something has gone."""
        before = self._kept.pop(key, None)
        if before is None:
            return False
        if self._weigh(key[0], -1, -before.size)[0] == 0:
            del self._loads[key[0]]
        return True

    def same_as(self, other: "Holdings[_T]") -> bool:
        return self.crowded == other.crowded and self.digests == other.digests

    def _weigh(self, namespace: str, objects: int, size: int) -> tuple[int, int]:
        before = self._loads[namespace]
        self._loads[namespace] = load = before[0] + objects, before[1] + size
        return load
