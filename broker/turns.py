"""Who comes when there is not enough for all: each owner once before any owner again. Pure."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import TypeVar

_T = TypeVar("_T")


def in_turn(items: Iterable[_T], whose: Callable[[_T], str]) -> list[_T]:
    """The first of each owner, then the second of each, and so on: nobody's many keep out anybody else's few.

    Of those whose turn it is, and of one owner's, the order stays as it was.
    """
    had: Counter[str] = Counter()
    ranked: list[tuple[int, _T]] = []
    for item in items:
        owner = whose(item)
        ranked.append((had[owner], item))
        had[owner] += 1
    return [item for _, item in sorted(ranked, key=lambda one: one[0])]
