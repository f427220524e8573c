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
    out = StreamMeter(tally).stream(b": look\n\ndata: 1\n\ndata: drop\n\ndata: 2\n\n")
    assert out == b": look\n\ndata: 1\n\ndata: 2\n\n"
    assert tally.shown == [b"1", b"drop", b"2"]


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
    assert meter.whole(b'{"a":1}') == Usage(1, 2)
    assert tally.shown == [{"a": 1}]


@pytest.mark.parametrize("value", [True, False, -1, 2**31, 1.0, "1", None, [1]])
def test_what_is_no_figure_is_not_counted(value: object) -> None:
    assert count(value) is None


def test_figures_are_counted() -> None:
    assert (count(0), count(2**31 - 1)) == (0, 2**31 - 1)


@pytest.mark.parametrize("data", [b"", b"[1]", b"{", b"1", b'{"a":"\xff"}', b"[" * 100_000, b"{}"])
def test_what_is_no_object_is_a_fault_of_the_provider(data: bytes) -> None:
    with pytest.raises(ProviderUnavailable):
        read_object(data)


def test_an_object_is_read_and_everything_else_is_empty() -> None:
    assert read_object(b'{"a":[1]}') == {"a": [1]}
    assert as_object([1]) == {}
    assert as_object({"a": 1}) == {"a": 1}
