"""Cells that a spreadsheet takes for what they are. Pure."""

from typing import Final

# What makes a spreadsheet take a cell for a formula, also as full-width signs, which some take for the same.
_FORMULA: Final = frozenset("=+-@|%\t\r\n\uff1d\uff0b\uff0d\uff20")


def cell(text: str) -> str:
    """A text, with an apostrophe in front of what might be a formula."""
    return f"'{text}" if text[:1] in _FORMULA or text.lstrip()[:1] in _FORMULA else text
