import tracemalloc
from collections.abc import Mapping

import pytest

from broker.chat import Usage
from broker.errors import ProviderUnavailable
from broker.metering import StreamMeter, as_object, count, read_object


class Recording:
    """A tally that keeps what it is shown, and drops events that say "drop"."""

    def __init__(self) -> None:
        self.usage: Usage | None = Usage(1, 2)
        self.done = False
        self.failed = False
        self.shown: list[object] = []

    def is_plain(self, events: bytes) -> bool:
        return b"look" not in events

    def answer(self, value: Mapping[str, object]) -> None:
        self.shown.append(value)

    def event(self, data: bytes) -> bool:
        self.shown.append(data)
        return b"drop" not in data


def test_plain_events_pass_unread() -> None:
    tally = Recording()
    assert StreamMeter(tally).stream(b"data: a\n\ndata: b\n\n") == b"data: a\n\ndata: b\n\n"
    assert tally.shown == []


def test_only_events_with_data_are_shown_and_those_unasked_for_are_taken_out() -> None:
    tally = Recording()
    out = StreamMeter(tally).stream(b": look\n\ndata: look 1\n\ndata: look, drop\n\ndata: 2\n\n")
    assert out == b": look\n\ndata: look 1\n\ndata: 2\n\n"
    assert tally.shown == [b"look 1", b"look, drop"]


def test_what_is_held_back_comes_with_its_end() -> None:
    meter = StreamMeter(Recording())
    assert meter.stream(b"data: look") == b""
    assert meter.stream(b"\n") == b""
    assert meter.end() == b"data: look\n\n\n"
    assert meter.end() == b""


def test_an_unasked_event_at_the_end_is_taken_out_too() -> None:
    meter = StreamMeter(Recording())
    assert meter.stream(b"data: drop") == b""
    assert meter.end() == b""


def test_a_meter_says_what_its_tally_says() -> None:
    tally = Recording()
    meter = StreamMeter(tally)
    tally.done = tally.failed = True
    assert (meter.usage, meter.done, meter.failed) == (Usage(1, 2), True, True)
    assert meter.whole(b'{"usage":1}') == Usage(1, 2)
    assert tally.shown == [{"usage": 1}]


@pytest.mark.parametrize("value", [True, False, -1, 2**31, 1.0, "1", None, [1]])
def test_what_is_no_figure_is_not_counted(value: object) -> None:
    assert count(value) is None


def test_figures_are_counted() -> None:
    assert (count(0), count(2**31 - 1)) == (0, 2**31 - 1)


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"[1]", b"{", b"1", b'{"a":1', b'{"a":1}{}', b"\xef\xbb\xbf{}", b"[" * 100_000),
        *(b'{"a":%b}' % (b"[" * 100_000), b'{"type":"\xff"}', b'{"usage":{"prompt_tokens":1e400}}'),
    ],
)
def test_what_is_no_object_is_a_fault_of_the_provider(data: bytes) -> None:
    with pytest.raises(ProviderUnavailable):
        read_object(data)


@pytest.mark.parametrize("body", [b'{"a":"\xff"}', b'{"a":"' + b"\xc3\xa9" * 100_000 + b'\xc3"}'])
def test_an_answer_that_is_not_utf_8_is_a_fault_of_the_provider(body: bytes) -> None:
    with pytest.raises(ProviderUnavailable):
        StreamMeter(Recording()).whole(body)


@pytest.mark.parametrize("cut", range(4))
def test_characters_of_any_width_pass_wherever_the_slices_fall(cut: int) -> None:
    body = b'{"a":"' + b"x" * cut + "\U0001f600".encode() * 50_000 + b'"}'
    assert StreamMeter(Recording()).whole(body) == Usage(1, 2)


def test_of_an_object_the_members_are_read_that_tallies_look_at() -> None:
    assert read_object(b'{"a":[1],"usage":{"x":1},"choices":[],"type":"t","error":null,"message":{}}') == {
        "usage": {"x": 1},
        "choices": [],
        "type": "t",
        "error": None,
        "message": {},
    }
    assert read_object(b"{}") == {}


@pytest.mark.parametrize("name", ["a", "choices", "usage", "error"])
def test_a_member_that_would_unfold_is_not_built(name: str) -> None:
    """A list of empty lists has three bytes each on the wire and 64 in memory."""
    bomb = b'{"%b":[' % name.encode() + b"[]," * (1 << 20) + b"[]]}"
    read_object(b"{}")
    tracemalloc.start()
    read = read_object(bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * len(bomb)
    assert read == ({} if name == "a" else {name: True})


def test_what_is_no_object_is_an_empty_one() -> None:
    assert as_object([1]) == {}
    assert as_object({"a": 1}) == {"a": 1}
