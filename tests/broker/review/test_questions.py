"""`broker explain --questions`: what a file of questions may look like, and what each answer does to the exit code."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.worlds import AGENT, SETTINGS, access, files, resources, routing

from broker.objects import Resources
from broker.review.printing import OK, REFUSED, USAGE, Output
from broker.review.questions import BadQuestions, ask, read_questions

WORLD = routing() + access()
YES = f"- {{identity: '{AGENT}', model: gpt, expected: allow}}\n"
NO = f"- {{identity: '{AGENT}', model: other, expected: deny}}\n"


def run(tmp_path: Path, text: str, name: str = "q.yaml", output: Output = "text", world: Resources | None = None) -> tuple[int, str]:
    files(tmp_path, {name: text})
    out = io.StringIO()
    found = world or resources(WORLD)
    code = ask(tmp_path / name, lambda: found, replace(SETTINGS, trust_domain=""), output, out)
    return code, out.getvalue().replace(f"{tmp_path}/", "")


def test_all_as_expected_is_0_and_each_question_is_a_row(tmp_path: Path):
    code, text = run(tmp_path, YES + NO)
    assert code == OK
    head, first, second, last = text.splitlines()
    assert head.split() == ["DECISION", "EXPECTED", "IDENTITY", "MODEL", "WHY"]
    assert first.split(maxsplit=5)[:5] == ["ok", "allowed", "allow", AGENT, "gpt"]
    assert second.split(maxsplit=5)[:5] == ["ok", "forbidden", "deny", AGENT, "other"]
    assert last == "questions: 2, with an expectation: 2, not met: 0"


@pytest.mark.parametrize("wrong", [YES.replace("allow", "deny"), NO.replace("deny", "allow")])
def test_one_that_is_otherwise_is_3_and_is_named_with_its_line(tmp_path: Path, wrong: str):
    code, text = run(tmp_path, YES + wrong)
    assert (code, "\nq.yaml:2: expected " in text) == (REFUSED, True)


def test_without_an_expectation_nothing_is_unmet(tmp_path: Path):
    code, text = run(tmp_path, f"- {{identity: spiffe://a.org/x, model: gpt}}\n{YES}", output="json")
    assert code == OK
    assert [(one["code"], one["expected"], one["met"]) for one in json.loads(text)["answers"]] == [
        ("forbidden", None, None),
        ("allowed", "allow", True),
    ]


def test_a_model_that_is_granted_and_not_ready_is_allowed_and_is_not_denied(tmp_path: Path):
    away = resources(WORLD.replace("OpenAI", "Gemini"))
    assert run(tmp_path, YES, world=away)[0] == OK
    assert run(tmp_path, YES.replace("allow", "deny"), world=away)[0] == REFUSED


@pytest.mark.parametrize("expected", ["allow", "deny"])
def test_what_is_not_known_is_neither(tmp_path: Path, expected: str):
    unknown = replace(resources(WORLD), unreadable=frozenset({"team1"}), routing=())
    assert run(tmp_path, YES.replace("allow", expected), world=unknown)[0] == REFUSED


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("q.yaml", f"- identity: '{AGENT}'\n  model: gpt\n  expected: allow\n"),
        ("q.json", json.dumps([{"identity": AGENT, "model": "gpt", "expected": "allow"}])),
        ("q.csv", f"model,identity,expected\ngpt,{AGENT},allow\n\n"),
        ("q.csv", f"\ufeffidentity, model, expected\r\n{AGENT}, gpt, allow\r\n"),
    ],
)
def test_questions_are_yaml_json_or_csv(tmp_path: Path, name: str, text: str):
    assert run(tmp_path, text, name)[0] == OK


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("q.yaml", "a: [", "q.yaml:2:1: is no YAML"),
        ("q.yaml", "a: 1", "must be a list of questions"),
        ("q.yaml", "- 1", "q.yaml:1: must be a mapping with identity and model"),
        ("q.yaml", "", "an empty test suite would always pass"),
        ("q.yaml", "[]", "an empty test suite would always pass"),
        ("q.yaml", YES + "- {model: gpt}", "q.yaml:2: needs identity and model, both text"),
        ("q.yaml", YES.replace("model: gpt", "model: 4"), "needs identity and model, both text"),
        ("q.yaml", YES.replace("expected", "expect"), "expect is not a field of a question; they are identity, model, expected"),
        ("q.yaml", YES.replace("allow", "maybe"), "expected is allow or deny"),
        ("q.yaml", YES.replace("allow", "true"), "expected is allow or deny"),
        ("q.yaml", YES.replace("gpt,", "gpt, model: other,"), "q.yaml:1: "),
        ("q.yaml", YES.replace(AGENT, "spiffe://example.org"), "names a trust domain alone"),
        ("q.yaml", YES.replace(AGENT, "agent"), "q.yaml:1: identity: a SPIFFE ID starts with spiffe://"),
        ("q.yaml", "- &a {identity: x}", "anchor"),
        ("q.csv", f"identity,model\n{AGENT}\n", "q.csv:2: has 1 cells, and the head 2"),
        ("q.csv", f"identity,model,model\n{AGENT},a,b\n", "q.csv:1: names a column twice"),
        ("q.csv", 'identity,model\n"a', "is no CSV"),
        ("q.csv", f"identity,model,who\n{AGENT},gpt,me\n", "who is not a field"),
        ("q.csv", "identity,model\n", "has no question"),
    ],
)
def test_what_is_no_question_is_said_with_its_place(tmp_path: Path, name: str, text: str, told: str):
    code, said = run(tmp_path, text, name)
    assert (code, told in said) == (USAGE, True), said


def test_a_file_that_is_not_there_and_one_that_is_too_long(tmp_path: Path):
    out = io.StringIO()
    assert ask(tmp_path / "no.yaml", lambda: resources(WORLD), SETTINGS, "text", out) == USAGE
    assert out.getvalue().endswith("no.yaml: cannot be read: No such file or directory\n")
    assert "more than 1048576 bytes; split it" in run(tmp_path, YES * 20_000)[1]


@given(st.binary(max_size=60) | st.text(alphabet="-{}[]:,\"' \n\tidentymolexpcal&*!#|>\r\x00é", max_size=60).map(str.encode), st.booleans())
def test_whatever_is_in_a_file_it_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes, csv: bool):  # noqa: FBT001  drawn
    path = tmp_path_factory.getbasetemp() / f"any.{'csv' if csv else 'yaml'}"
    path.write_bytes(data)
    told = ""
    try:
        told = "".join(one.place for one in read_questions(path))
    except BadQuestions as wrong:
        told = str(wrong)
    assert told.startswith(str(path))
