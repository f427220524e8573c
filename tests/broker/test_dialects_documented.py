"""docs/dialects.md says what the route table, the providers and the list of what has no route say."""

import re
from pathlib import Path

from broker.dialects import BY_ID, ROUTES
from broker.judges.openai_responses import TOOL_CALLS
from broker.judges.prompts import PROMPTS_MAX
from broker.providers import PROVIDERS
from broker.sse import EVENT_BYTES
from broker.unserved import INSTEAD

TEXT = (Path(__file__).parents[2] / "docs" / "dialects.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    section = TEXT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[1:]]


def words(cell: str) -> set[str]:
    return set(re.findall(r"`(\w+)`", cell))


def test_every_route_stands_there_with_its_dialect():
    written = {row[0]: row[1] for row in rows("Routes") if "/v1/models" not in row[0]}
    assert written == {f"`{method} {path}`": f"`{dialect.NAME}`" for (method, path), dialect in {**ROUTES, **BY_ID}.items()}


def test_every_provider_stands_there_with_what_it_speaks():
    own, other, anthropic, mistral = (row[1] for row in rows("Providers"))
    assert words(own) == PROVIDERS["OpenAI"].spoken_at("api.openai.com", responses=False)
    unasked, _, stated = other.partition(";")
    assert words(unasked) == PROVIDERS["OpenAI"].spoken_at("vllm.team1.svc", responses=False)
    assert words(unasked) | words(stated) == PROVIDERS["OpenAI"].spoken_at("vllm.team1.svc", responses=True)
    assert words(anthropic) == set(PROVIDERS["Anthropic"].paths)
    assert words(mistral) == set(PROVIDERS["Mistral"].paths)


def test_what_has_no_route_stands_there_word_for_word():
    written = [(row[0].strip("`").removesuffix("/…"), row[1], row[2]) for row in rows("What has no route")]
    assert written == list(INSTEAD)


def test_its_figures_are_those_of_the_code():
    assert f"| {TOOL_CALLS} where" in TEXT
    assert f"{PROMPTS_MAX:,} texts" in TEXT
    assert f"more than {EVENT_BYTES >> 20} MiB" in TEXT
