"""`broker explain --questions`: a file of identities and models, each with what is expected, so that CI can test policies."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TextIO

from broker import files, policy
from broker.identity import InvalidSpiffeId
from broker.objects.reading import as_list, as_mapping
from broker.objects.yamltext import FILE_BYTES, InvalidYaml, read_yaml
from broker.review.access import Decisions
from broker.review.assuming import complete
from broker.review.explaining import Question, workload
from broker.review.printing import OK, REFUSED, USAGE, Output, Read, write
from broker.usage.tables import table

Expected = Literal["allow", "deny"]

_FIELDS: Final = ("identity", "model", "expected")
_ALLOWED: Final = ("allowed", "no_backend")  # what the policies say; whether a provider is ready is not theirs to say


class BadQuestions(ValueError):
    """The file is no list of questions. The message has the place and what to do."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One question of the file. `place` is file:line."""

    place: str
    question: Question
    expected: Expected | None


@dataclass(frozen=True, slots=True)
class Answered:
    """What became of it. met: whether it is as expected; None where nothing was."""

    asked: Asked
    code: str
    reason: str
    met: bool | None


def ask(path: Path, read: Read, settings: policy.Settings, output: Output, stdout: TextIO) -> int:
    """Answer each question of a file.

    `allow` is met when the policies grant the model, also while no provider of it is ready; `deny` when they refuse it. Secrets
    that are missing count as good: they are seldom where policies are tested.

    Returns:
        0 when nothing is otherwise than expected, 3 when something is, 2 when the questions or the objects cannot be read.
    """
    try:
        asked = list(read_questions(path))
        snapshot = policy.build(complete(read()), settings)
    except BadQuestions as wrong:
        stdout.write(f"{wrong}\n")
        return USAGE
    except files.Unreadable as broken:
        stdout.write("\n".join(broken.problems) + "\n")
        return USAGE
    decisions = Decisions(snapshot)
    answered = [_answer(one, decisions) for one in asked]
    unmet = [one for one in answered if one.met is False]
    report = {"answers": [_told(one) for one in answered], "unmet": len(unmet)}
    write(report, _text(answered, unmet), output, stdout)
    return REFUSED if unmet else OK


def read_questions(path: Path) -> Iterator[Asked]:
    """The questions of a file: CSV with a head when its name ends with .csv, else a YAML or JSON list.

    Raises:
        BadQuestions: it cannot be read, or something in it is no question.
    """
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES + 1)
    except OSError as error:
        raise BadQuestions(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > FILE_BYTES:
        raise BadQuestions(f"{path}: has more than {FILE_BYTES} bytes; split it")
    rows = list(_csv(path, data) if path.suffix == ".csv" else _yaml(path, data))
    if not rows:
        raise BadQuestions(f"{path}: has no question; an empty test suite would always pass")
    for place, row in rows:
        yield _question(place, row)


def _csv(path: Path, data: bytes) -> Iterator[tuple[str, Mapping[str, object]]]:
    try:
        rows = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        head = [name.strip() for name in next(rows, list[str]())]
        if len(set(head)) != len(head):
            raise BadQuestions(f"{path}:1: names a column twice")
        for row in rows:
            if not row:
                continue
            if len(row) != len(head):
                raise BadQuestions(f"{path}:{rows.line_num}: has {len(row)} cells, and the head {len(head)}")
            yield f"{path}:{rows.line_num}", {name: cell.strip() for name, cell in zip(head, row, strict=True) if cell.strip()}
    except (UnicodeDecodeError, csv.Error) as wrong:
        raise BadQuestions(f"{path}: is no CSV: {wrong}") from wrong


def _yaml(path: Path, data: bytes) -> Iterator[tuple[str, Mapping[str, object]]]:
    try:
        documents = read_yaml(data)
    except InvalidYaml as wrong:
        raise BadQuestions(f"{path}:{wrong.line}:{wrong.column}: {wrong}") from wrong
    for document in documents:
        for fault in document.faults:
            line, _ = document.marks.get(fault.path, (1, 1))
            raise BadQuestions(f"{path}:{line}: {fault}")
        listed = as_list(document.value)
        if listed is None:
            raise BadQuestions(f"{path}: must be a list of questions: - {{identity: SPIFFE_ID, model: NAME, expected: allow}}")
        for index, one in enumerate(listed):
            place = f"{path}:{document.marks.get(f'[{index}]', (1, 1))[0]}"
            fields = as_mapping(one)
            if fields is None:
                raise BadQuestions(f"{place}: must be a mapping with identity and model")
            yield place, fields


def _question(place: str, row: Mapping[str, object]) -> Asked:
    for name in row:
        if name not in _FIELDS:
            raise BadQuestions(f"{place}: {name} is not a field of a question; they are {', '.join(_FIELDS)}")
    identity, model, expected = (row.get(name) for name in _FIELDS)
    if not isinstance(identity, str) or not isinstance(model, str) or not identity or not model:
        raise BadQuestions(f"{place}: needs identity and model, both text")
    try:
        workload(identity)
    except InvalidSpiffeId as wrong:
        raise BadQuestions(f"{place}: identity: {wrong}") from wrong
    if expected is None:
        return Asked(place, Question(identity, model), None)
    if expected == "allow":
        return Asked(place, Question(identity, model), "allow")
    if expected == "deny":
        return Asked(place, Question(identity, model), "deny")
    raise BadQuestions(f"{place}: expected is allow or deny")


def _answer(asked: Asked, decisions: Decisions) -> Answered:
    identity = workload(asked.question.spiffe_id)
    why = policy.explain(decisions.seen_by(identity), identity, asked.question.model)
    met: bool | None = None
    if asked.expected == "allow":
        met = why.code in _ALLOWED
    elif asked.expected == "deny":
        met = why.code == "forbidden"  # what is not known is no no
    return Answered(asked, why.code, why.reason, met)


def _told(one: Answered) -> dict[str, object]:
    question = one.asked.question
    return {
        "place": one.asked.place,
        "identity": question.spiffe_id,
        "model": question.model,
        "code": one.code,
        "reason": one.reason,
        "expected": one.asked.expected,
        "met": one.met,
    }


def _text(answered: Sequence[Answered], unmet: Sequence[Answered]) -> str:
    marks = {None: "-", True: "ok", False: "FAIL"}
    rows = [
        (marks[one.met], one.code, one.asked.expected or "-", one.asked.question.spiffe_id, one.asked.question.model, one.reason)
        for one in answered
    ]
    shown = table(("", "DECISION", "EXPECTED", "IDENTITY", "MODEL", "WHY"), rows)
    failed = "".join(f"{one.asked.place}: expected {one.asked.expected}, and it is {one.code}: {one.reason}\n" for one in unmet)
    expected = sum(one.met is not None for one in answered)
    return f"{shown}{failed}questions: {len(answered)}, with an expectation: {expected}, not met: {len(unmet)}"
