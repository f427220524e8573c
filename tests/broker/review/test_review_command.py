"""How the commands of a reviewer are called, and what is said to whoever calls them wrongly."""

from pathlib import Path

import pytest
from support.worlds import AGENT, access, files, routing

from broker import cli


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in ("BROKER_RESOURCES", "BROKER_NAMESPACE", "BROKER_TRUST_DOMAIN", "BROKER_SHARED_MODEL_NAMESPACES"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(files(tmp_path, {"o/a.yaml": routing() + access()}))
    return tmp_path


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (f"explain -f o --identity {AGENT}", "give --identity and --model, or --questions alone"),
        ("explain -f o", "give --identity and --model, or --questions alone"),
        (f"explain -f o --questions q.yaml --identity {AGENT} --model gpt", "give --identity and --model, or --questions alone"),
        ("explain -f o --questions q.yaml --model gpt", "give --identity and --model, or --questions alone"),
        (f"explain -f o --identity {AGENT} --model gpt -o table", "-o table belongs to --questions"),
        ("explain --questions q.yaml", "say where the objects are"),
        (f"who-can -f o --identity {AGENT} -n team1", "-n belongs to --model"),
        ("diff -f o", "give -f twice"),
        ("diff", "give -f twice"),
        ("diff -f o -f o -f o", "give -f twice"),
    ],
)
@pytest.mark.usefixtures("here")
def test_what_is_called_wrongly_is_2_and_one_sentence(line: str, told: str, capsys: pytest.CaptureFixture[str]):
    assert cli.main(line.split()) == 2
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("who-can -f o --model gpt", 0),
        ("who-can --resources o --model gpt -n team1", 0),
        ("who-can -f o --model gpt -n team2", 2),
        (f"who-can -f o --identity {AGENT}", 0),
        ("who-can -f o --identity spiffe://a.org/x", 3),
        ("diff -f o -f o", 0),
        ("diff -f o -f absent", 1),
        (f"explain -f o --identity {AGENT} --model gpt", 0),
        (f"explain -f o --identity {AGENT} --model gpt --trust-domain elsewhere.org", 3),
        (f"explain -f o --identity {AGENT} --model team1/gpt --trust-domain elsewhere.org", 0),
    ],
)
@pytest.mark.usefixtures("here")
def test_each_ends_with_its_code(line: str, code: int):
    assert cli.main(line.split()) == code


@pytest.mark.parametrize(("command", "codes"), [("diff", "4 = somebody gains"), ("who-can", "3 = nobody"), ("explain", "3 = not")])
def test_help_says_every_exit_code(command: str, codes: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="0"):
        cli.main([command, "--help"])
    assert codes in capsys.readouterr().out
