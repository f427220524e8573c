"""Audit files line by line."""

import io

from broker.audit import lines
from broker.audit.reading import lines_of


def test_lines_come_as_they_stand_with_their_numbers_and_one_without_end_as_nothing(monkeypatch):
    monkeypatch.setattr(lines, "LINE_BYTES", 16)
    file = io.BytesIO(b"a\n" + b"x" * 100 + b"\n" + b"\n" + b"b" * 15 + b"\n" + b"torn")
    assert list(lines_of(file)) == [(1, b"a\n"), (2, b""), (3, b"\n"), (4, b"b" * 15 + b"\n"), (5, b"torn")]
