"""Answers of a provider: any cut gives the same status, headers and body, or the same failure; nothing is read beyond its bounds."""

import asyncio
import socket
from types import SimpleNamespace

import h11
from fuzz.cuts import ways_to_cut

from broker.http1.limits import ClientLimits
from broker.http1.outbound import Connection

WORDS = (
    *(
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 204 \r\n",
        "\r\n",
        "\r\n\r\n",
        "\n",
        "\0",
        "HTTP/1.0 ",
        "HTTP/1.1 101 ",
    ),
    *(
        "Content-Length: ",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Connection: close\r\n",
        "X: y\r\n",
        "5\r\n",
    ),
    *("0\r\n\r\n", "2\r\n{}\r\n", ";ext", "content-type: text/event-stream\r\n", "fffffffff\r\n", "Set-Cookie: a=b\r\n"),
)
LIMITS = ClientLimits(head_bytes=400, header_count=8, buffer_bytes=1 << 20)


class Pool:
    """What a connection belongs to. Whether it would be used again is what matters here."""

    def __init__(self) -> None:
        self.loop = SimpleNamespace(time=lambda: 0.0)
        self.limits = LIMITS
        self.buffer = memoryview(bytearray(8192))
        self.generation = 0
        self.reusable: bool | None = None

    def add(self, connection: Connection) -> None: ...
    def remove(self, connection: Connection) -> None: ...
    def forget(self, connection: Connection) -> None: ...

    def give_back(self, connection: Connection, *, usable: bool) -> None:
        self.reusable = usable


class Transport(asyncio.Transport):
    def __init__(self, ours: socket.socket) -> None:
        super().__init__({"socket": ours})
        self.aborted = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True

    def close(self) -> None:
        self.aborted = True


def check(data: bytes) -> None:
    with socket.socket() as ours:
        verdicts = [feed(pieces, ours) for pieces in ways_to_cut(data)]
    plain = [verdict[:-1] for verdict in verdicts]
    assert all(verdict == plain[0] for verdict in plain[1:]), f"the answer depends on how the bytes were cut: {plain}"
    status, headers, body, complete, failure, _ = verdicts[0]
    assert not (complete and failure)
    if status:
        assert 200 <= status <= 999
        assert len(headers) <= LIMITS.header_count
        assert sum(len(name) + len(value) for name, value in headers) <= LIMITS.head_bytes
        assert all(not set(b"\r\n\0") & set(name + value) for name, value in headers), "a line break in a header"
    if complete:
        check_second_reader(data, status, body)
    if any(reusable for *_, reusable in verdicts):
        assert complete, "a connection is used again in the middle of an answer"


def feed(pieces: list[bytes], ours: socket.socket) -> tuple[object, ...]:
    pool = Pool()
    connection = Connection(pool)  # type: ignore[arg-type]
    transport = Transport(ours)
    connection.connection_made(transport)
    answer = connection.ask(1.0, 1.0)
    for piece in pieces:
        pool.buffer[: len(piece)] = piece
        connection.buffer_updated(len(piece))
        if answer.complete or transport.aborted:
            break
    failure = answer._error is not None  # which of several faults is met first is chance, too
    headers = tuple(answer.headers) if answer.status else ()  # without a status nobody looks at them
    body = b"" if failure else b"".join(answer._parts)  # how much of it came before the fault is chance
    return answer.status, headers, body, answer.complete, failure, pool.reusable


def check_second_reader(data: bytes, status: int, body: bytes) -> None:
    """Where h11 accepts the answer too, it must be the same one. It refuses some that llhttp and we let pass; those harm only their sender."""
    reader = h11.Connection(h11.CLIENT)
    reader.send(h11.Request(method="GET", target="/", headers=[("host", "a")]))
    reader.send(h11.EndOfMessage())
    reader.receive_data(data)
    pieces: list[bytes] = []
    try:
        while isinstance(head := reader.next_event(), h11.InformationalResponse):
            pass
        while isinstance(event := reader.next_event(), h11.Data):
            pieces.append(bytes(event.data))
    except h11.RemoteProtocolError:
        return
    assert isinstance(head, h11.Response)
    assert isinstance(event, h11.EndOfMessage), "h11 waits for more of this answer"
    assert (head.status_code, b"".join(pieces)) == (status, body), "h11 reads another answer"
