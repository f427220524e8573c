"""Where something was written, so that a fault can point at it."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Origin:
    """A document in a file. `marks` has (line, column), from 1, of each path in it; "" is the document itself."""

    file: str
    marks: Mapping[str, tuple[int, int]] = field(repr=False)

    def place(self, path: str) -> str:
        """`file:line:column` of the path, else of the nearest thing around it that is there."""
        while path not in self.marks and path:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        line, column = self.marks.get(path, (1, 1))
        return f"{self.file}:{line}:{column}"
