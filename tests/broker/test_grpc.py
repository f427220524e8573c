import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.grpc import MESSAGE_BYTES, BadFrame, Frames, frame


@given(st.lists(st.binary(max_size=50), max_size=5), st.data())
def test_messages_are_found_however_the_stream_is_cut(messages, data):
    stream = b"".join(frame(message) for message in messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    frames, got = Frames(), []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        got += frames.feed(stream[begin:end])
    assert got == messages


def test_a_compressed_message_is_refused():
    with pytest.raises(BadFrame, match="compressed"):
        list(Frames().feed(b"\x01\0\0\0\0"))


def test_a_message_that_is_too_large_is_refused_by_its_announcement():
    with pytest.raises(BadFrame, match=f"{MESSAGE_BYTES + 1} bytes"):
        list(Frames().feed(b"\0" + (MESSAGE_BYTES + 1).to_bytes(4)))
