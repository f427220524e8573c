"""docs/quotas-in-dollars.md: its objects are read from the document, and cost what its table says."""

import io
import re
from pathlib import Path

import pytest
from support.worlds import SETTINGS, files, who, world

from broker.chat import Usage
from broker.files import Folder
from broker.review import checking, printing

TEXT = (Path(__file__).parents[2] / "docs" / "quotas-in-dollars.md").read_text()
(OBJECTS,) = re.findall(r"^```yaml\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
ROWS = re.findall(r"^\| (\w+) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|$", TEXT, re.MULTILINE)
GRANT = world(OBJECTS).decide(who("spiffe://example.org/ns/weather/sa/planner"), "agents/large")


@pytest.mark.parametrize("row", ROWS, ids=" ".join)
def test_an_answer_costs_what_the_table_says(row):
    provider, *figures = row
    prompt, cached, output, cost = map(int, figures)
    (backend,) = [one for one in GRANT.backends if one.provider.name == provider]
    assert backend.price.cost(Usage(prompt, output, cached)) == cost


def test_the_table_has_answers_of_both_backends():
    assert {row[0] for row in ROWS} == {backend.provider.name for backend in GRANT.backends}


def test_the_quotas_are_dollars():
    assert [budget.amount for budget in GRANT.budgets] == ["5.00 USD", "200.00 USD"]


def test_the_check_finds_nothing_wrong_with_the_example(tmp_path: Path):
    out = io.StringIO()
    assert checking.check(Folder(files(tmp_path, {"a.yaml": OBJECTS}), {}).read, SETTINGS, "text", out) == printing.OK
    assert out.getvalue().endswith("errors: 0, warnings: 0\n")
