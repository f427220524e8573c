"""The same bytes through Envoy, set up as at an edge, and through our doors: nothing that it refuses may get through us.

"Through" means that a whole request came out at the other end. Envoy may take more than we do; that is listed, and no fault.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import httptools
import pytest_asyncio
from support.envoy import envoy
from support.hostile_requests import GOOD, LOCAL_REFUSED, REFUSED, ask, at
from support.raw_http import QUICK, Door, door

PATIENCE_S = 0.5
AT_A_TIME = 64

# Each of these is put at each of the places of two honest requests: what a fuzzer would find first
ODD = [
    b"\0",
    b"\t",
    b"\x0b",
    b"\x0c",
    b"\r",
    b"\n",
    b"\r\n",
    b" ",
    b",",
    b";",
    b":",
    b'"',
    b"\\",
    b"#",
    b"%",
    b"_",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"0",
    b"+",
    b"-",
]
SIZED = ask("openai", b"gpt", b"X-Trace: abc\r\n")
CHUNKED = (
    b"POST /v1/chat/completions?a=b HTTP/1.1\r\nHost: @\r\nContent-Type: application/json\r\nConnection: close\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n5;a=b\r\n{    \r\n1\r\n}\r\n0\r\nX-Sum: 1\r\n\r\n"
)
PLACES = {
    SIZED: [b"POST", b" /v1", b"/chat", b" HTTP", b"/1.1\r", b"\r\nHost", b"st: @", b": @", b"\r\nContent-T", b"X-Tr", b"ace:", b": abc", b"abc", b"bc\r\n",
            b"Content-Length", b"-Length", b": 75", b"75\r", b"5\r\n\r", b"\r\n\r\n{"],
    CHUNKED: [b"?a=b", b"=b HTTP", b"Transfer-E", b"-Enc", b": chunk", b"chunked", b"unked", b"\r\n\r\n5", b"5;a", b";a=b", b"a=b\r\n{", b"=b\r\n{", b"\r\n{", b"{ ",
              b"\r\n1\r", b"1\r\n}", b"\r\n}", b"}\r\n0", b"\r\n0", b"0\r\nX", b"X-Sum", b"Sum:", b": 1\r", b"1\r\n\r\n"],
}  # fmt: skip


def mutations() -> Iterator[tuple[str, bytes]]:
    for kind, (base, places) in zip(("sized", "chunked"), PLACES.items(), strict=True):
        for place in places:
            at_byte = base.rindex(place) if base.count(place) > 1 else base.index(place)
            for odd in ODD:
                yield f"{kind}: {odd!r} before {place!r}", base[:at_byte] + odd + base[at_byte:]
            for end in range(1, 3):
                yield f"{kind}: {end} bytes less at {place!r}", base[:at_byte] + base[at_byte + end :]
            yield f"{kind}: {place!r} twice", base[:at_byte] + place + base[at_byte:]


CASES = {
    **{f"good: {name}": raw for name, raw in GOOD.items()},
    **{f"refused: {name}": raw for name, (raw, _) in REFUSED.items()},
    **{f"local: {name}": raw for name, raw in LOCAL_REFUSED.items()},
    **dict(mutations()),
}


# What we take though an edge should not, and why
DELIBERATE = {
    "good: a model with a slash in the path": "models are named vendor/model, SDKs write that slash as %2F, and no path is ever unescaped on its way",
}
NUMBERS = {name: number for number, name in enumerate(CASES)}


class Origin(asyncio.Protocol):
    """What stands behind Envoy: counts whole requests, by the number that each case puts into its query."""

    def __init__(self, whole: set[bytes]) -> None:
        self._whole = whole
        self._parser = httptools.HttpRequestParser(self)
        self._case = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        with contextlib.suppress(httptools.HttpParserError):
            self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"user-agent":
            self._case = value

    def on_message_complete(self) -> None:
        self._whole.add(self._case)
        self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")


@dataclass
class Rivals:
    """Two ways through, and which cases came out of each."""

    envoy_port: int
    ours: Door
    through_envoy: set[bytes]

    async def through(self, name: str) -> tuple[bool, bool]:
        """Whether a case got through Envoy, and through us."""
        raw, case = CASES[name], b"case-%d" % NUMBERS[name]
        # after the first line: the one place that all cases have, and that none is about
        first, lf, rest = raw.partition(b"\r\n")
        marked = first + lf + b"User-Agent: " + case + b"\r\n" + rest if rest.lstrip(b"\r\n") else raw
        await asyncio.gather(say(self.envoy_port, at(marked, self.envoy_port)), say(self.ours.port, at(marked, self.ours.port)))
        return case in self.through_envoy, any(request.header(b"user-agent") == case for request in self.ours.requests)


async def say(port: int, raw: bytes) -> None:
    """Send it, and wait until the other side has had its say or its deadline has passed."""
    with contextlib.suppress(ConnectionError, TimeoutError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            async with asyncio.timeout(4 * PATIENCE_S):
                writer.write(raw)
                while data := await reader.read(65536):
                    if not data.startswith(b"HTTP/1.1 100"):
                        return
        finally:
            writer.transport.abort()


@pytest_asyncio.fixture(loop_scope="session")
async def rivals(tmp_path) -> AsyncIterator[Rivals]:
    through: set[bytes] = set()
    origin = await asyncio.get_running_loop().create_server(lambda: Origin(through), "127.0.0.1", 0)
    async with (
        door(limits=QUICK) as ours,
        envoy(tmp_path, origin.sockets[0].getsockname()[1], patience_s=PATIENCE_S) as port,
    ):
        yield Rivals(port, ours, through)
    origin.close()
    await origin.wait_closed()


async def test_nothing_that_envoy_refuses_gets_through_us(rivals, tally):
    verdicts: dict[str, tuple[bool, bool]] = {}
    waiting = iter(CASES)

    async def work() -> None:
        for name in waiting:
            verdicts[name] = await rivals.through(name)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_A_TIME):
            group.create_task(work())

    assert len(verdicts) == len(CASES) > 900
    assert verdicts["good: a plain POST"] == verdicts["good: a chunked body"] == (True, True)
    assert verdicts["refused: CL and TE"] == (False, False)
    for name in [name for name, verdict in verdicts.items() if verdict == (False, True)]:
        verdicts[name] = await rivals.through(name)  # alone: on a busy machine a deadline may have spoken for Envoy
    ours_alone = [name for name, verdict in verdicts.items() if verdict == (False, True)]
    both, theirs_alone = ([name for name, verdict in verdicts.items() if verdict == kind] for kind in ((True, True), (True, False)))
    print("Envoy alone takes:", *theirs_alone, sep="\n  ")  # noqa: T201  pytest -s shows it
    print("both take:", *both, sep="\n  ")  # noqa: T201
    with tally.tried("Envoy's verdict", at="both", cases=len(both)):
        assert len(both) > 20
    with tally.tried("Envoy's verdict", at="Envoy, which alone lets them through", cases=len(theirs_alone)):
        assert theirs_alone
    with tally.tried("Envoy's verdict", at="neither", cases=len(verdicts) - len(both) - len(theirs_alone) - len(DELIBERATE)):
        assert ours_alone == list(DELIBERATE)
