"""Ids of kept state on their way in and out: what goes in raw never comes out raw, and nothing opens that was not sealed for who asks.

A second reader, Python's json, swaps the ids of the same value in its own way, and must come to the same. A sealed id is longer than what
a fuzzer makes up, so an input names those that it may use: @r, @i, @c and @f are OWNER's own, of each kind, @t is another agent's.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Final, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from fuzz.cuts import ways_to_cut
from fuzz.event_streams import events

from broker import dialects
from broker.dialects import openai_responses
from broker.dialects.openai_stored_responses import read
from broker.errors import BadRequest, FeatureNotGranted, ProviderUnavailable
from broker.ids import PLACES, Ids
from broker.ids.swapping import Shape
from broker.kept import SealedMeter
from broker.metering import StreamMeter, Tally
from broker.sealing import Home, Key, Kind, NotYours, Seals, Unsealable
from broker.tallies.anthropic_messages import MessagesTally
from broker.tallies.openai_responses import ResponsesTally

OWNER, THIEF = "spiffe://example.org/ns/team1/sa/agent", "spiffe://example.org/ns/team1/sa/thief"
HOME: Final = Home("team1", "gpt", "team1/openai", "https://api.openai.com/v1", "gpt-real")
_NEW, _OLD = Key(bytes(range(64))), Key(bytes(range(64, 128)))
SEALS, BEFORE = Seals([_NEW, _OLD]), Seals([_OLD, _NEW])
OWN: Final = {"@r": (Kind.RESPONSE, "resp_own"), "@i": (Kind.ITEM, "msg_own"), "@c": (Kind.CONTAINER, "cntr_own"), "@f": (Kind.FILE, "own")}
NAMED: Final = {
    **{mark: SEALS.seal(OWNER, kind, HOME, raw) for mark, (kind, raw) in OWN.items()},
    "@o": BEFORE.seal(OWNER, Kind.RESPONSE, HOME, "resp_own"),
    "@t": SEALS.seal(THIEF, Kind.RESPONSE, HOME, "resp_theirs"),
}
GIVEN: Final = {(OWNER, kind, NAMED[mark]) for mark, (kind, _) in OWN.items()} | {
    (OWNER, Kind.RESPONSE, NAMED["@o"]),
    (THIEF, Kind.RESPONSE, NAMED["@t"]),
}
BOM: Final = b"\xef\xbb\xbf"
SEALED: Final = re.compile(r"[a-z]{1,16}_[A-Za-z0-9_-]{64,}")

_PUNCTUATION = ("{", "}", "[", "]", ",", ":", "null", "5", "true", '""', '"resp_raw"', '"msg_raw"', "\\u0069", "\\ud800", "[" * 40, " ")
_NAMES = (
    *('"id":', '"previous_response_id":', '"output":[', '"content":[', '"annotations":[', '"container_id":', '"file_id":', '"file_ids":['),
    *('"container":', '"environment":{', '"approval_request_id":', '"results":[', '"tools":[', '"input_image_mask":{', '"conversation":'),
)
ANSWER_WORDS = (
    *(*_PUNCTUATION, *_NAMES, '"data":[', '"first_id":', '"last_id":', '"instructions":', '"prompt_cache_options":{'),
    *(
        '"comparison_response_id":',
        '"input_transformations":',
        '"citations":[',
        '"\\u0069d":',
        '"text":"resp_raw"',
        '"x":{"id":"resp_raw"}',
    ),
)
EVENT_WORDS = (
    *(*_PUNCTUATION, *_NAMES, "data: ", "data:", "event: ", ": ", "id: resp_raw\n", "\n", "\n\n", "\r\n\r\n", "\r", "[DONE]", "\ufeff"),
    *('"type":', '"response.completed"', '"response":{', '"item":{', '"item_id":', '"response_id":', '"part":{', '"annotation":{'),
    *('"message":{', '"content_block":{', '"delta":{', '"citation":{', '"usage":{"input_tokens":1,"output_tokens":2}'),
)
REQUEST_WORDS = (
    *(*_PUNCTUATION, *_NAMES, *(f'"{mark}"' for mark in NAMED), '{"model":"m","input":[', '"type":"item_reference"', '"type":"reasoning"'),
    *('"type":"message"', '"role":"user"', '"type":"input_file"', '"type":"input_image"', '"type":"code_interpreter"', '"type":"shell"'),
    *('"type":"container_reference"', '"type":"mcp_approval_response","approve":true', '"type":"code_interpreter_call","code":"1"'),
    *('"type":"function_call_output","call_id":"c","output":', ',"store":', ',"background":', '"messages":[', '"summary":[]'),
)
QUERY_WORDS = (
    *(
        "GET\n",
        "DELETE\n",
        "GET/input_items\n",
        "POST/cancel\n",
        "resp_raw\n",
        "?",
        "&",
        "=",
        "%",
        "%2",
        "%00",
        "%ff",
        "%2e%2e",
        "+",
        ";",
        "#",
    ),
    *(
        "include=",
        "include[]=",
        "include%5B%5D=",
        "output_text.logprobs",
        "stream=true",
        "stream=",
        "starting_after=",
        "limit=",
        "order=asc",
    ),
    *("include_obfuscation=false", "after=", "before=", "..", "/", "\\", *NAMED),
)
SEALED_WORDS = (*NAMED, "resp_", "id_", "msg-", "\n", "A", "_", "-", "=", "==", "/", ".", "..", "AQ", "\0", "é", "x" * 40)


class Odd(Exception):
    """Where an id should be is something else."""


Swapper = Callable[[Kind, str], str]


def check_answer(data: bytes) -> None:
    for dialect in ("openai_responses", "openai_chat", "anthropic_messages"):
        try:
            out = sealing(dialect).answer(data)
        except ProviderUnavailable:
            continue
        require_same(data, PLACES[dialect].answer, raw=data, sealed=out)


def check_events(data: bytes) -> None:
    for dialect, tally in (("openai_responses", ResponsesTally), ("anthropic_messages", MessagesTally)):
        passed = [through(dialect, tally(), pieces) for pieces in ways_to_cut(data)]
        whole = [out for out, ended in passed if ended]
        assert len(whole) in (0, len(passed)), "whether a stream can be sealed depends on how it was cut"
        shape, came = PLACES[dialect].event, events(data)
        for out, _ in passed:
            require_only_name_and_data(out)
            if BOM in data[len(BOM) :]:
                continue  # within an event it makes a line no data to us, and to the other reader it does not
            went = events(out)
            assert len(went) == len(came) or out not in whole
            for before, after in zip(came, went, strict=False):
                if before.strip() == b"[DONE]":
                    assert after.strip() == before.strip()
                else:
                    require_same(before, shape, raw=before, sealed=after)


def through(dialect: str, tally: Tally, pieces: list[bytes]) -> tuple[bytes, bool]:
    """What the caller got, and whether that was all."""
    meter = SealedMeter(StreamMeter(tally), sealing(dialect))
    out = b""
    try:
        for piece in pieces:
            out += meter.stream(piece)
        out += meter.end()
    except ProviderUnavailable:
        return out, False
    return out, True


def require_only_name_and_data(out: bytes) -> None:
    """No other line goes on, and no comment's words: an id can stand there too."""
    for block in out.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n\n"):
        lines = [line for line in block.split(b"\n") if line.strip()]
        assert lines in ([], [b":"]) or [line.partition(b": ")[0] for line in lines] in ([b"data"], [b"event", b"data"]), lines


def check_request(data: bytes) -> None:
    """As kept.py does it: judged, opened, all that the judge calls kept is opened, and read anew."""
    written = named(data)
    for dialect, route in (("openai_responses", "/v1/responses"), ("anthropic_messages", "/v1/messages")):
        ids = Ids(SEALS, OWNER, PLACES[dialect])
        try:
            question = dialects.read(dialects.ROUTES["POST", route], written, ())
            out = ids.request(written)
        except (BadRequest, FeatureNotGranted):
            continue
        require_same(written, PLACES[dialect].request, raw=out, sealed=written)
        if not {place.id for place in question.kept} <= ids.opened:
            continue
        dialects.read(dialects.ROUTES["POST", route], out, ())
        if dialect == openai_responses.NAME:
            for place, id_ in reaching(loaded(out)):
                assert id_ in {"", *(raw for _, raw in OWN.values())}, f"{place} reaches what is not the caller's: {id_!r}"


def reaching(body: object) -> Iterator[tuple[str, object]]:
    """Each id of a request for a response that reaches kept state, by the names that OpenAI gives them."""
    assert isinstance(body, dict)
    yield "previous_response_id", body.get("previous_response_id") or ""
    for item in body["input"] if isinstance(body["input"], list) else ():
        for name in ("id", "container_id", "approval_request_id"):
            yield name, item.get(name) or ""
        for parts in (item.get("content"), item.get("output")):
            for part in parts if isinstance(parts, list) else ():
                yield "file_id", (part.get("file_id") or "") if isinstance(part, dict) else ""
    for tool in body.get("tools") or ():
        container = tool.get("container")
        yield "container", container if isinstance(container, str) else ""


def check_query(data: bytes) -> None:
    """The method, with what stands behind the id; the provider's id; the query."""
    asked, _, rest = data.partition(b"\n")
    raw, _, query = (text.decode("latin-1") for text in rest.partition(b"\n"))
    method, slash, _ = asked.decode("latin-1").partition("/")
    query = named(query.encode()).decode()
    try:
        SEALS.seal(OWNER, Kind.RESPONSE, HOME, raw)
        tail, streaming = read(method, raw, "/input_items" if slash else "", query, lambda kind, id_, at: opened(kind, id_))
    except (Unsealable, BadRequest, FeatureNotGranted, NotYours):
        return
    assert re.fullmatch(r"/[!-~]+", tail), "what is no path goes into one"
    parts = urlsplit("http://h" + tail)
    segments = parts.path.split("/")
    assert [unquote(segment) for segment in segments] == ["", raw, *(["input_items"] if slash else [])]
    assert segments[1] not in (".", "..")
    assert not parts.fragment
    came, went = parse_qsl(query, keep_blank_values=True), parse_qsl(parts.query, keep_blank_values=True)
    assert went == [(name, opened(Kind.ITEM, value) if name in ("after", "before") else value) for name, value in came]
    assert streaming is (("stream", "true") in went)
    once = [name for name, _ in went if not name.startswith("include") or name == "include_obfuscation"]
    assert len(once) == len(set(once))


def check_sealed(data: bytes) -> None:
    """A line that becomes a part of the home and chooses a kind, and what is opened, or sealed."""
    line, _, text = data.partition(b"\n")
    kind = list(Kind)[len(line) % len(Kind)]
    brought = named(text).decode("latin-1")
    for owner in (OWNER, THIEF):
        for seals in (SEALS, BEFORE):
            try:
                seals.open(owner, kind, brought)
            except NotYours:
                continue
            assert (owner, kind, brought) in GIVEN, "opened what was not sealed so"
    home, raw = Home("team1", line.decode("latin-1"), HOME.provider, HOME.endpoint, "m"), text.decode("latin-1")
    try:
        made = SEALS.seal(OWNER, kind, home, raw)
    except Unsealable:
        return
    assert SEALED.fullmatch(made)
    assert SEALS.open(OWNER, kind, made) == BEFORE.open(OWNER, kind, made) == (home, raw)
    require_closed(THIEF, kind, made)
    for other in set(Kind) - {kind}:
        require_closed(OWNER, other, made)
    at = len(data) * 31 % len(made)
    require_closed(OWNER, kind, made[:at] + ("A" if made[at] != "A" else "B") + made[at + 1 :])
    require_closed(OWNER, kind, made[:at] + made[at + 1 :])


def require_closed(owner: str, kind: Kind, sealed: str) -> None:
    try:
        SEALS.open(owner, kind, sealed)
    except NotYours:
        return
    raise AssertionError("opened for somebody else, as something else, or altered")


def sealing(dialect: str) -> Ids:
    ids = Ids(SEALS, OWNER, PLACES[dialect])
    ids.keep_at(HOME)
    return ids


def opened(kind: Kind, sealed: str) -> str:
    """Some servers say with an empty one that there is none yet."""
    if not sealed:
        return sealed
    home, raw = SEALS.open(OWNER, kind, sealed)
    assert (home.namespace, home.provider, home.endpoint) == (HOME.namespace, HOME.provider, HOME.endpoint)
    return raw


def named(data: bytes) -> bytes:
    for mark, sealed in NAMED.items():
        data = data.replace(mark.encode(), sealed.encode())
    return data


def require_same(came: bytes, shape: Shape, *, raw: bytes, sealed: bytes) -> None:
    """Another reader opens the same ids, and all else is the same. `came`: the one of the two that was given."""
    try:
        loaded(came)
    except (ValueError, RecursionError):
        return  # what is not looked into may be deeper, or odder, than Python's json reads; it passes as it came
    try:
        assert swapped(loaded(sealed), shape, opened) == loaded(raw)
    except (Odd, NotYours):
        raise AssertionError("what is no sealed id of the caller's stands in the place of one, and passed") from None


def loaded(text: bytes) -> object:
    """Of two members of the same name it takes the last. Numbers by their digits."""
    text_ = text.decode("utf-8", "surrogateescape")
    return json.loads(text_, parse_int=digits, parse_float=digits, parse_constant=digits, strict=False)


def digits(number: str) -> tuple[str]:
    return (number,)


def swapped(value: object, shape: Shape, how: Swapper) -> object:
    if not isinstance(value, dict):
        return value
    swapped_ = dict(cast("dict[str, object]", value))
    for name, kind in shape.ids.items():
        if isinstance(ids := swapped_.get(name), list):
            swapped_[name] = [one(id_, kind, how) for id_ in cast("list[object]", ids)]
        elif name in swapped_:
            swapped_[name] = one(ids, kind, how)
    for name, below in shape.below.items():
        if isinstance(inner := swapped_.get(name), list):
            swapped_[name] = [within(each, below, how) for each in cast("list[object]", inner)]
        elif name in swapped_:
            swapped_[name] = within(inner, below, how)
    return swapped_


def within(value: object, shape: Shape, how: Swapper) -> object:
    if isinstance(value, list):
        raise Odd
    if isinstance(value, str) and shape.text is not None:
        return how(shape.text, value)
    return swapped(value, shape, how)


def one(value: object, kind: Kind, how: Swapper) -> object:
    if value is None:
        return None
    if not isinstance(value, str):
        raise Odd
    return how(kind, value)
