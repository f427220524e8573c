"""Texts of strangers, so that spreadsheets and terminals take them for what they are. Pure."""

from typing import Final

# What makes a spreadsheet take a cell for a formula, also as full-width signs, which some take for the same.
_FORMULA: Final = frozenset("=+-@|%\t\r\n\uff1d\uff0b\uff0d\uff20")


def cell(text: str) -> str:
    """A text, with an apostrophe in front of what might be a formula; a carriage return, which csv does not quote, is shown."""
    shown = text.replace("\r", "\\u000d")
    return f"'{shown}" if text[:1] in _FORMULA or text.lstrip()[:1] in _FORMULA else shown


def plain(text: str) -> str:
    """A text in which what would steer a terminal is shown, not obeyed."""
    return text if text.isprintable() else "".join(sign if sign.isprintable() else f"\\u{ord(sign):04x}" for sign in text)
