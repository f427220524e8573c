"""Which HTTP/1.1 heads pass. The bytes are judged before any parser sees them, and again as headers. Pure.

llhttp refuses nearly all of this by itself; its leniencies have changed between versions, these lines do not. Everything
unusual is refused: what two parsers could read in two ways is how one request becomes two.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import httptools

from broker.errors import BadRequest, HeadersTooLarge, MethodNotAllowed, NotLocal, TooLarge

Headers = list[tuple[bytes, bytes]]

CREDENTIALS: Final = frozenset((b"authorization", b"proxy-authorization", b"x-api-key", b"api-key", b"x-goog-api-key", b"cookie"))
_METHODS: Final = {b"POST": "POST", b"GET": "GET", b"DELETE": "DELETE"}
_BODIES: Final = frozenset((b"application/json", b"multipart/form-data"))

_method = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z").match
_VISIBLE: Final = b"\t\r\n" + bytes(range(0x20, 0x7F))
_target = re.compile(rb"(/(?!/)[A-Za-z0-9._~!$&'()*+,=:@/%-]*)(?:\?([A-Za-z0-9._~!$&'()*+,;=:@/?%-]*))?\Z").match
_host = re.compile(rb"(?:[A-Za-z0-9]([A-Za-z0-9.-]{0,253}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?\Z").match
_digits = re.compile(rb"[0-9]{1,15}\Z").match
# Percent-escapes mean something in a model's name alone, and there only these: / : @ +
_escape_outside_model = re.compile(rb"%(?!2[FfBb]|3[Aa]|40)").search
USUAL_TARGET_BYTES: Final = 200
_MODELS: Final = b"/models/"


@dataclass(slots=True)
class Head:
    """One request's head that passed. Header names are lower case; `content_type` is without its parameters.

    length: of the body, 0 when there is none; meaningless when `chunked`.
    """

    method: str
    path: str
    query: str
    headers: Headers
    host: bytes = b""
    content_type: bytes = b""
    length: int = 0
    chunked: bool = False
    keep: bool = True
    expect: bool = False


def end_of_head(data: bytes, limit_bytes: int) -> int:
    """Where the head ends, 0 if it is not there yet.

    The verdict is the same however the bytes were cut on their way.

    Raises:
        BadRequest: a NUL, another control character, a byte beyond ASCII, a bare CR or LF.
        HeadersTooLarge: no end within limit_bytes.
    """
    at = data.find(b"\r\n\r\n", 0, limit_bytes)
    end = at + 4 if at >= 0 else 0
    head = data[: end or limit_bytes]
    lines = head.count(b"\r\n")
    whole = len(head) - head.endswith(b"\r")  # a last CR may be half of a line's end
    if head.translate(None, _VISIBLE) or head.count(b"\n") != lines or head.count(b"\r", 0, whole) != lines:
        raise BadRequest("The request's head has a control character, a byte beyond ASCII, or a bare CR or LF. Send plain HTTP/1.1.")
    if not end and len(data) >= limit_bytes:
        raise HeadersTooLarge(f"The request's head is larger than {limit_bytes} bytes. Send fewer or shorter headers.")
    return end


class _Collector:
    """What llhttp calls back."""

    __slots__ = ("headers",)

    def __init__(self) -> None:
        self.headers: Headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))


def read(raw: bytes, *, header_count: int, body_bytes: int) -> Head:
    """Judge and parse one complete head, final empty line included, that `end_of_head` has passed.

    Raises:
        BadRequest: it is not one plain HTTP/1.1 request in origin form.
        HeadersTooLarge: more than header_count headers.
        MethodNotAllowed: not GET, POST or DELETE.
        TooLarge: it announces more than body_bytes.
    """
    words = raw[: raw.find(b"\r\n")].split(b" ")
    if len(words) != 3 or words[2] != b"HTTP/1.1" or not _method(words[0]):  # noqa: PLR2004  method, target, version
        raise BadRequest("The first line is not that of an HTTP/1.1 request.")
    if b"\r\n " in raw or b"\r\n\t" in raw:
        raise BadRequest("A header is folded over several lines. Send it on one.")
    if raw.count(b"\r\n") - 2 > header_count:  # not the first line, nor the empty one
        raise HeadersTooLarge(f"The request has more than {header_count} headers.")
    method = _METHODS.get(words[0])
    if method is None:
        raise MethodNotAllowed("Only GET, POST and DELETE are served.")
    target = words[1]
    path, query = _split_usual(target) if len(target) < USUAL_TARGET_BYTES else _split(target)
    collector = _Collector()
    try:
        httptools.HttpRequestParser(collector).feed_data(raw)
    except httptools.HttpParserUpgrade:
        raise BadRequest(_NO_UPGRADE) from None
    except httptools.HttpParserError:
        raise BadRequest("The request's head is not well-formed HTTP/1.1.") from None
    head = Head(method, path, query, collector.headers)
    _weigh(head, body_bytes, underscores=b"_" in raw)
    return head


_NO_UPGRADE: Final = "Upgrade is not accepted: speak HTTP/1.1 (in Java: HttpClient.Version.HTTP_1_1)."


def path_of(raw: bytes) -> str:
    """The path that a refused head asked for, as far as it can be told: a refusal is worded in the dialect of its route."""
    words = raw.partition(b"\r\n")[0].split(b" ")
    target = _target(words[1]) if len(words) > 1 else None
    return target[1].decode("ascii") if target else ""


def _split(target: bytes) -> tuple[str, str]:
    """Path and query of an origin-form target in which nothing can be read in two ways."""
    found = _target(target)
    if not found:
        raise BadRequest("The request's target must be a plain path: no host, no fragment, no backslash, no ';', visible ASCII only.")
    path: bytes = found[1]
    if b".." in path or b"//" in path or b"/./" in path or path.endswith(b"/."):
        raise BadRequest("The path has an empty or a dot segment. Check the base URL for a surplus '/'.")
    if b"%" in path:
        model = path.find(_MODELS)
        if model < 0 or b"%" in path[:model] or _escape_outside_model(path):
            raise BadRequest("Percent-escapes are accepted in a model's name alone (%2F, %3A, %40, %2B).")
    return path.decode("ascii"), (found[2] or b"").decode("ascii")


# Agents call a handful of targets, over and over
_split_usual = lru_cache(maxsize=256)(_split)


def _weigh(head: Head, body_bytes: int, *, underscores: bool) -> None:
    """Fill in what the headers say of the message itself, and refuse what may not be said or not twice."""
    seen: set[bytes] = set()
    for name, value in head.headers:
        take = _TAKERS.get(name)
        if take is not None:
            if name in seen:
                raise BadRequest(f"There is more than one {name.decode('ascii')} header.")
            seen.add(name)
            take(head, value.strip(b" \t"), body_bytes)
        elif underscores and b"_" in name:  # to a CGI-like server behind us it is the same header as its twin with "-"
            raise BadRequest(f"The name of the header {name.decode('ascii')[:40]} has '_' in it. Write '-', or leave the header out.")
    if b"host" not in seen:
        raise BadRequest("There is no Host header.")
    if head.chunked and b"content-length" in seen:
        raise BadRequest("Content-Length and Transfer-Encoding exclude each other.")


def _take_host(head: Head, value: bytes, _: int) -> None:
    if not _host(value):
        raise BadRequest("The Host header is not HOST or HOST:PORT.")
    head.host = value.lower()


def _take_content_type(head: Head, value: bytes, _: int) -> None:
    head.content_type = value.partition(b";")[0].rstrip(b" \t").lower()


def _take_content_length(head: Head, value: bytes, body_bytes: int) -> None:
    if not _digits(value):
        raise BadRequest("Content-Length is not a number.")
    head.length = int(value)
    if head.length > body_bytes:
        raise TooLarge(f"The body is larger than {body_bytes} bytes.")


def _take_transfer_encoding(head: Head, value: bytes, _: int) -> None:
    if value.lower() != b"chunked":
        raise BadRequest("The only Transfer-Encoding accepted is chunked, alone.")
    head.chunked = True


def _take_content_encoding(_: Head, value: bytes, __: int) -> None:
    if value.lower() != b"identity":  # nobody unpacks what a caller packed: a small body must not become a large one
        raise BadRequest("The body must not be compressed.")


def _take_connection(head: Head, value: bytes, _: int) -> None:
    words = {word.strip() for word in value.lower().split(b",")}
    if not words <= {b"keep-alive", b"close"}:  # "Connection: x" would let a caller take header x away
        raise BadRequest(_NO_UPGRADE if b"upgrade" in words else "Connection may say keep-alive or close.")
    head.keep = b"close" not in words


def _take_expect(head: Head, value: bytes, _: int) -> None:
    if value.lower() != b"100-continue":
        raise BadRequest("The only expectation accepted is 100-continue.")
    head.expect = True


def _take_upgrade(_: Head, __: bytes, ___: int) -> None:
    raise BadRequest(_NO_UPGRADE)


def _take_once(_: Head, __: bytes, ___: int) -> None:
    """A credential: it may be there, once."""


_TAKERS: Final[dict[bytes, Callable[[Head, bytes, int], None]]] = {
    b"host": _take_host,
    b"content-type": _take_content_type,
    b"content-length": _take_content_length,
    b"transfer-encoding": _take_transfer_encoding,
    b"content-encoding": _take_content_encoding,
    b"connection": _take_connection,
    b"expect": _take_expect,
    b"upgrade": _take_upgrade,
    b"http2-settings": _take_upgrade,
    **dict.fromkeys(CREDENTIALS, _take_once),
}


def judge_body(head: Head) -> None:
    """Raises BadRequest for a body that is neither JSON nor multipart: the other types are those that a web page can send unasked.

    A page can send a form as well, but never without Origin.
    """
    if (head.length or head.chunked) and head.content_type not in _BODIES:
        raise BadRequest("The body must be application/json or multipart/form-data: set Content-Type.")


def judge_remote(head: Head) -> None:
    """The broker's own door: who asks is known from TLS, so any well-formed Host will do."""
    judge_body(head)


def local_judge(port: int) -> Callable[[Head], None]:
    """The rules of a door on loopback, which every program and every web page on the machine can reach.

    The judge raises NotLocal for a Host that is not ours (DNS rebinding: a page may reach us, but not under our name), and for
    Origin and Sec-Fetch-Site, which pages send and programs do not.
    """
    hosts = frozenset(f"{host}:{port}".encode() for host in ("127.0.0.1", "localhost", "[::1]"))

    def judge(head: Head) -> None:
        if head.host not in hosts:
            raise NotLocal(f"The Host header does not name this gateway: call it as 127.0.0.1:{port} or localhost:{port}.")
        if _says(head.headers, (b"origin", b"sec-fetch-site")):
            raise NotLocal("Origin and Sec-Fetch-Site are not accepted: this gateway serves programs, not web pages.")
        judge_body(head)

    return judge


def _says(headers: Headers, names: Iterable[bytes]) -> bool:
    return any(name in names for name, _ in headers)
