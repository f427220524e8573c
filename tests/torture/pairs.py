"""Who belongs to whom, where several may: pairs in which as many as possible find somebody (Kuhn's augmenting paths)."""

from collections import defaultdict
from collections.abc import Iterable


class Pairs:
    """Between two sides, each member of which is a number. Who once has a partner keeps one, if not the same."""

    def __init__(self) -> None:
        self._others: dict[int, dict[int, None]] = defaultdict(dict)
        self._ones: dict[int, dict[int, None]] = defaultdict(dict)
        self._of_one: dict[int, int] = {}
        self._of_other: dict[int, int] = {}

    def add(self, one: int, other: int) -> None:
        """These may be a pair."""
        self._others[one][other] = None
        self._ones[other][one] = None

    def pair(self, ones: Iterable[int], others: Iterable[int]) -> None:
        """Find a partner for each of these that has none and can have one; for `others` first."""
        for other in others:
            if other not in self._of_other:
                _seek(other, self._ones, self._of_one, self._of_other, set())
        for one in ones:
            if one not in self._of_one:
                _seek(one, self._others, self._of_other, self._of_one, set())

    def found(self) -> list[tuple[int, int]]:
        return list(self._of_one.items())


def _seek(who: int, may: dict[int, dict[int, None]], there: dict[int, int], here: dict[int, int], seen: set[int]) -> bool:
    """Give `who` a partner; one that has another is taken when that finds a new one. there, here: the pairs as each side has them."""
    for partner in may[who]:
        if partner in seen:
            continue
        seen.add(partner)
        if partner not in there or _seek(there[partner], may, there, here, seen):
            there[partner], here[who] = who, partner
            return True
    return False
