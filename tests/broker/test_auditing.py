"""`broker audit verify` and `broker audit show`, as they are called."""

import io
import json
import os
import subprocess
import sys

import pytest
from support.audit_logs import AGENT, KEY, a_line, live, rotated_log, verify

from broker import cli
from broker.audit import Audit, Rotation

OTHER = "spiffe://example.org/ns/team1/sa/other"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys, *argv: str) -> tuple[int, str, str]:
    code = cli.main(["audit", *argv])
    said = capsys.readouterr()
    return code, said.out, said.err


def names(folder) -> list[str]:
    return sorted(file.name for file in folder.glob("audit.jsonl*"))


def test_a_log_as_it_was_written_passes_and_its_heads_are_said(folder, capsys):
    rotated_log(folder)
    head = verify(*names(folder)).heads[0]
    code, out, err = run(capsys, "verify", *names(folder))
    assert (code, err) == (0, "")
    assert out.splitlines()[:2] == [
        f"{head.seq + 1} lines in 4 files, without a key: 0 faults",
        f"chain {head.chain}: seq 1 to {head.seq}, head {head.hash}@{head.seq}",
    ]
    assert [line.partition(":")[0] for line in out.splitlines()[2:]] == ["cannot be found"] * 2


def test_an_edit_is_named_by_file_and_line(folder, capsys):
    live(folder / "audit.jsonl", 3)
    path = folder / "audit.jsonl"
    path.write_bytes(path.read_bytes().replace(b"x2", b"x7"))
    code, out, _ = run(capsys, "verify", "audit.jsonl")
    assert code == 1
    assert out.startswith("audit.jsonl:3: edited: its hash is not that of its bytes\n")
    assert "without a key: 1 fault\n" in out


def test_programs_get_the_same_as_json(folder, capsys):
    live(folder / "audit.jsonl", 3)
    head = verify("audit.jsonl").heads[0]
    (folder / "audit.jsonl").write_bytes((folder / "audit.jsonl").read_bytes().replace(b"x2", b"x7"))
    code, out, _ = run(capsys, "verify", "-o", "json", "--head", str(head), "audit.jsonl")
    said = json.loads(out)
    assert (code, said["ok"], said["lines"], said["files"], said["keyed"], said["faults_left_out"]) == (1, False, 5, 1, False, 0)
    assert [(fault["file"], fault["line"]) for fault in said["faults"]] == [("audit.jsonl", 3)]
    assert said["chains"] == [{"chain": head.chain, "first_seq": 1, "last_seq": 5, "head": str(head), "vouched_to": 5}]
    assert said["cannot_be_found"] != []


def test_the_key_is_read_from_the_brokers_own_file(folder, capsys):
    live(folder / "audit.jsonl", 3, KEY)
    (folder / "key").write_bytes(KEY)
    assert run(capsys, "verify", "--key-file", "key", "audit.jsonl")[0] == 0
    code, _, err = run(capsys, "verify", "audit.jsonl")
    assert (code, err) == (2, "broker: audit.jsonl was made with a key: give it with --key-file\n")


def test_a_cut_end_is_found_with_a_noted_head(folder, capsys):
    path = folder / "audit.jsonl"
    live(path, 3)
    head = verify("audit.jsonl").heads[0]
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-2]))
    assert run(capsys, "verify", "audit.jsonl")[0] == 0
    code, out, _ = run(capsys, "verify", "--head", f"{head.hash[:13]}@{head.seq}", "audit.jsonl")
    assert code == 1
    assert out.startswith(f"audit.jsonl:3: cut off: the chain ends with seq 3, and the noted head is {head.hash[:13]}@5\n")


def test_a_fault_without_a_line_names_the_file_alone(folder, capsys):
    live(folder / "audit.jsonl", 1)
    live(folder / "other.jsonl", 1)
    _, out, _ = run(capsys, "verify", "--head", f"{'0' * 13}@99", "audit.jsonl", "other.jsonl")
    assert "audit.jsonl: no chain has the noted head" in out


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["verify", "none"], "none: No such file"),
        (["verify", "."], "Is a directory"),
        (["verify", "--head", "x", "none"], "--head: 'x' is not HASH@SEQ"),
        (["verify", "--key-file", "none", "none"], "--key-file none: No such file"),
        (["verify", "--key-file", "short", "none"], "--key-file short: has 5 bytes; a key has at least 32"),
        (["show", "none"], "none: No such file"),
        (["show", "--since", "x", "none"], "--since: 'x' is no day"),
        (["show", "--follow", "-"], "--follow follows a file"),
    ],
)
def test_what_is_called_wrongly_says_so_and_exits_with_2(folder, capsys, argv, said):
    (folder / "short").write_bytes(b"short")
    code, out, err = run(capsys, *argv)
    assert (code, out) == (2, "")
    assert said in err


def test_the_standard_input_is_read_too(folder):
    rotated_log(folder)
    program = f"cat {' '.join(names(folder))} | {sys.executable} -m broker audit "
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}

    def out(argv: str) -> str:
        return subprocess.run(program + argv, shell=True, check=True, capture_output=True, text=True, env=environment).stdout  # noqa: S602

    rest = names(folder)[1:]
    program = f"cat {names(folder)[0]} | {sys.executable} -m broker audit "
    assert "0 faults" in out(f"verify - {' '.join(rest)}")
    assert out("show -o json -") == (folder / names(folder)[0]).read_text()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_one_sees_how_far_a_large_file_is(folder, monkeypatch, capsys):
    monkeypatch.setattr("broker.audit.verifying.TOLD_BYTES", 1 << 20)
    live(folder / "audit.jsonl", 1)
    with (folder / "audit.jsonl").open("ab") as file:
        file.write(b"x" * 70 + b"\n")
        file.writelines(b"?" * 1_000 + b"\n" for _ in range(3_000))
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert cli.main(["audit", "verify", "audit.jsonl"]) == 1
    said = terminal.getvalue().split("\r\x1b[K")
    assert said == ["", "audit.jsonl: 1 of 2 MiB", "audit.jsonl: 2 of 2 MiB", ""]


def test_elsewhere_nothing_is_said_on_standard_error(folder, monkeypatch, capsys):
    monkeypatch.setattr("broker.audit.verifying.TOLD_BYTES", 1)
    live(folder / "audit.jsonl", 5)
    assert run(capsys, "verify", "audit.jsonl")[2] == ""


def test_show_takes_files_in_the_order_of_their_first_lines(folder, capsys):
    rotated_log(folder)
    code, out, err = run(capsys, "show", "-o", "json", *names(folder))
    assert code == 0
    assert [json.loads(line)["seq"] for line in out.splitlines()] == list(range(1, verify(*names(folder)).heads[0].seq + 1))
    assert err == "broker: lines that could not be read: 1; broker audit verify says which\n"


def test_filters_that_fit_no_line_are_said_to(folder, capsys):
    live(folder / "audit.jsonl", 3)
    lines = len((folder / "audit.jsonl").read_bytes().splitlines())
    code, out, err = run(capsys, "show", "-o", "json", "--code", "forbiden", "audit.jsonl")
    assert (code, out, err) == (0, "", f"broker: of {lines} lines none is as wanted\n")


async def test_show_picks_by_all_its_filters(folder, capsys):
    audit = Audit.open("audit.jsonl", "0")
    audit.write(a_line(1))
    audit.write(a_line(2, spiffe_id=OTHER))
    audit.write(a_line(3, decision="refused", code="forbidden", namespace="team2", model="claude", policies=()))
    audit.close()

    def shown(*argv: str) -> list[str]:
        return [json.loads(line)["exchange"] for line in run(capsys, "show", "-o", "json", *argv, "audit.jsonl")[1].splitlines()]

    assert shown("--identity", OTHER) == ["x2"]
    assert shown("--identity", "spiffe://example.org/*", "--policy", "team1/weather") == ["x1", "x2"]
    assert (
        shown("--model", "claude")
        == shown("--namespace", "team2")
        == shown("--decision", "refused")
        == shown("--code", "forbidden")
        == ["x3"]
    )
    assert shown("--since", "2026-11-21T12:00:00Z", "--until", "2026-11-21T12:00:01Z") == ["x1", "x2", "x3"]
    assert shown("--until", "2026-11-21T12:00:00Z") == []


async def test_show_prints_a_table_or_a_sheet(folder, capsys):
    audit = Audit.open("audit.jsonl", "0")
    audit.write(a_line(1))
    audit.close()
    table = run(capsys, "show", "--identity", AGENT, "audit.jsonl")[1].splitlines()
    assert [line.split()[0] for line in table] == ["TIME", "2026-11-21T12:00:00Z"]
    sheet = run(capsys, "show", "-o", "csv", "--identity", AGENT, "audit.jsonl")[1].splitlines()
    assert [line.split(",")[0] for line in sheet] == ["time", "2026-11-21T12:00:00Z"]


FOLLOW = "import sys; from broker import cli; sys.exit(cli.main(['audit', 'show', '-o', 'json', '--follow', 'audit.jsonl']))"


def test_follow_shows_each_line_as_it_comes_through_rotations_until_it_is_stopped(folder):
    live(folder / "audit.jsonl", 1)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    with subprocess.Popen([sys.executable, "-c", FOLLOW], stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout
        got = [json.loads(process.stdout.readline())["seq"]]
        last = live(folder / "audit.jsonl", 20, rotation=Rotation(max_bytes=1_500)).seq
        got += [json.loads(process.stdout.readline())["seq"] for _ in range(last - 1)]
        process.terminate()
    assert got == list(range(1, last + 1))
    assert len(names(folder)) > 5


def test_neither_command_imports_what_a_broker_runs_on():
    program = "import sys, broker.cli\ntry: broker.cli.main(['audit', 'verify', '/dev/null'])\nexcept SystemExit: pass\nprint([m for m in ('aiohttp', 'broker.trust', 'broker.wiring') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.endswith("[]\n")


def test_the_command_line_alone_imports_no_audit():
    program = "import sys, broker.cli; broker.cli.build_parser(); print('broker.audit' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout == "False\n"
