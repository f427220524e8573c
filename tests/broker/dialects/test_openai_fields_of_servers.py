"""Fields of compatible servers that would make a bound or a grant false, in whatever dialect of OpenAI's."""

import json

import pytest

from broker.dialects import embeddings, openai_chat, openai_completions, openai_responses
from broker.errors import BadRequest

DIALECTS = {
    openai_chat: {"messages": [{"role": "user", "content": "hi"}]},
    openai_responses: {"input": "hi"},
    openai_completions: {"prompt": "hi"},
    embeddings: {"input": "hi"},
}
FIELDS = {
    "extra_body": {"google": {"cached_content": "cachedContents/of-another-agent"}},
    "google": {"cached_content": "cachedContents/of-another-agent"},
    "cached_content": "cachedContents/of-another-agent",
    "models": ["of-another-price"],
    "bootstrap_host": "10.0.0.1",
    "bootstrap_port": 8998,
    "bootstrap_room": 7,
    "chat_template": "{{ messages }}",
}


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.NAME)
def test_what_reaches_other_state_models_or_servers_is_refused_by_its_name(dialect, field):
    asked = {"model": "m", **DIALECTS[dialect]}
    dialect.read(json.dumps(asked).encode())
    with pytest.raises(BadRequest) as caught:
        dialect.read(json.dumps({**asked, field: FIELDS[field]}).encode())
    assert caught.value.param == field


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.NAME)
def test_a_field_of_those_that_says_nothing_passes(dialect):
    asked = {"model": "m", **DIALECTS[dialect], **dict.fromkeys(FIELDS)}
    assert dialect.read(json.dumps(asked).encode()).model == "m"


@pytest.mark.parametrize(
    ("tier", "priced"), [(None, True), ("auto", True), ("default", True), ("flex", True), ("priority", False), ("fast", False), (1, False)]
)
@pytest.mark.parametrize("dialect", [openai_completions], ids=lambda dialect: dialect.NAME)
def test_a_tier_that_costs_more_than_the_models_price_says_so(dialect, tier, priced):
    asked = {"model": "m", **DIALECTS[dialect], "service_tier": tier}
    assert dialect.read(json.dumps(asked).encode()).demand(9, None).priced is priced
