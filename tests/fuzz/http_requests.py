"""Requests at a door: what passes is one request that h11 reads the same, and the verdict does not depend on how the bytes were cut."""

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace

import h11
from fuzz.cuts import ways_to_cut

from broker.errors import BrokerError
from broker.http1 import rules
from broker.http1.inbound import Connection
from broker.http1.limits import Limits
from broker.http1.reply import Reply, Request

WORDS = (
    *(
        "POST ",
        "GET ",
        "DELETE ",
        "/v1/chat/completions",
        "/v1beta/models/",
        " HTTP/1.1\r\n",
        "\r\n",
        "\r\n\r\n",
        "\n",
        "\r",
        "\0",
        "\t",
        " ",
    ),
    *("Host: a\r\n", "Content-Length: ", "Transfer-Encoding: chunked\r\n", "Content-Type: application/json\r\n", "Connection: close\r\n"),
    *(
        "Expect: 100-continue\r\n",
        "Upgrade: h2c\r\n",
        "content_length: 1\r\n",
        "0\r\n\r\n",
        "2\r\n{}\r\n",
        ";x=y",
        "%2F",
        "..",
        "//",
        "?a=b",
        "X: y\r\n",
    ),
)
LIMITS = Limits(head_bytes=600, header_count=8, body_bytes=120)
TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")


@dataclass
class Door:
    """A server that writes down what its connection makes of the bytes."""

    judge: object
    limits: Limits = LIMITS
    leaving: bool = False
    draining: bool = False
    buffer: memoryview = field(default_factory=lambda: memoryview(bytearray(8192)))
    loop: object = field(default_factory=lambda: SimpleNamespace(time=lambda: 0.0, create_future=lambda: None))
    held: int = 0
    request: Request | None = None
    refusal: str = ""

    def add(self, connection: Connection) -> None: ...
    def remove(self, connection: Connection) -> None: ...

    def hold_body(self, size: int) -> None:
        self.held += size

    def release_body(self, size: int) -> None:
        self.held -= size

    def start(self, request: Request, reply: Reply) -> None:
        assert self.request is None, "a second request before the first was answered"
        assert not self.refusal, "a request after a refusal"
        self.request = request
        assert reply.held == len(request.body), "bytes of the body are not all counted"

    def word(self, reply: Reply, error: BrokerError) -> None:
        assert self.request is None, "a refusal after the request was handed on"
        self.refusal = self.refusal or error.code


class Transport(asyncio.Transport):
    """Takes what is written to nobody."""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
    def write(self, data: object) -> None: ...
    def abort(self) -> None: ...


def check(data: bytes) -> None:
    for judge in (rules.judge_remote, rules.local_judge(4180)):
        verdicts = [feed(pieces, judge) for pieces in ways_to_cut(data)]
        assert all(verdict == verdicts[0] for verdict in verdicts[1:]), "the verdict depends on how the bytes were cut"
        request, refusal = verdicts[0]
        assert not (request and refusal)
        if request is not None:
            check_request(request)
            check_second_reader(data, request)


def feed(pieces: list[bytes], judge: object) -> tuple[tuple[object, ...] | None, str]:
    door = Door(judge)
    connection = Connection(door)  # type: ignore[arg-type]
    connection.connection_made(Transport())
    for piece in pieces:
        door.buffer[: len(piece)] = piece
        connection.buffer_updated(len(piece))
        if door.refusal:
            break
    if door.refusal:
        assert door.held == 0, "a refused body is still counted"
    got = door.request
    return (None if got is None else (got.method, got.path, got.query, tuple(got.headers), got.body)), door.refusal


def check_request(request: tuple[object, ...]) -> None:
    method, path, query, headers, body = request
    names = [name for name, _ in headers]
    assert method in ("GET", "POST", "DELETE")
    assert path.startswith("/")
    assert not any(segment in ("", ".", "..") for segment in path.split("/")[1:-1])
    assert path.rsplit("/", 1)[1] not in (".", "..")
    assert not set(";\\# \0") & set(path), "a separator in the path"
    assert all(0x20 < ord(letter) < 0x7F for letter in path + query)
    assert b"host" in names
    for name in (*rules.CREDENTIALS, b"host", b"content-length", b"content-type"):
        assert names.count(name) <= 1, "a header that must be there once is there twice"
    assert names.count(b"content-length") + names.count(b"transfer-encoding") <= 1, "the body's end is said twice"
    for name, value in headers:
        assert name, "a header has no name"
        assert TOKEN.issuperset(name), "a header's name is no token in lower case"
        assert all(byte == 9 or 0x20 <= byte < 0x7F for byte in value), "a control character in a value"
    assert len(body) <= LIMITS.body_bytes
    if b"content-length" in names:
        assert int(dict(headers)[b"content-length"]) == len(body)
    elif b"transfer-encoding" not in names:
        assert body == b""


def check_second_reader(data: bytes, request: tuple[object, ...]) -> None:
    """h11 was written from the RFC alone, and shares no code with llhttp."""
    method, path, query, headers, body = request
    reader = h11.Connection(h11.SERVER)
    reader.receive_data(data)
    try:
        head = reader.next_event()
        pieces: list[bytes] = []
        while isinstance(event := reader.next_event(), h11.Data):
            pieces.append(bytes(event.data))
    except h11.RemoteProtocolError as refusal:
        if "illegal chunk header" in str(refusal) and (b" ;" in data or b"\t;" in data):
            return  # RFC 9112 §7.1.1 has blanks before a chunk's extension, and h11 has not
        raise AssertionError(f"h11 refuses what we accept: {refusal}") from None
    assert isinstance(head, h11.Request)
    assert isinstance(event, h11.EndOfMessage), "h11 waits for more of this request"
    assert (head.method.decode(), head.target.decode()) == (method, f"{path}?{query}" if query or b"?" in head.target else path)
    assert [(name, plain(name, value)) for name, value in headers] == [tuple(pair) for pair in head.headers]
    assert b"".join(pieces) == body, "h11 reads another body"


def plain(name: bytes, value: bytes) -> bytes:
    """As h11 gives it: without blanks around it, and chunked in lower case."""
    return value.strip(b" \t").lower() if name == b"transfer-encoding" else value.strip(b" \t")
