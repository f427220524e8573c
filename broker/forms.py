"""Forms with files (multipart/form-data): one body into parts, and parts into a body that is written anew. Pure.

Two parsers may find different parts in one form: by another end of a line, a quote or a header that only one of them minds. So what
could be read in two ways is refused, and nothing goes out as it came but the bytes within a part: their heads are ours, and so is what
separates them, which the caller cannot know before. The bytes of a part are never copied here.

Source: RFC 7578; RFC 2046, 5.1; how clients write them: openai-python (httpx), aiohttp, Node.js (undici), OkHttp, .NET.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from broker.errors import BadRequest

PARTS_MAX: Final = 64
HEAD_BYTES: Final = 1024  # of one part
TEXT_BYTES: Final = 64 << 10  # of one that is text, where a dialect allows no more
NAME_LENGTH: Final = 64
FILENAME_LENGTH: Final = 100
OCTETS: Final = "application/octet-stream"

_LINE: Final = b"\r\n"
_HEAD_END: Final = b"\r\n\r\n"
_JOINED_BYTES: Final = 64 << 10  # a value up to this goes out in one piece with its neighbours

# The boundary is every letter that RFC 2046 allows but the space; who quotes it and who does not is all the same
_FORM: Final = re.compile(rb"multipart/form-data[ \t]*;[ \t]*boundary=(\"?)([0-9A-Za-z'()+_,./:=?-]{1,70})\1[ \t]*", re.IGNORECASE)
_HEADER: Final = re.compile(rb"([A-Za-z-]{1,40}):([^\x00-\x08\x0a-\x1f\x7f]*)")
_DISPOSITION: Final = re.compile(rb"form-data[ \t]*", re.IGNORECASE)
_PARAMETER: Final = re.compile(rb";[ \t]*([A-Za-z*]{1,20})=(?:\"([^\"\\]*)\"|([!#$%&'*+.^_`|~0-9A-Za-z\[\]-]+))[ \t]*")
_MEDIA_TYPE: Final = re.compile(r"([a-z0-9][a-z0-9!#$&^_.+-]{0,63}/[a-z0-9][a-z0-9!#$&^_.+-]{0,63})[ \t]*((?:;.*)?)")
_ODD: Final = re.compile(r"[^A-Za-z0-9._-]")
_UTF8: Final = re.compile(r"|;[ \t]*charset=(\"?)(?:utf-8|us-ascii)\1")


@dataclass(frozen=True, slots=True, repr=False)
class Part:
    """One part of a form.

    value: a piece of the caller's body.
    filename: of letters, digits, dots, dashes and underscores alone, whatever the caller wrote; None = it is a field, not a file.
    media_type: in lower case and without parameters; "" where none was said.
    """

    name: str
    value: memoryview
    filename: str | None = None
    media_type: str = ""

    def text(self, most_bytes: int = TEXT_BYTES) -> str:
        """The value of a field.

        Raises:
            BadRequest: it is a file, too long, or no text in UTF-8.
        """
        if self.filename is not None:
            raise BadRequest(f"the part {self.name!r} has a filename: send it as a plain field", param=self.name)
        if len(self.value) > most_bytes:
            raise BadRequest(f"the part {self.name!r} is longer than {most_bytes} bytes: shorten it", param=self.name)
        try:
            text = str(self.value, "utf-8")
        except UnicodeDecodeError:
            raise BadRequest(f"the part {self.name!r} is not UTF-8: send text encoded in UTF-8", param=self.name) from None
        if "\0" in text:
            raise BadRequest(f"the part {self.name!r} has a NUL in its text: leave it out", param=self.name)
        return text


@dataclass(frozen=True, slots=True, repr=False)
class Form:
    """A form that goes out."""

    parts: Sequence[Part]

    def pieces(self, boundary: str) -> list[bytes | memoryview]:
        """Its body. `boundary`: that nobody can have written into a part; by chance, not by looking for it."""
        done: list[bytes | memoryview] = []
        small = bytearray()
        for part in self.parts:
            small += _head(part, boundary)
            if len(part.value) > _JOINED_BYTES:
                done += (bytes(small), part.value)
                small.clear()
            else:
                small += part.value
            small += _LINE
        small += f"--{boundary}--\r\n".encode("ascii")
        return [*done, bytes(small)]


def _head(part: Part, boundary: str) -> bytes:
    said = f'--{boundary}\r\nContent-Disposition: form-data; name="{part.name}"'
    if part.filename is not None:
        said += f'; filename="{part.filename}"\r\nContent-Type: {part.media_type or OCTETS}'
    return f"{said}\r\n\r\n".encode("ascii")


def read(body: bytes, content_type: bytes) -> list[Part]:
    """The parts of a form, in their order. Their names are the caller's own, and may be there twice.

    content_type: of the request.

    Raises:
        BadRequest: it is no form, or one that can be read in two ways; it has more than PARTS_MAX parts.
    """
    form = _FORM.fullmatch(content_type)
    if form is None:
        raise BadRequest(_no_form(content_type))
    delimiter = b"--" + form[2]
    return [_read_part(body, start, end) for start, end in _cut(body, delimiter)]


def _no_form(content_type: bytes) -> str:
    if content_type.lower().startswith(b"multipart/form-data"):
        return (
            "Content-Type must be 'multipart/form-data; boundary=B' and nothing besides, where B has 1 to 70 letters, digits and "
            "'()+_,-./:=?: leave it to your HTTP library"
        )
    return "this route takes a form: send multipart/form-data, with the sound as a file in the part 'file'"


def _cut(body: bytes, delimiter: bytes) -> Iterator[tuple[int, int]]:
    """Where each part, head and value, begins and ends.

    Every line that begins as a delimiter is one: inside a value it could be one to somebody else.
    """
    if not body.startswith(delimiter):
        raise BadRequest("the form must begin with its first boundary: send nothing before it, and the boundary that Content-Type names")
    separator = _LINE + delimiter
    at = len(delimiter)
    for _ in range(PARTS_MAX):
        start = at + len(_LINE)
        if body[at:start] != _LINE:
            raise BadRequest("a boundary of the form stands in a line with something else: choose a boundary that is in no part")
        end = body.find(separator, start)
        if end < 0:
            raise BadRequest("the form has no last boundary ('--' behind it): it was cut off, so send all of it")
        yield start, end
        at = end + len(separator)
        if body[at : at + 2] == b"--":
            if len(body) > at + 2 and (len(body) > at + 4 or not body.endswith(_LINE)):
                raise BadRequest("there is something behind the form's last boundary: send nothing after it")
            return
    raise BadRequest(f"the form has more than {PARTS_MAX} parts")


def _read_part(body: bytes, start: int, end: int) -> Part:
    split = body.find(_HEAD_END, start, min(end, start + HEAD_BYTES))
    if split < 0:
        raise BadRequest(f"a part of the form has no head, or one of more than {HEAD_BYTES} bytes: give it a Content-Disposition")
    headers = _read_headers(body[start:split])
    value = memoryview(body)[split + len(_HEAD_END) : end]
    name, filename = _read_disposition(headers.pop(b"content-disposition", b""))
    length = headers.pop(b"content-length", None)
    if length is not None and length != b"%d" % len(value):
        raise BadRequest(f"the part {name!r} says another Content-Length than it has: leave that header out of parts", param=name)
    media_type = _read_media_type(headers.pop(b"content-type", b""), name, is_file=filename is not None)
    for other in headers:
        raise BadRequest(
            f"the part {name!r} has the header {other.decode('ascii')}: a part may have Content-Disposition and Content-Type alone, "
            "and its value must stand there as it is",
            param=name,
        )
    return Part(name, value, filename, media_type)


def _read_headers(head: bytes) -> dict[bytes, bytes]:
    headers: dict[bytes, bytes] = {}
    for line in head.split(_LINE):
        found = _HEADER.fullmatch(line)
        if found is None:
            raise BadRequest("a header of a part of the form is not 'Name: value' on one line of its own")
        name = found[1].lower()
        if name in headers:
            raise BadRequest(f"a part of the form has the header {name.decode('ascii')} twice")
        headers[name] = found[2].strip(b" \t")
    return headers


def _read_disposition(said: bytes) -> tuple[str, str | None]:
    """The name of a part, and of its file."""
    kind = _DISPOSITION.match(said)
    at = kind.end() if kind else 0
    found: dict[bytes, bytes] = {}
    while kind and (one := _PARAMETER.match(said, at)):
        name = one[1].lower()
        if name == b"filename*":
            raise BadRequest("a part of the form has 'filename*': send 'filename' alone (RFC 7578, 4.2)")
        if name in found or name not in (b"name", b"filename"):
            raise BadRequest("Content-Disposition of a part may have one 'name' and one 'filename', and nothing besides")
        found[name] = one[2] if one[2] is not None else one[3]
        at = one.end()
    named = found.get(b"name", b"")
    if at < len(said) or not 0 < len(named) <= NAME_LENGTH or not named.isascii():
        raise BadRequest('a part of the form has no Content-Disposition like: form-data; name="file"; filename="audio.wav"')
    filename = found.get(b"filename")
    return named.decode("ascii"), None if filename is None else _plain(filename)


def _plain(filename: bytes) -> str:
    """Of a file's name only its ending means anything to a provider: what is no plain letter becomes an underscore."""
    return _ODD.sub("_", filename.decode("utf-8", "replace"))[-FILENAME_LENGTH:] or "_"


def _read_media_type(said: bytes, name: str, *, is_file: bool) -> str:
    """Parameters of a file's type are dropped; a field is UTF-8, whoever says so or not."""
    if not said:
        return ""
    found = _MEDIA_TYPE.fullmatch(said.decode("latin-1").lower())
    if found is None:
        raise BadRequest(f"the part {name!r} has a Content-Type that is none: write it as TYPE/SUBTYPE", param=name)
    kind: str = found[1]
    if kind.startswith(("multipart/", "message/")):
        raise BadRequest(f"the part {name!r} is a form of its own: send each file in a part of this form", param=name)
    if not is_file and (kind != "text/plain" or not _UTF8.fullmatch(found[2])):
        raise BadRequest(f"the part {name!r} is a field: leave out its Content-Type, and send text encoded in UTF-8", param=name)
    return kind
