"""Commands that read a cluster once: the same answer as a broker of that cluster gives, and then they end."""

import asyncio
import json

import pytest
from support.fake_apiserver import FakeApiServer, access, api_server, routing
from support.kube_world import agent

from broker import cli, logs
from broker.kube import once
from broker.kube.connection import NoCluster
from broker.kube.once import read_once
from broker.kube.source import Scope

SCOPE = Scope.of("inference-broker", (), ("team1", "team2"))


@pytest.fixture
async def server():
    async with api_server() as running:
        running.put(routing())
        running.put(access("agents"))
        yield running


async def explained(server: FakeApiServer, tmp_path, namespace: str, *more: str) -> int:
    words = ["explain", "--resources", "kubernetes", "--kubeconfig", server.kubeconfig(tmp_path), "--namespaces", "team1", *more]
    return await asyncio.to_thread(cli.main, [*words, "--identity", agent(namespace), "--model", "team1/gpt-4o"])


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr(logs, "configure", lambda *_: None)
    for variable in ("BROKER_RESOURCES", "BROKER_NAMESPACE", "BROKER_NAMESPACES", "KUBECONFIG"):
        monkeypatch.delenv(variable, raising=False)


async def test_everything_is_read_and_nothing_is_left_open(server, tmp_path):
    found = await asyncio.to_thread(read_once, server.kubeconfig(tmp_path), {}, SCOPE)
    assert [one.about.name for one in found.access] == ["agents"]
    assert found.pending == frozenset()
    async with asyncio.timeout(5):
        while server.watches:
            await asyncio.sleep(0.01)


async def test_a_namespace_that_may_not_be_read_does_not_keep_the_others_from_it(server, tmp_path):
    server.refuse = lambda path, query: (403, {}) if "team2" in path else None
    found = await asyncio.to_thread(read_once, server.kubeconfig(tmp_path), {}, SCOPE)
    assert found.unreadable == {"team2"}
    assert len(found.access) == 1


async def test_a_server_that_does_not_answer_is_said_with_what_is_missing(server, tmp_path, monkeypatch):
    monkeypatch.setattr(once, "PATIENCE_S", 0.3)
    server.refuse = lambda path, query: (500, {}) if "team2" in path else None
    with pytest.raises(NoCluster, match="of namespace team2"):
        await asyncio.to_thread(read_once, server.kubeconfig(tmp_path), {}, SCOPE)


@pytest.mark.parametrize(("namespace", "code", "first"), [("team1", 0, "allowed"), ("team9", 3, "refused (forbidden)")])
async def test_explain_says_what_a_broker_of_the_cluster_would(server, tmp_path, capsys, namespace, code, first):
    assert await explained(server, tmp_path, namespace) == code
    assert capsys.readouterr().out.startswith(first)


async def test_check_says_what_is_wrong_in_the_cluster(server, tmp_path, capsys):
    server.put(access("wrong", surprise=1))
    words = ["check", "--resources", "kubernetes", "--kubeconfig", server.kubeconfig(tmp_path), "--namespaces", "team1"]
    assert await asyncio.to_thread(cli.main, words) == 1
    assert "AIAccessPolicy team1/wrong: error: spec.surprise" in capsys.readouterr().out


async def test_no_cluster_is_one_line(tmp_path, capsys):
    words = ["check", "--resources", "kubernetes", "--kubeconfig", str(tmp_path / "absent")]
    assert await asyncio.to_thread(cli.main, words) == 2
    assert capsys.readouterr().err.count("\n") == 1


async def test_nobody_guesses_where_the_objects_are(capsys):
    assert await asyncio.to_thread(cli.main, ["check"]) == 2
    assert "--resources kubernetes" in capsys.readouterr().err


async def test_files_that_are_named_count_more_than_what_the_environment_says(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("BROKER_RESOURCES", "kubernetes")
    tmp_path.joinpath("routing.yaml").write_text(json.dumps(routing()))
    assert await asyncio.to_thread(cli.main, ["check", "-f", str(tmp_path)]) == 0
    assert "objects: 1" in capsys.readouterr().out
