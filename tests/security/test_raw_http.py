"""What no parser may read in two ways is refused however it is cut. That each row is refused at both doors: tests/hostile."""

import asyncio
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.hostile_requests import GET, GOOD, REFUSED, at
from support.raw_http import QUICK, door, send, statuses

from broker.errors import BrokerError
from broker.http1 import rules
from broker.http1.body import Chunked

both = pytest.mark.parametrize("local", [False, True], ids=["broker", "gateway"])


@both
async def test_what_is_plain_passes(local):
    async with door(local=local) as d:
        for name, raw in GOOD.items():
            got = await send(d.port, at(raw, d.port) + at(GET, d.port) + b"Connection: close\r\n\r\n")
            assert statuses(got) == [200], name  # and what was pipelined behind it was never begun
        assert len(d.requests) == len(GOOD)


@both
@pytest.mark.parametrize("name", REFUSED)
async def test_the_verdict_does_not_depend_on_how_the_bytes_are_cut(name, local):
    raw, status = REFUSED[name]
    async with door(local=local) as d:
        raw = at(raw, d.port)
        middle = len(raw) // 2
        got = await send(d.port, raw[:1], raw[1:middle], raw[middle:-1], raw[-1:])
        assert statuses(got) == [status]
        assert b"connection: close\r\n" in got
        assert d.requests == []


@pytest.mark.parametrize("host", [b"127.0.0.1:%d", b"localhost:%d", b"LOCALHOST:%d", b"[::1]:%d"])
async def test_the_local_door_knows_its_own_names(host):
    async with door(local=True) as d:
        got = await send(d.port, GET.replace(b"@", host % d.port) + b"Connection: close\r\n\r\n")
        assert statuses(got) == [200]


def verdict(pieces: list[bytes]) -> tuple[str, bytes]:
    """What the rules say of these bytes in these pieces: a refusal's code, or the request's own bytes."""
    data, head, body = b"", None, None
    try:
        for given_piece in pieces:
            piece = given_piece
            if body is None:
                data += piece
                end = rules.end_of_head(data, 4096)
                if not end:
                    continue
                head = rules.read(data[:end], header_count=16, body_bytes=4096)
                body = Chunked(4096) if head.chunked else bytearray()
                piece = data[end:]
            if isinstance(body, Chunked):
                rest = body.feed(piece)
                if rest is not None:
                    return "whole", body.whole()
            else:
                body += piece
                if len(body) >= head.length:
                    return "whole", bytes(body[: head.length])
    except BrokerError as error:
        return error.code, b""
    return "more", b""


raw_requests = st.one_of(
    st.sampled_from([raw for raw, _ in REFUSED.values()] + list(GOOD.values())),
    st.lists(
        st.sampled_from(
            [b"GET", b"POST", b" ", b"/v1/models", b" HTTP/1.1", b"\r\n", b"\n", b"\r", b"Host: a", b"Content-Length: 3",
             b"Transfer-Encoding: chunked", b"\r\n\r\n", b"3\r\nabc\r\n", b"0\r\n\r\n", b":", b"\0", b"\xff", b"x" * 300, b"x" * 5000]
        ),
        max_size=14,
    ).map(b"".join),
    st.binary(max_size=200),
)  # fmt: skip


@given(raw_requests, st.lists(st.integers(0, 6000), max_size=6))
def test_any_cutting_gives_the_same_verdict(raw, cuts):
    raw = raw.replace(b"@", b"a:1")
    edges = [0, *sorted(c for c in cuts if c < len(raw)), len(raw)]
    pieces = [raw[a:b] for a, b in itertools.pairwise(edges)]
    assert verdict(pieces) == verdict([raw])
    assert verdict([bytes([byte]) for byte in raw]) == verdict([raw])


@settings(max_examples=60)
@given(raw_requests, st.binary(max_size=20))
def test_no_bytes_crash_a_door_or_become_two_requests(raw, tail):
    async def scenario() -> None:
        async with door(limits=QUICK) as d:
            got = await send(d.port, (raw + tail + GET).replace(b"@", b"a:1") + b"\r\n")
            assert len(d.requests) <= 1
            assert len(statuses(got)) <= 1
            assert not [status for status in statuses(got) if status == 500]

    asyncio.run(scenario())
