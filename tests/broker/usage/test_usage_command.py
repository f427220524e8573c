"""`broker usage` from its command line to the door and back."""

import asyncio
import csv
import io
import json
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime

import pytest
from support.fake_workload_api import FakeWorkloadApi
from support.spiffe_ca import SpiffeCa, trusting, update
from support.usage_world import OTHER, usage_world
from support.worlds import AGENT

from broker import admin_door, cli
from broker.admin_door import AdminDoor, Doors
from broker.usage import client

BROKER = "spiffe://example.org/ns/inference-broker/sa/broker"
ADMIN = "spiffe://example.org/ns/ops/sa/admin"


@pytest.fixture(scope="module")
def ca():
    return SpiffeCa("example.org")


@asynccontextmanager
async def opened(tmp_path, ca):
    async with usage_world("memory", tmp_path) as world:
        doors = Doors(tmp_path / "admin.sock", ("127.0.0.1", 0), frozenset((ADMIN,)))
        door = AdminDoor(world.desk, trusting(ca.issue(BROKER), ca), doors, lambda: datetime.now(UTC).timestamp())
        world.port = await door.open()
        try:
            await world.spend(AGENT, 300)
            await world.spend(OTHER, 50)
            yield world
        finally:
            await door.close()


@pytest.fixture
async def it(tmp_path, ca, monkeypatch):
    for name in ("BROKER_ADMIN_SOCKET", "BROKER_ADMIN_URL", "BROKER_BROKER_SPIFFE_ID", "SPIFFE_ENDPOINT_SOCKET"):
        monkeypatch.delenv(name, raising=False)
    async with opened(tmp_path, ca) as world:
        yield world


@pytest.fixture
def run(tmp_path, capsys):
    async def run(*argv: str, where: tuple[str, ...] | None = None) -> tuple[int, str, str]:
        place = ("--admin-socket", str(tmp_path / "admin.sock")) if where is None else where
        code = await asyncio.to_thread(cli.main, ["usage", *argv, *place])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


async def test_usage_shows_who_used_what(it, run):
    code, out, _ = await run("--policy", "team1/agents", "-o", "json")
    assert code == 0
    assert {(one["quota"], one["identity"], one["used"]) for one in json.loads(out)["counters"] if one["per"] == "hour"} == {
        ("team1/agents/hourly", AGENT, 300),
        ("team1/agents/hourly", OTHER, 50),
    }


async def test_the_place_may_stand_before_the_command_or_in_the_environment(it, run, tmp_path, monkeypatch):
    grant = ("grant", "--quota", "team1/agents/team", "--amount=-10", "--reason", "x")
    assert (await run("--admin-socket", str(tmp_path / "admin.sock"), *grant, where=()))[0] == 0
    monkeypatch.setenv("BROKER_ADMIN_SOCKET", str(tmp_path / "admin.sock"))
    assert (await run(*grant, where=()))[0] == 0
    assert [line["credit_after"] for line in it.lines()] == [-10, -20]


async def test_grant_and_reset_print_before_and_after(it, run):
    code, out, _ = await run("grant", "--quota", "team1/agents/hourly", "--identity", AGENT, "--amount", "500", "--reason", "a demo")
    assert code == 0
    assert out.splitlines()[1].split("  ")[-2:] == ["300 -> 300", "0 -> 500"]
    code, out, _ = await run("reset", "--identity", AGENT, "--quota", "team1/agents/hourly", "--reason", "a demo", "-o", "csv")
    (row,) = csv.DictReader(io.StringIO(out))
    assert (row["used_before"], row["used_after"], row["credit_after"]) == ("300", "0", "500")


async def test_filters_that_fit_nothing_are_said_to(it, run):
    code, out, err = await run("--policy", "team1/agnets")
    assert (code, out) == (0, "nothing is counted in the windows that run now\n")
    assert err == "broker: nothing is of this --identity, --policy, --model and --since; without them all is shown\n"


async def test_a_dry_run_changes_nothing(it, run):
    code, out, _ = await run("reset", "--identity", AGENT, "--reason", "x", "--dry-run")
    assert code == 0
    assert out.endswith("dry run: nothing was changed\n")
    assert it.lines() == []


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (("grant", "--quota", "team1/agents/hourl", "--amount", "1", "--reason", "x"), 2, "near it: team1/agents/hourly"),
        (("reset", "--reason", "x"), 2, "say what to reset"),
        (("--since", "yesterday"), 2, "--since: 'yesterday' is no day"),
    ],
)
async def test_what_is_wrong_is_one_line_and_an_exit_code(it, run, argv, code, said):
    found, out, err = await run(*argv)
    assert (found, out) == (code, "")
    assert said in err
    assert err.startswith("broker: ")
    assert err.count("\n") == 1


async def test_who_may_not_is_told_so_and_has_an_exit_code_of_his_own(it, run, monkeypatch):
    real = admin_door._uid
    monkeypatch.setattr(admin_door, "_uid", lambda transport: real(transport) + 12345)
    code, _, err = await run()
    assert code == 3
    assert "for the broker's own user and for root" in err


async def test_without_a_broker_it_says_what_to_look_for(run, tmp_path):
    code, _, err = await run()
    assert code == 1
    assert f"no broker answers at {tmp_path / 'admin.sock'}" in err
    assert "--admin-socket" in err


async def test_what_is_no_admin_door_is_not_believed(run, tmp_path):
    async def handle(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]")
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(handle, tmp_path / "admin.sock")
    code, _, err = await run()
    server.close()
    assert code == 1
    assert "is no admin door" in err


async def test_an_answer_without_end_is_given_up(run, tmp_path, monkeypatch):
    monkeypatch.setattr(client, "ANSWER_BYTES", 1 << 20)

    async def handle(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n" + b"[" * (3 << 20))
        with suppress(OSError):
            await reader.read()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        left.set()

    left = asyncio.Event()
    server = await asyncio.start_unix_server(handle, tmp_path / "admin.sock")
    code, _, err = await run()
    await asyncio.wait_for(left.wait(), 10)
    server.close()
    assert code == 1
    assert "more than 1 MiB" in err


async def test_over_mutual_tls_the_own_svid_is_who_asks(it, run, ca):
    async with FakeWorkloadApi() as agent:
        await agent.push(update(ca.issue(ADMIN), ca))
        url = ("--admin-url", f"https://127.0.0.1:{it.port}", "--spiffe-endpoint-socket", agent.endpoint)
        order = ("reset", "--identity", AGENT, "--reason", "x")
        code, _, err = await run(*order, where=(*url, "--broker-spiffe-id", BROKER))
        assert (code, err) == (0, "")
        assert {line["who"] for line in it.lines()} == {ADMIN}
        code, _, err = await run(*order, where=(*url, "--broker-spiffe-id", "spiffe://example.org/ns/other/sa/broker"))
        assert code == 1
        assert "no broker answers" in err


async def test_an_identity_that_is_not_listed_is_told_so(it, run, ca):
    async with FakeWorkloadApi() as agent:
        await agent.push(update(ca.issue(AGENT), ca))
        url = ("--admin-url", f"https://127.0.0.1:{it.port}", "--spiffe-endpoint-socket", agent.endpoint, "--broker-spiffe-id", BROKER)
        code, _, err = await run(where=url)
    assert code == 1
    assert "are we among its --admin-identities" in err


@pytest.mark.parametrize(
    ("where", "said"),
    [
        (("--admin-url", "http://x:1"), "begins with https://"),
        (("--admin-url", "https://x:1"), "needs --broker-spiffe-id too"),
        (("--admin-url", "https://x:1", "--broker-spiffe-id", BROKER), "needs --spiffe-endpoint-socket too"),
    ],
)
async def test_a_url_needs_who_must_answer_there_and_who_we_are(run, where, said, monkeypatch):
    monkeypatch.delenv("SPIFFE_ENDPOINT_SOCKET", raising=False)
    code, _, err = await run(where=where)
    assert code == 2
    assert said in err


async def test_without_an_svid_it_says_where_it_looked(run, tmp_path, monkeypatch):
    monkeypatch.setattr(client, "SVID_S", 0.2)
    code, _, err = await run(
        where=("--admin-url", "https://x:1", "--broker-spiffe-id", BROKER, "--spiffe-endpoint-socket", f"unix://{tmp_path}/none")
    )
    assert code == 1
    assert "no SVID from" in err


async def test_watch_prints_again_until_it_is_ended(it, tmp_path):
    argv = (sys.executable, "-m", "broker", "usage", "--watch", "0.1", "-o", "csv", "--admin-socket", str(tmp_path / "admin.sock"))
    child = await asyncio.create_subprocess_exec(*argv, stdout=subprocess.PIPE)
    heads = 0
    async with asyncio.timeout(30):
        while heads < 3:
            heads += (await child.stdout.readline()).startswith(b"row,policy")
    child.send_signal(2)
    assert await asyncio.wait_for(child.wait(), 30) == 130


@pytest.mark.parametrize("text", ["0", "-1", "nan", "x", "1e9"])
def test_watch_has_bounds(text, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["usage", "--watch", text])
    assert end.value.code == 2
    assert "is no number of seconds" in capsys.readouterr().err


LINE = '{"kind":"exchange","time":"2026-11-17T12:00:00Z","decision":"allowed","spiffe_id":"spiffe://a/b","namespace":"t","model":"m","input_tokens":%d}\n'


def export(capsys, *argv: str) -> tuple[int, str, str]:
    code = cli.main(["usage", "export", *argv])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_export_adds_up_several_files(capsys, tmp_path):
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for number, file in enumerate(files, 1):
        file.write_text(LINE % number)
    code, out, err = export(capsys, "--audit", *map(str, files), "--since", "2026-11-17", "--until", "2026-11-18", "-o", "jsonl")
    assert (code, err) == (0, "")
    assert json.loads(out)["input_tokens"] == 3


def test_a_torn_line_is_told_and_with_strict_it_is_an_error(capsys, tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text(LINE % 1 + (LINE % 2)[:40])
    code, out, err = export(capsys, "--audit", str(file))
    assert code == 0
    assert len(out.splitlines()) == 2
    assert err.splitlines() == [
        f"{file}:2: no line of the audit log, or a torn one",
        "broker: lines that could not be read: 1, known to be lost: 0; they are in no sum above",
    ]
    assert export(capsys, "--audit", str(file), "--strict")[0] == 1


def test_a_file_that_is_not_there_is_one_line(capsys, tmp_path):
    code, out, err = export(capsys, "--audit", str(tmp_path / "none"))
    assert (code, out) == (1, "")
    assert err == f"broker: {tmp_path / 'none'}: No such file or directory\n"


def test_export_reads_the_standard_input_and_ends_quietly_when_nobody_reads_on():
    lines = "".join((LINE % 1).replace("a/b", f"a/b{number}") for number in range(5000))
    program = f"{sys.executable} -m broker usage export --audit - | head -n 1"
    done = subprocess.run(["bash", "-c", program], input=lines, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.startswith("day,identity,namespace,model,requests")
    assert done.stderr == ""


def test_export_asks_no_broker_and_imports_no_client():
    program = "import sys, broker.cli; broker.cli.main(['usage', 'export', '--audit', '/dev/null']); print([m for m in ('aiohttp', 'broker.trust') if m in sys.modules])"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60).stdout
    assert said.splitlines()[-1] == "[]"
