"""JSON bodies at C speed: split into members whose bytes stay as they came, judged, and put together again. Pure.

Why splitting: two parsers may disagree on a duplicate key, so a body that is judged here must not be able to mean something
else at the provider. No object that is judged here has a key twice, and what is sent is written anew from unique members. Some
parsers (Go's, .NET's) take "Model" for "model" too, so no key that is judged here has capitals: no dialect has any.
What is not judged is not parsed either: `msgspec.Raw` keeps its bytes.
"""

import json
import re
from collections.abc import Mapping
from math import isinf
from typing import Final, Never

import msgspec
from msgspec import Raw

from broker.errors import BadRequest

MODEL_LENGTH: Final = 253 + 64  # a model's name and the namespace in front of it (docs/objects.md, `spec.models[]`)
MEMBERS_MAX: Final = 1000  # of one object that is judged
OBJECTS_MAX: Final = 20_000  # messages, parts and tools of one request
VALUES_MAX: Final = 500_000  # commas in one body; a context window of a million tokens, full of prose, has a sixth of them
COUNT_MAX: Final = 2**31 - 1  # of tokens, in requests and in answers
_COUNT_DIGITS: Final = len(str(COUNT_MAX))

_OBJECT: Final = msgspec.json.Decoder(dict[str, Raw])
_ARRAY: Final = msgspec.json.Decoder(list[Raw])
_OBJECTS: Final = msgspec.json.Decoder(list[dict[str, Raw]])
_TEXT: Final = msgspec.json.Decoder(str)
_BOOLEAN: Final = msgspec.json.Decoder(bool)

_OBJECT_OPENS: Final = ord("{")
_STRING_OPENS: Final = ord('"')
_NULL: Final = ord("n")
_NUMBER_OPENS: Final = frozenset(b"-0123456789")
_INFINITE_LENGTH: Final = len("1e309")  # no shorter number is beyond range
_NUMBER_LENGTH: Final = 400  # reading a longer one takes time that grows with its square
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
# Every escape in turn, so that an escaped backslash before a "u" misleads nobody. Fails at the first half of a pair alone.
_NO_LONE_SURROGATE: Final = re.compile(
    rb"(?:[^\\]++|\\[^u]|\\u(?![dD][89a-fA-F])|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})*+", re.DOTALL
)

Members = dict[str, Raw]


def open_body(body: bytes) -> Members:
    """The members of a request body.

    Raises:
        BadRequest: not one JSON object in UTF-8, nested too deeply, a key twice, half a surrogate pair, a number beyond range.
    """
    if len(body) > VALUES_MAX and body.count(b",") > VALUES_MAX:
        raise BadRequest("the body has too many values: a request of this kind has no use for them")
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError:
            raise BadRequest("the body is not UTF-8: send JSON encoded in UTF-8") from None
    if _SURROGATE.search(body) and not _NO_LONE_SURROGATE.fullmatch(body):
        raise BadRequest("the body has half a surrogate pair in a string: send whole characters")
    members = split(body, "the body")
    for name, value in members.items():
        if len(value) >= _INFINITE_LENGTH and memoryview(value)[0] in _NUMBER_OPENS and _is_beyond_range(value):
            raise BadRequest(f"{name[:64]!r} is a number beyond range", param=name[:64])
    return members


def _is_beyond_range(number: Raw) -> bool:
    return len(number) > _NUMBER_LENGTH or isinf(float(bytes(number)))


def split(raw: bytes | Raw, what: str) -> Members:
    """The members of one object, whose keys are unique. `what` names it to the caller.

    Raises:
        BadRequest: it is no object, or has a key twice, or one with capitals.
    """
    try:
        members = _OBJECT.decode(raw)
    except msgspec.ValidationError:
        raise BadRequest(f"{what} must be a JSON object", param=what) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise BadRequest(f"{what} is not well-formed JSON", param=what) from None
    except RecursionError:
        raise BadRequest(f"{what} is nested too deeply", param=what) from None
    if len(members) > MEMBERS_MAX:
        raise BadRequest(f"{what} has more than {MEMBERS_MAX} members", param=what)
    _refuse_capitals(members, what)
    if len(raw) != _compact_bytes(members) and not _is_spaced(raw, members):
        _search_duplicate(raw, what)
    return members


def split_each(raw: Raw, what: str) -> list[Members]:
    """The members of each object of an array; no object has a key twice.

    Raises:
        BadRequest: it is no array of objects, or one of them has a key twice, or one with capitals.
    """
    try:
        each = _OBJECTS.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise BadRequest(f"{what!r} must be an array of objects", param=what) from None
    except RecursionError:
        raise BadRequest(f"{what!r} is nested too deeply", param=what) from None
    if len(each) > OBJECTS_MAX:
        raise BadRequest(f"{what!r} has more than {OBJECTS_MAX} entries", param=what)
    if len(raw) == 1 + len(each) + sum([_compact_bytes(members) for members in each]):
        for members in each:
            _refuse_capitals(members, what)
        return each
    return [split(one, what) for one in read_array(raw, what)]


def _refuse_capitals(members: Members, what: str) -> None:
    """Also of a letter that is another one's capital to somebody: a long s, the sign of Kelvin, an i without a dot."""
    names = "".join(members)
    if names.upper().casefold() != names:
        name = next(name for name in members if name.upper().casefold() != name)
        raise BadRequest(
            f"{what} has the key {name[:64]!r}: some servers would take it for another one, so write it in small letters", param=name[:64]
        )


def _compact_bytes(members: Members) -> int:
    """The bytes of an object with these members, written without spaces, or less.

    So an object with a key twice has always more bytes: an object of exactly these has none. Keys that need escapes or more
    than a byte a character, and an object without members, have more bytes than are counted here, and take the longer way.
    """
    size = 1 + 4 * len(members)  # the braces, less one comma; quotes, colon and comma of each member
    for name, value in members.items():
        size += len(name) + len(value)
    return size


def _is_spaced(raw: bytes | Raw, members: Members) -> bool:
    """Written as Python's json does by default: rebuilt and compared, since a length alone could be met by a second key."""
    rebuilt = b", ".join(b'"%b": %b' % (name.encode(), value) for name, value in members.items())
    return b"{%b}" % rebuilt == bytes(raw)


def _search_duplicate(raw: bytes | Raw, what: str) -> None:
    """Read every key, in whatever way the object is written."""
    outermost: list[tuple[str, object]] = []

    def keep(pairs: list[tuple[str, object]]) -> None:
        nonlocal outermost
        outermost = pairs  # objects end from the inside out: the last one is the one that is judged

    try:  # numbers are measured, not read: one of ten thousand digits must not cost more
        json.loads(bytes(raw), object_pairs_hook=keep, parse_int=len, parse_float=len)
    except (ValueError, RecursionError):  # the other parser took it, with a few frames to spare
        raise BadRequest(f"{what} is nested too deeply", param=what) from None
    seen: set[str] = set()
    for name, _ in outermost:
        if name in seen:
            raise BadRequest(f"{what} has the key {name[:64]!r} twice", param=name[:64])
        seen.add(name)


def join(members: Mapping[str, bytes | Raw]) -> bytes:
    """One object again, each value byte for byte as given."""
    pieces: list[bytes | Raw] = []
    for name, value in members.items():
        pieces += (b',"%b":' % name.encode() if name.isidentifier() else b",%b:" % quote(name), value)
    return b"{%b}" % b"".join(pieces)[1:]


def quote(text: str) -> bytes:
    return msgspec.json.encode(text)


def read_model(members: Members) -> str:
    """The model that is asked for.

    Raises:
        BadRequest: none, no text, empty, too long, or with characters that could forge a line somewhere.
    """
    raw = members.get("model")
    if raw is None:
        raise BadRequest("the body names no model: add the field 'model'", param="model")
    return judge_model(read_text(raw, "model"))


def judge_model(model: str) -> str:
    """A model's name that may be one. Raises as `read_model`."""
    if not model or len(model) > MODEL_LENGTH:
        raise BadRequest(f"'model' must have 1 to {MODEL_LENGTH} characters", param="model")
    if _CONTROL.search(model):
        raise BadRequest("'model' has control characters", param="model")
    return model


def read_text(raw: Raw, param: str) -> str:
    try:
        return _TEXT.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise BadRequest(f"{param!r} must be a string", param=param) from None


def read_flag(members: Members, name: str) -> bool | None:
    """A boolean; None when it is absent or null."""
    raw = given(members, name)
    if raw is None:
        return None
    try:
        return _BOOLEAN.decode(raw)
    except msgspec.DecodeError:
        raise BadRequest(f"{name!r} must be true or false", param=name) from None


def read_count(members: Members, name: str, *, most: int = COUNT_MAX) -> int | None:
    """A whole number from 1; None when it is absent or null. `5.0` and `"5"` are not what they look like to every parser."""
    raw = given(members, name)
    if raw is None:
        return None
    digits = bytes(raw)
    if len(digits) > _COUNT_DIGITS or not digits.isdigit() or not 1 <= int(digits) <= most:
        raise BadRequest(f"{name!r} must be a whole number from 1 to {most}", param=name)
    return int(digits)


def read_array(raw: Raw, param: str) -> list[Raw]:
    try:
        return _ARRAY.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        raise BadRequest(f"{param!r} must be an array", param=param) from None


def given(members: Members, name: str) -> Raw | None:
    """A member that is there and not null: both vendors read null as absent."""
    raw = members.get(name)
    return None if raw is None or memoryview(raw)[0] == _NULL else raw


def is_object(raw: Raw) -> bool:
    return memoryview(raw)[0] == _OBJECT_OPENS


def is_text(raw: Raw) -> bool:
    return memoryview(raw)[0] == _STRING_OPENS


def refuse_members(members: Members, reasons: Mapping[str, str]) -> None:
    """Refuse what would make the bounds or the grant false, with the reason.

    Raises:
        BadRequest: one of these members is given.
    """
    for name in members.keys() & reasons.keys():
        if given(members, name) is not None and not _is_false(members[name]):
            raise BadRequest(f"{name!r} is not taken here: {reasons[name]}", param=name)


def _is_false(raw: Raw) -> bool:
    return bytes(memoryview(raw)[:5]) == b"false"


def reject(what: str, param: str) -> Never:
    raise BadRequest(what, param=param)
