"""Stored responses by their id: what may stand in the query, and what is asked of the provider."""

import pytest

from broker.chat import Demand, Options, Usage
from broker.dialects import openai_stored_responses as stored
from broker.errors import BadRequest
from broker.sealing import Kind


def opened(kind, sealed, at):
    assert kind is Kind.ITEM
    return f"{at}/{sealed[::-1]}"


def read(method, behind, query):
    return stored.read(method, "resp_1", behind, query, opened)


@pytest.mark.parametrize(
    ("method", "behind", "query", "tail", "streaming"),
    [
        ("GET", "", "", "/resp_1", False),
        ("DELETE", "", "", "/resp_1", False),
        ("POST", "/cancel", "", "/resp_1/cancel", False),
        ("GET", "/input_items", "", "/resp_1/input_items", False),
        ("GET", "", "stream=true&starting_after=42", "/resp_1?stream=true&starting_after=42", True),
        ("GET", "", "stream=false", "/resp_1?stream=false", False),
        ("GET", "", "include%5B%5D=file_search_call.results", "/resp_1?include%5B%5D=file_search_call.results", False),
        (
            *("GET", "", "include=reasoning.encrypted_content&include=message.output_text.logprobs"),
            *("/resp_1?include=reasoning.encrypted_content&include=message.output_text.logprobs", False),
        ),
        ("GET", "", "include_obfuscation=false&%73tream=true", "/resp_1?include_obfuscation=false&stream=true", True),
        ("GET", "/input_items", "limit=20&order=asc&after=abc", "/resp_1/input_items?limit=20&order=asc&after=after%2Fcba", False),
        ("GET", "/input_items", "before=abc", "/resp_1/input_items?before=before%2Fcba", False),
    ],
)
def test_what_the_api_documents_goes_on(method, behind, query, tail, streaming):
    assert read(method, behind, query) == (tail, streaming)


def test_an_id_cannot_become_more_than_one_part_of_a_path():
    assert stored.read("GET", "a/../b?c#d%e", "", "", opened)[0] == "/a%2F..%2Fb%3Fc%23d%25e"


@pytest.mark.parametrize(
    ("method", "behind", "query"),
    [
        *(("GET", "", query) for query in ("x=1", "x", "&", "=", "stream=1", "stream=true&stream=true", "Stream=true", "stream=", "limit=5", "after=a")),
        *(("GET", "", query) for query in ("starting_after=-1", "starting_after=1e3", "starting_after=9999999999", "include=resp_1", "include=a.b%0d%0a")),
        *(("GET", "", query) for query in ("include=" + "a." * 90, "stream=tru%65%", "stream=%ff", "&".join(["include=a.b"] * 33), "response_id=resp_2")),
        *(("GET", "/input_items", query) for query in ("stream=true", "order=up", "after=a&after=b", "limit=many", "limit=5;order=asc")),
        *((method, behind, "stream=true") for method, behind in (("DELETE", ""), ("POST", "/cancel"), ("PUT", ""))),
    ],
)  # fmt: skip
def test_everything_else_in_a_query_is_a_bad_request(method, behind, query):
    with pytest.raises(BadRequest):
        read(method, behind, query)


def test_it_costs_one_request_and_no_tokens_whole_or_streamed():
    question = stored.StoredQuestion("gpt", "resp_sealed", streaming=True)
    assert question.demand(50, 100) == Demand(0, 0, 0)
    assert (question.body("real", 0, Options()), question.clamped(0)) == (b"", None)
    for meter in (question.meter(), question.meter()):
        assert meter.stream(b'data: {"type":"response.completed","response":{"usage":{"input_tokens":5,"output_tokens":9}}}\n\n')
        assert (meter.usage, meter.done) == (Usage(0, 0), True)
    assert question.meter().whole(b'{"usage":{"input_tokens":5,"output_tokens":9}}') == Usage(0, 0)


def test_it_is_refused_as_what_names_kept_state():
    (place,) = stored.StoredQuestion("gpt", "resp_sealed", streaming=False).kept
    assert (place.param, place.id) == ("response_id", "resp_sealed")
