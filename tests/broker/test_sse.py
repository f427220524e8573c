import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import sse
from broker.errors import ProviderUnavailable

ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
DATA = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=12).map(str.encode)


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    """A stream with one kind of line ends, and the data of its events."""
    end = draw(ENDS)
    stream, all_data = b"", []
    for _ in range(draw(st.integers(0, 5))):
        lines = draw(st.lists(st.tuples(st.sampled_from([b"data: ", b"data:", b"event: ", b": ", b"id:"]), DATA), min_size=1, max_size=4))
        stream += b"".join(field + value + end for field, value in lines) + end
        data = [value[1:] if field == b"data:" and value.startswith(b" ") else value for field, value in lines if field.startswith(b"data")]
        all_data.append(b"\n".join(data))
    return stream, all_data


def cut_up(stream: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
    return [stream[a:b] for a, b in itertools.pairwise(places)]


@given(streams(), st.lists(st.integers(0, 200), max_size=12))
def test_any_cut_at_any_byte_gives_the_same_events(stream: tuple[bytes, list[bytes]], cuts: list[int]) -> None:
    raw, expected = stream
    buffer = sse.Buffer()
    taken = [buffer.take(piece) for piece in cut_up(raw, cuts)]
    rest = buffer.rest()
    assert b"".join(taken) + rest == raw
    assert rest.strip(b"\r\n") == b""
    events = [event for whole in taken for event in sse.split(whole)]
    assert [data for event in events if (data := sse.data(event))] == [data for data in expected if data]


@given(streams(), st.lists(st.integers(0, 200), max_size=12))
def test_what_is_given_out_always_ends_with_a_whole_event(stream: tuple[bytes, list[bytes]], cuts: list[int]) -> None:
    buffer = sse.Buffer()
    for piece in cut_up(stream[0], cuts):
        whole = buffer.take(piece)
        assert not whole or whole.endswith((b"\n\n", b"\r\r", b"\r\n\r\n", b"\r\n\r"))


@given(st.binary(max_size=80), st.lists(st.integers(0, 80), max_size=8))
def test_no_byte_is_lost_or_made_up(stream: bytes, cuts: list[int]) -> None:
    buffer = sse.Buffer()
    taken = [buffer.take(piece) for piece in cut_up(stream, cuts)]
    assert b"".join(taken) + buffer.rest() == stream
    assert all(b"".join(sse.split(whole)) == whole for whole in taken)


def test_one_byte_at_a_time_finds_an_end_of_every_kind() -> None:
    for end in (b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r\n"):
        buffer = sse.Buffer()
        out = [buffer.take(bytes([byte])) for byte in b"data: a" + end + b"data: b"]
        assert b"".join(out).startswith(b"data: a"), end
        assert buffer.rest().lstrip(b"\n") == b"data: b"


def test_an_event_without_an_end_is_bounded() -> None:
    buffer = sse.Buffer()
    assert buffer.take(b"data: 1\n\n" + b"x" * sse.EVENT_BYTES) == b"data: 1\n\n"
    with pytest.raises(ProviderUnavailable, match="too large"):
        buffer.take(b"x")


def test_a_byte_order_mark_and_comments_hide_nothing() -> None:
    assert sse.data(b"\xef\xbb\xbfdata: a\n\n") == b"a"
    assert sse.data(b": keep-alive\n\n") == b""
    assert sse.data(b"event: x\ndata\ndata:  b\ndatax: c\n\n") == b"\n b"


def test_events_are_split_and_nothing_is_lost_behind_the_last() -> None:
    assert sse.split(b"") == []
    assert sse.split(b"data: 1\n\ndata: 2\n\n") == [b"data: 1\n\n", b"data: 2\n\n"]
    assert sse.split(b"data: 1\n\ndata: 2") == [b"data: 1\n\n", b"data: 2"]
