"""OpenAI's stored responses: fetched, listed, ended and deleted by their id. There is no body: what is asked stands in path and query.

Source: developers.openai.com/api/reference/responses (retrieve, delete, cancel, input items), as openai-python types them.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import parse_qsl, quote, urlencode

from msgspec import Raw

from broker.chat import Demand, Options
from broker.errors import BadRequest
from broker.grant import Feature, KeptId
from broker.ids import Swap
from broker.judges.openai import features_of_headers
from broker.metering import Gauge, StreamMeter
from broker.sealing import Kind
from broker.tallies.whole import FreeTally
from broker.wording.openai import error, models, one_model, rate_limit_headers
from broker.wording.openai import response_error_event as error_event

__all__ = ["NAME", "StoredQuestion", "error", "error_event", "features_of_headers", "models", "one_model", "rate_limit_headers", "read"]

NAME: Final = "openai_stored_responses"

PARAM: Final = "response_id"
QUERY_FIELDS: Final = 32

_FLAG: Final = re.compile(r"true|false")
_NUMBER: Final = re.compile(r"[0-9]{1,9}")
_INCLUDE: Final = re.compile(r"[a-z_]{1,40}(?:\.[a-z_]{1,40}){1,4}")
_INCLUDES: Final = {"include": _INCLUDE, "include[]": _INCLUDE}
# For each route what may stand in its query: how it looks, or the id that it is. Only `include` may be there more than once.
_QUERIES: Final[Mapping[tuple[str, str], Mapping[str, re.Pattern[str] | Kind]]] = {
    ("GET", ""): {**_INCLUDES, "stream": _FLAG, "starting_after": _NUMBER, "include_obfuscation": _FLAG},
    ("GET", "/input_items"): {**_INCLUDES, "limit": _NUMBER, "order": re.compile("asc|desc"), "after": Kind.ITEM, "before": Kind.ITEM},
}


class StoredQuestion:
    """What is asked of a stored response: one request, and no tokens. Satisfies dialects.Question."""

    __slots__ = ("kept", "model", "streaming")

    features: frozenset[Feature] = frozenset({Feature.STORAGE})
    texts: Sequence[Raw] = ()

    def __init__(self, model: str, sealed: str, *, streaming: bool) -> None:
        self.model = model
        self.streaming = streaming
        self.kept: Sequence[KeptId] = (KeptId(Feature.STORAGE, PARAM, sealed, "keep what you need of it in your program"),)

    def demand(self, default_output: int, max_output: int | None) -> Demand:  # noqa: ARG002  nothing is generated
        return Demand(0, 0, 0)

    def clamped(self, granted_output: int) -> int | None:  # noqa: ARG002  nothing is generated
        return None

    def body(self, model: str, granted_output: int, options: Options) -> bytes:  # noqa: ARG002  there is none
        return b""

    def meter(self, gauge: Gauge | None = None) -> StreamMeter:  # noqa: ARG002  what is read again is not billed again
        return StreamMeter(FreeTally())


def read(method: str, raw: str, behind: str, query: str, how: Swap) -> tuple[str, bool]:
    """What stands behind the provider's path of responses, and whether a stream is asked for.

    raw: the provider's id of the response. behind: what stands behind it in the caller's path. how: opens an id of the query.

    Raises:
        BadRequest: the query has what this route does not know, or it has it twice.
        FeatureNotGranted: an id in it is not the caller's.
    """
    known = _QUERIES.get((method, behind), {})
    fields: list[tuple[str, str]] = []
    for name, value in _split(query):
        allowed = known.get(name)
        if allowed is None or (name not in _INCLUDES and any(name == other for other, _ in fields)):
            may = ", ".join(known) or "nothing"
            raise BadRequest(f"{name[:64]!r} is not taken in this query, or not twice: it takes {may}", param=name[:64])
        if isinstance(allowed, Kind):
            fields.append((name, how(allowed, value, name)))
        elif allowed.fullmatch(value):
            fields.append((name, value))
        else:
            raise BadRequest(f"{name!r} does not take this value", param=name)
    streaming = ("stream", "true") in fields
    return f"/{quote(raw, safe='')}{behind}{'?' if fields else ''}{urlencode(fields)}", streaming


def _split(query: str) -> list[tuple[str, str]]:
    if not query:
        return []
    try:
        return parse_qsl(query, keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=QUERY_FIELDS)
    except ValueError:
        raise BadRequest("the query is not well-formed: write NAME=VALUE, joined by '&'") from None
