"""`kubectl aiaccess` against an API server that misbehaves on demand: what it reads, what it says, and how it ends."""

import asyncio
import csv
import io
import json
from pathlib import Path

import pytest
from support.fake_apiserver import FakeApiServer, access, api_server, routing
from support.kube_world import agent

from broker import logs
from broker.plugin import command

STATUS = {
    "identityCount": 1,
    "tokens24h": 40,
    "usd24h": "1.25",
    "usage": [
        {
            "identity": agent("team1"),
            "tokens24h": 40,
            "usd24h": "1.25",
            "requests24h": 2,
            "denied24h": 3,
            "quotas": [
                {"name": "hourly", "unit": "tokens", "used": "40", "limit": "1000", "resetTime": "2026-11-21T13:00:00Z"},
                {"name": "width", "unit": "concurrent", "used": "0", "limit": "8"},
            ],
        }
    ],
}


@pytest.fixture
async def server():
    async with api_server() as running:
        running.put(routing())
        running.put({**access("agents"), "status": STATUS})
        yield running


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr(logs, "configure", lambda *_: None)
    for variable in ("BROKER_NAMESPACE", "BROKER_SHARED_MODEL_NAMESPACES", "BROKER_KUBECONFIG", "KUBECONFIG", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(variable, raising=False)


async def run(server: FakeApiServer, tmp_path: Path, *words: str) -> int:
    return await asyncio.to_thread(command.main, [words[0], "--kubeconfig", server.kubeconfig(tmp_path), *words[1:]])


def no_secrets(path: str, query: dict[str, str]):
    return (403, {}) if path.endswith("/secrets") else None


def keyed(server: FakeApiServer, **fields: object) -> None:
    server.put(routing(secret="openai"))
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "openai", "namespace": "team1"},
        "data": {"api-key": "c2stY2FuYXJ5"},
    }
    server.put(secret | fields)


async def test_explain_says_yes_and_why(server, tmp_path, capsys):
    assert await run(server, tmp_path, "explain", agent("team1"), "gpt-4o") == 0
    out = capsys.readouterr().out
    assert out.startswith(f"allowed: {agent('team1')} asking for gpt-4o: ")
    assert "team1/agents (Allow): allows" in out


@pytest.mark.parametrize(
    ("identity", "model"), [(agent("team9"), "team1/gpt-4o"), (agent("team1"), "absent"), ("spiffe://example.org/x", "y")]
)
async def test_explain_says_no_with_exit_code_3(server, tmp_path, capsys, identity, model):
    assert await run(server, tmp_path, "explain", identity, model) == 3
    assert capsys.readouterr().out.startswith("refused (forbidden)")


async def test_a_namespace_that_is_named_is_where_the_model_is(server, tmp_path, capsys):
    server.put(access("guests", subjects=[{"spiffeID": "spiffe://partner.test/x"}]))
    assert await run(server, tmp_path, "explain", "spiffe://partner.test/x", "gpt-4o", "-n", "team1") == 0
    assert "asking for team1/gpt-4o" in capsys.readouterr().out


async def test_a_secret_that_one_may_not_read_is_unknown_and_no_error(server, tmp_path, capsys):
    keyed(server)
    server.refuse = no_secrets
    assert await run(server, tmp_path, "explain", agent("team1"), "gpt-4o") == 0
    unknown = "you may not read the Secret openai: its provider is ready if it has the key api-key and lets it go to api.openai.com"
    assert f"CredentialUnknown: {unknown}" in capsys.readouterr().out
    assert await run(server, tmp_path, "explain", agent("team1"), "gpt-4o", "-o", "json") == 0
    (backend,) = json.loads(capsys.readouterr().out)["backends"]
    assert (backend["ready"], backend["reason"]) == (None, "CredentialUnknown")


async def test_a_secret_that_one_may_read_is_judged(server, tmp_path, capsys):
    keyed(server)
    assert await run(server, tmp_path, "explain", agent("team1"), "gpt-4o") == 0
    keyed(server, data={"other": "c2stY2FuYXJ5"})
    assert await run(server, tmp_path, "explain", agent("team1"), "gpt-4o") == 3
    out = capsys.readouterr().out
    assert "CredentialKeyMissing" in out
    assert "canary" not in out


async def test_the_brokers_own_namespace_unread_is_a_remark(server, tmp_path, capsys):
    server.refuse = lambda path, query: (403, {}) if "/namespaces/inference-broker/" in path else None
    assert await run(server, tmp_path, "explain", agent("team1"), "gpt-4o") == 0
    assert "namespace inference-broker may not be read: a Deny of the broker's operator would stand there" in capsys.readouterr().err


async def test_a_deny_of_the_operator_counts_where_it_may_be_read(server, tmp_path, capsys):
    server.put(access("stop", namespace="ops", action="Deny"))
    server.put(access("stop-all", namespace="ops", action="Deny", subjects=[{"spiffeID": agent("team1")}]))
    assert await run(server, tmp_path, "explain", agent("team1"), "gpt-4o", "--broker-namespace", "ops") == 3
    assert "AIAccessPolicy ops/stop-all denies it" in capsys.readouterr().out


async def test_a_namespace_that_one_may_not_read_is_not_a_no(server, tmp_path, capsys):
    server.refuse = lambda path, query: (403, {}) if "/namespaces/team1/" in path else None
    assert await run(server, tmp_path, "explain", agent("team1"), "gpt-4o") == 2
    said = capsys.readouterr()
    assert "you may not list the objects of namespace team1" in said.err
    assert said.out == ""


@pytest.mark.parametrize("words", [("explain", "spiffe://example.org/x", "m"), ("usage", "-A")])
async def test_without_a_cluster_there_is_one_sentence(tmp_path, capsys, words):
    code = await asyncio.to_thread(command.main, [words[0], "--kubeconfig", str(tmp_path / "absent"), *words[1:]])
    said = capsys.readouterr().err
    assert (code, said.count("\n")) == (2, 1)
    assert said.startswith("kubectl aiaccess: ")
    assert "is not there: give --kubeconfig" in said


@pytest.mark.parametrize("words", [("explain", "spiffe://example.org/ns/team1/sa/agent", "m"), ("usage", "-A")])
async def test_an_api_server_that_is_down_is_one_sentence(server, tmp_path, capsys, monkeypatch, words):
    monkeypatch.setattr("broker.kube.once.PATIENCE_S", 0.5)
    await server.down()
    assert await run(server, tmp_path, *words) == 2
    assert capsys.readouterr().err.count("\n") == 1


async def test_what_is_no_identity_is_said(server, tmp_path, capsys):
    assert await run(server, tmp_path, "explain", "team1/agent", "gpt-4o") == 2
    assert "SPIFFE_ID: a SPIFFE ID starts with spiffe://" in capsys.readouterr().err


async def test_who_can_lists_classes_of_identities_of_a_model_in_its_namespace(server, tmp_path, capsys):
    server.put(access("stop", action="Deny", subjects=[{"spiffeID": "spiffe://partner.test/x"}]))
    assert await run(server, tmp_path, "who-can", "gpt-4o", "-n", "team1") == 0
    out = capsys.readouterr().out
    assert out.startswith("model team1/gpt-4o of AIRoutingPolicy team1/")
    assert "granted by AIAccessPolicy team1/agents" in out
    assert "AIAccessPolicy team1/stop cuts off spiffe://partner.test/x" in out
    assert await run(server, tmp_path, "who-can", "gpt-4o", "-n", "team9") == 2


async def test_who_can_counts_the_denies_of_the_operator_and_says_when_they_may_not_be_read(server, tmp_path, capsys):
    server.put(access("stop", namespace="ops", action="Deny", subjects=[{"spiffeIDPrefix": "spiffe://example.org/"}]))
    words = ("who-can", "gpt-4o", "-n", "team1", "--broker-namespace", "ops")
    assert await run(server, tmp_path, *words) == 3
    assert "may be called by nobody" in capsys.readouterr().out
    server.refuse = lambda path, query: (403, {}) if "/namespaces/ops/" in path else None
    assert await run(server, tmp_path, *words) == 0
    assert "namespace ops may not be read" in capsys.readouterr().err
    server.refuse = lambda path, query: (403, {}) if "/namespaces/team1/" in path else None
    assert await run(server, tmp_path, *words) == 2


async def test_usage_is_a_table_of_what_the_status_says(server, tmp_path, capsys):
    assert await run(server, tmp_path, "usage", "-n", "team1") == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["POLICY", "IDENTITY", "TOKENS-24H", "USD-24H", "REQUESTS-24H", "DENIED-24H", "QUOTAS"]
    assert row.split(maxsplit=6) == ["agents", agent("team1"), "40", "1.25", "2", "3", "hourly 40/1000 tokens, width 0/8 concurrent"]


async def test_usage_everywhere_names_the_namespace_and_reads_all_pages(server, tmp_path, capsys):
    server.page_objects = 2
    for number in range(7):
        server.put({**access("agents", namespace=f"other{number}"), "status": STATUS})
    assert await run(server, tmp_path, "usage", "-A") == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[0] == "NAMESPACE"
    assert sorted(row.split()[0] for row in rows) == [*(f"other{number}" for number in range(7)), "team1"]


async def test_usage_for_programs_and_for_spreadsheets(server, tmp_path, capsys):
    assert await run(server, tmp_path, "usage", "-n", "team1", "-o", "json") == 0
    (policy,) = json.loads(capsys.readouterr().out)["policies"]
    assert (policy["name"], policy["usd24h"], policy["usage"]) == ("agents", "1.25", STATUS["usage"])
    assert await run(server, tmp_path, "usage", "-n", "team1", "-o", "csv") == 0
    who, hourly, width = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (who["row"], who["tokens_24h"], who["usd_24h"], who["quota"]) == ("identity", "40", "1.25", "")
    assert (hourly["quota"], hourly["used"], hourly["reset_time"]) == ("hourly", "40", "2026-11-21T13:00:00Z")
    assert (width["row"], width["limit"], width["tokens_24h"]) == ("quota", "8", "")


async def test_identities_that_are_not_shown_are_counted(server, tmp_path, capsys):
    server.put({**access("agents"), "status": STATUS | {"identityCount": 57}})
    assert await run(server, tmp_path, "usage", "-n", "team1") == 0
    assert "… and 56 identities more under team1/agents" in capsys.readouterr().out


async def test_a_status_that_says_nothing_of_usage_is_named(server, tmp_path, capsys):
    server.put(access("new"))
    assert await run(server, tmp_path, "usage", "-n", "team1") == 0
    assert "nothing is known yet of team1/new" in capsys.readouterr().err


async def test_the_namespace_is_that_of_the_current_context(server, tmp_path, capsys):
    file = Path(server.kubeconfig(tmp_path))
    named = file.read_text().replace('"user": "test"}', '"user": "test", "namespace": "team1"}')  # noqa: ASYNC240  a few bytes
    file.write_text(named)  # noqa: ASYNC240
    assert await asyncio.to_thread(command.main, ["usage", "--kubeconfig", str(file)]) == 0
    assert "agents" in capsys.readouterr().out
    assert await run(server, tmp_path, "usage") == 0
    assert "No AIAccessPolicies found in namespace default" in capsys.readouterr().err


async def test_a_cluster_that_says_no_is_said_in_its_words(server, tmp_path, capsys):
    server.refuse = lambda path, query: (403, {})
    assert await run(server, tmp_path, "usage", "-A") == 2
    assert "the API server says no: 403" in capsys.readouterr().err


async def test_what_a_status_says_cannot_steer_a_terminal_or_a_spreadsheet(server, tmp_path, capsys):
    hostile = {**STATUS["usage"][0], "identity": "=cmd()\x1b[2J"}
    server.put({**access("agents"), "status": STATUS | {"usage": [hostile, "no mapping"]}})
    for output in ("table", "csv"):
        assert await run(server, tmp_path, "usage", "-n", "team1", "-o", output) == 0
    table, _, sheet = capsys.readouterr().out.partition("row,")
    assert "\x1b" not in table
    assert "'=cmd()" in sheet


@pytest.mark.parametrize("words", [(), ("explain",), ("who-can",), ("usage",)])
def test_help_names_the_plugin_as_kubectl_does_and_every_exit_code(capsys, words):
    with pytest.raises(SystemExit, match="0"):
        command.main([*words, "--help"])
    out = capsys.readouterr().out
    assert out.startswith("usage: kubectl aiaccess")
    assert "explain" not in words or "0 = yes, 3 = no, 2 = it cannot be known" in out
    assert "who-can" not in words or "0 = somebody may, 3 = nobody, 2 = it cannot be known" in out
