import itertools
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import BadRequest, BrokerError, TooLarge
from broker.http1.body import CHUNK_BYTES, FREE_CHUNKS, LINE_BYTES, TRAILER_BYTES, Chunked, Sized


def take(body, *pieces):
    """(what is left over or None, the body)"""
    rest = None
    for piece in pieces:
        assert rest is None
        rest = body.feed(piece)
    return rest, body.whole()


def encode(pieces, extension=b"", trailers=b""):
    return b"".join(b"%x%b\r\n%b\r\n" % (len(p), extension, p) for p in pieces if p) + b"0\r\n%b\r\n" % trailers


def test_a_sized_body_ends_where_it_says():
    assert take(Sized(3), b"a", b"bcd") == (b"d", b"abc")
    assert take(Sized(3), b"ab") == (None, b"ab")
    assert take(Sized(0), b"") == (b"", b"")


def test_what_is_held_is_counted():
    body = Sized(10)
    body.feed(b"abc")
    assert body.held == 3
    chunked = Chunked(10)
    chunked.feed(b"5\r\nabc")
    assert chunked.held == 3


@given(st.lists(st.binary(min_size=1, max_size=30), max_size=5), st.lists(st.integers(0, 200), max_size=8), st.binary(max_size=10))
def test_any_body_survives_its_chunks_and_any_cutting(pieces, cuts, after):
    raw = encode(pieces, b";name=value", b"X: y\r\n")
    edges = [0, *sorted(c for c in cuts if c < len(raw)), len(raw)]
    body = Chunked(1000)
    for a, b in itertools.pairwise(edges[:-1]):
        assert body.feed(raw[a:b]) is None
    assert body.feed(raw[edges[-2] :] + after) == after
    assert body.whole() == b"".join(pieces)


@given(st.binary(max_size=80).map(lambda b: b"3\r\nabc\r\n" + b), st.integers(0, 90))
def test_cutting_changes_no_verdict(raw, cut):
    def verdict(*pieces):
        body = Chunked(100)
        try:
            for piece in pieces:
                rest = body.feed(piece)
                if rest is not None:
                    return "whole", body.whole()
        except BrokerError as error:
            return type(error), None
        return "more", None

    assert verdict(raw[:cut], raw[cut:]) == verdict(raw)


def test_a_chunk_that_would_pass_the_limit_is_refused_by_its_announcement():
    body = Chunked(10)
    assert body.feed(b"a\r\n0123456789\r\n") is None
    with pytest.raises(TooLarge):
        body.feed(b"1\r\n")
    with pytest.raises(TooLarge):
        Chunked(10).feed(b"b\r\n")


def test_a_chunk_line_of_exactly_the_limit_passes_and_a_byte_more_does_not():
    line = b"1;" + b"x" * (LINE_BYTES - 2)
    assert take(Chunked(10), line + b"\r\na\r\n0\r\n\r\n") == (b"", b"a")
    for pieces in ([line + b"x\r\n"], [line, b"x\r\n"], [line + b"x", b"\r\n"]):
        with pytest.raises(BadRequest):
            take(Chunked(10), *pieces)


def test_trailers_are_bounded_together_and_dropped():
    line = b"X: " + b"y" * (TRAILER_BYTES // 2 - 3) + b"\r\n"
    assert take(Chunked(10), b"0\r\n" + line * 2 + b"\r\n") == (b"", b"")
    with pytest.raises(BadRequest):
        take(Chunked(10), b"0\r\n" + line * 2 + b"X: y\r\n\r\n")


@pytest.mark.parametrize(
    "raw",
    [b"g\r\n", b"\r\n", b"-1\r\n", b"1 \r\n", b" 1\r\n", b"1\n", b"1\r\nab\r\n", b"1\r\na\n", b"1\r\na\r", b"1;\x00\r\n", b"1;\xff\r\n",
     b"1;a\rb\r\n", b"123456789\r\n", b"0\r\nno colon\r\n\r\n", b"0\r\n : x\r\n\r\n", b"0\r\nX: \x01\r\n\r\n", b"1, 1\r\n", b"0x1\r\n"],
)  # fmt: skip
def test_what_is_not_well_formed_is_refused(raw):
    with pytest.raises(BadRequest):
        take(Chunked(100), raw + b"x\r\n0\r\n\r\n")


def test_a_thousand_small_chunks_pass_and_one_more_does_not():
    chunks = b"1\r\nx\r\n"
    assert take(Chunked(10**6), chunks * (FREE_CHUNKS - 1) + b"0\r\n\r\n") == (b"", b"x" * (FREE_CHUNKS - 1))
    with pytest.raises(BadRequest, match="small chunks"):
        Chunked(10**6).feed(chunks * FREE_CHUNKS + b"0\r\n\r\n")


def test_any_number_of_chunks_of_a_fair_size_passes():
    chunk = b"%x\r\n%b\r\n" % (CHUNK_BYTES + 1, b"x" * (CHUNK_BYTES + 1))
    rest, body = take(Chunked(10**6), chunk * (4 * FREE_CHUNKS) + b"0\r\n\r\n")
    assert (rest, len(body)) == (b"", (CHUNK_BYTES + 1) * 4 * FREE_CHUNKS)


@pytest.mark.parametrize("body", [Chunked(1 << 20), Sized(1 << 20)], ids=["chunked", "sized"])
def test_a_body_in_small_pieces_is_kept_without_a_price_for_each(body):
    wire = b"2\r\nab\r\n" * 1000 if isinstance(body, Chunked) else b"ab" * 1000
    pieces = [wire[n : n + 2] for n in range(0, len(wire), 2)]
    tracemalloc.start()
    try:
        for piece in pieces:
            body.feed(bytes(bytearray(piece)))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert body.held == 2000
    assert kept < 2 * body.held
