"""docs/precedence.md: its objects are read from the document, and what it says of them is what the broker decides, explains and warns of."""

import io
import re
from pathlib import Path

import pytest
from support.worlds import SETTINGS, files, who, world

from broker.errors import Forbidden
from broker.files import Folder
from broker.review import checking, explaining, printing

TEXT = (Path(__file__).parents[2] / "docs" / "precedence.md").read_text()
HEAD, *EXAMPLES = re.split(r"^## ", TEXT, flags=re.MULTILINE)
TITLES = [example.partition("\n")[0] for example in EXAMPLES]


def blocks(text: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


(ROUTING,) = blocks(HEAD, "yaml")


def objects(title: str) -> str:
    (example,) = blocks(EXAMPLES[TITLES.index(title)], "yaml")
    return example


def rows(example: str) -> list[tuple[str, str, str]]:
    found = re.findall(r"^\| `(.*?)` \| `(.*?)` \| (.*?) \|$", example, re.MULTILINE)
    assert found
    return found


def counted(title: str, spiffe_id: str, model: str) -> str:
    try:
        grant = world(ROUTING, objects(title)).decide(who(spiffe_id), model)
    except Forbidden:
        return "refused"
    return ", ".join(f"{'/'.join(budget.counter.split('/')[2:4])} {budget.limit}" for budget in grant.budgets)


def test_there_are_three_worked_examples():
    assert TITLES == ["A default for everybody", "A team that tightens", "An exception for one identity"]


@pytest.mark.parametrize("title", TITLES)
def test_each_example_counts_what_its_table_says(title: str):
    for spiffe_id, model, quotas in rows(EXAMPLES[TITLES.index(title)]):
        assert counted(title, spiffe_id, model) == quotas, spiffe_id


@pytest.mark.parametrize("title", TITLES)
def test_the_check_finds_nothing_wrong_with_an_example(title: str, tmp_path: Path):
    out = io.StringIO()
    code = checking.check(Folder(files(tmp_path, {"r.yaml": ROUTING, "e.yaml": objects(title)}), {}).read, SETTINGS, "text", out)
    assert (code, out.getvalue().rpartition("errors: ")[2]) == (printing.OK, "0, warnings: 0\n")


def test_the_warning_is_the_one_that_the_check_prints(tmp_path: Path):
    title = "A team that tightens"
    loosened = objects(title).replace("tokens: 40000", "tokens: 400000")
    out = io.StringIO()
    checking.check(Folder(files(tmp_path, {"r.yaml": ROUTING, "e.yaml": loosened}), {}).read, SETTINGS, "text", out)
    (told,) = blocks(EXAMPLES[TITLES.index(title)], "warning")
    line = next(number for number, text in enumerate(loosened.splitlines(), 1) if "400000" in text)
    assert f"{tmp_path}/e.yaml:{line}:5: warning: AIAccessPolicy agents/weather: {told}" in out.getvalue()


def test_the_explanation_ends_as_it_is_printed(tmp_path: Path):
    title = "An exception for one identity"
    question = explaining.Question("spiffe://example.org/ns/weather/sa/planner", "agents/large")
    out = io.StringIO()
    assert (
        explaining.explain(question, Folder(files(tmp_path, {"r.yaml": ROUTING, "e.yaml": objects(title)}), {}).read, SETTINGS, "text", out)
        == printing.OK
    )
    (told,) = blocks(EXAMPLES[TITLES.index(title)], "explained")
    assert out.getvalue().endswith(told)
