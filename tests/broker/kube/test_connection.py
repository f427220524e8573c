"""Every request carries credentials, has a deadline, and goes to the server that was named and nowhere else."""

import asyncio
import json
import logging
from pathlib import Path

import pytest
from support.fake_apiserver import TOKEN, FakeApiServer
from support.web_ca import WebCa

from broker.kube import connection as room
from broker.kube.connection import Away, Connection, NoCluster, Refused, TooLarge

LIST = "/apis/aiaccess.dev/v1alpha1/namespaces/team1/aiaccesspolicies"
ALL = {"limit": "10"}


async def read_watch(connection: Connection, query: dict[str, str] | None = None) -> bytes:
    found = b""
    async with connection.watch(LIST, query or {"resourceVersion": "1000"}, 30.0) as chunks:
        async for chunk in chunks:
            found += chunk
    return found


def kubeconfig(folder: Path, **cluster: object) -> str:
    file = folder / "kubeconfig"
    file.write_text(
        json.dumps(
            {
                "current-context": "c",
                "clusters": [{"name": "k", "cluster": cluster}],
                "users": [{"name": "u", "user": {"token": TOKEN}}],
                "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
            }
        )
    )
    return str(file)


@pytest.fixture
def pod(server: FakeApiServer, tmp_path, monkeypatch):
    """This process as a pod: a service account's folder, and the API server's address in the environment."""
    authority = WebCa()
    (tmp_path / "ca.crt").write_bytes(authority.pem)
    (tmp_path / "token").write_text("first-token")
    server.tls = authority.context("localhost")
    monkeypatch.setattr(room, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(room, "SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    return tmp_path


async def restarted(server: FakeApiServer) -> dict[str, str]:
    await server.down()
    server.port = 0
    await server.up()
    return {"KUBERNETES_SERVICE_HOST": "localhost", "KUBERNETES_SERVICE_PORT": str(server.port)}


async def test_every_request_carries_the_credentials(server, connection):
    await connection.get(LIST, ALL, 1 << 20)
    server.answer_watches = lambda: False
    await read_watch(connection)
    assert [one.headers["Authorization"] for one in server.requests] == [f"Bearer {TOKEN}"] * 2


async def test_a_pod_uses_its_service_account_and_the_clusters_authority(server, pod):
    connection = await Connection.open(None, await restarted(server))
    try:
        await connection.get(LIST, ALL, 1 << 20)
    finally:
        await connection.close()
    assert server.requests[-1].headers["Authorization"] == "bearer first-token"


async def test_a_rotated_token_is_read_again_when_the_server_refuses_the_old_one(server, pod, monkeypatch):
    monkeypatch.setattr(room, "RENEW_S", 0.0)
    connection = await Connection.open(None, await restarted(server))
    try:
        (pod / "token").write_text("second-token")
        server.refuse = lambda path, query: (401, {}) if "first" in server.requests[-1].headers["Authorization"] else None
        with pytest.raises(Refused, match="401"):
            await connection.get(LIST, ALL, 1 << 20)
        await connection.get(LIST, ALL, 1 << 20)
    finally:
        await connection.close()
    assert server.requests[-1].headers["Authorization"] == "bearer second-token"


async def test_credentials_that_stay_refused_are_not_read_at_every_request(server, connection, monkeypatch):
    server.refuse = lambda path, query: (401, {})
    monkeypatch.setattr(Connection, "_renew", None)  # called, it would fail
    for _ in range(3):
        with pytest.raises(Refused):
            await connection.get(LIST, ALL, 1 << 20)
    assert len(server.requests) == 3


async def test_a_server_of_another_authority_gets_no_token(server, pod):
    environ = await restarted(server)
    (pod / "ca.crt").write_bytes(WebCa().pem)
    connection = await Connection.open(None, environ)
    try:
        with pytest.raises(Away, match="certificate"):
            await connection.get(LIST, ALL, 1 << 20)
    finally:
        await connection.close()
    assert server.requests == []


async def test_the_environment_names_no_proxy_for_this(server, tmp_path, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    connection = await Connection.open(server.kubeconfig(tmp_path), {})
    try:
        assert b"items" in await connection.get(LIST, ALL, 1 << 20)
    finally:
        await connection.close()


async def test_a_refusal_says_what_the_server_says(server, connection):
    server.refuse = lambda path, query: (403, {"Retry-After": "7"})
    with pytest.raises(Refused, match="is refused with 403") as refused:
        await connection.get(LIST, ALL, 1 << 20)
    assert (refused.value.status, refused.value.retry_after_s) == (403, 7)


@pytest.mark.parametrize("retry_after", ["-1", "soon", "Wed, 21 Oct 2026 07:28:00 GMT", ""])
async def test_a_retry_after_that_is_no_number_counts_for_nothing(server, connection, retry_after):
    server.refuse = lambda path, query: (503, {"Retry-After": retry_after})
    with pytest.raises(Refused) as refused:
        await connection.get(LIST, ALL, 1 << 20)
    assert refused.value.retry_after_s == 0


async def test_a_server_cannot_send_us_away_for_long(server, connection):
    server.refuse = lambda path, query: (503, {"Retry-After": "86400"})
    with pytest.raises(Refused) as refused:
        await connection.get(LIST, ALL, 1 << 20)
    assert refused.value.retry_after_s == 30


async def test_what_a_server_says_is_printable_and_short():
    said = room.cleaned("a\x1b[31mb\n" + "x" * 10_000)
    assert said.startswith("a?[31mb?x")
    assert len(said) == 500


async def test_an_answer_that_is_too_long_is_not_read_to_its_end(server, connection):
    with pytest.raises(TooLarge):
        await connection.get(LIST, ALL, 10)


async def test_a_server_that_is_not_there_is_away(server, connection):
    await server.down()
    with pytest.raises(Away):
        await connection.get(LIST, ALL, 1 << 20)


async def test_a_connection_that_breaks_in_the_middle_of_a_watch_is_away(server, connection):
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(asyncio.wait_for(expect_away(connection), 5))
        while not server.watches:
            await asyncio.sleep(0.001)
        server.drop()
    assert reading.result()


async def expect_away(connection: Connection) -> bool:
    with pytest.raises(Away):
        await read_watch(connection, {"resourceVersion": "100"})
    return True


async def test_a_server_that_says_nothing_is_away_after_a_while(server, connection, monkeypatch):
    monkeypatch.setattr(room, "SILENCE_S", 0.2)
    with pytest.raises(Away, match="Timeout"):
        await read_watch(connection, {"resourceVersion": "100"})


async def test_a_list_has_a_deadline(server, connection, monkeypatch):
    monkeypatch.setattr(room, "GET_S", 0.2)
    server.delay_s = 60
    with pytest.raises(Away, match="Timeout"):
        await connection.get(LIST, ALL, 1 << 20)


async def test_a_redirect_is_no_answer(server, connection):
    server.refuse = lambda path, query: (302, {"Location": "/elsewhere"}) if path == LIST else None
    with pytest.raises((Refused, Away)):
        await connection.get(LIST, ALL, 1 << 20)


@pytest.mark.parametrize(
    ("cluster", "why"),
    [
        ({"server": "https://10.0.0.1", "insecure-skip-tls-verify": True}, "insecure-skip-tls-verify"),
        ({"server": "http://10.0.0.1"}, "https"),
        ({"server": "http://127.0.0.1.evil.test"}, "https"),
    ],
)
async def test_a_kubeconfig_that_would_send_the_token_to_anybody_is_refused(tmp_path, cluster, why):
    with pytest.raises(NoCluster, match=why):
        await Connection.open(kubeconfig(tmp_path, **cluster), {})


@pytest.mark.parametrize("text", ["", "{}", "[]", "a: b", "{", "current-context: x\nclusters: []\ncontexts: []\nusers: []\n"])
async def test_a_kubeconfig_that_is_none_is_refused_with_a_sentence(tmp_path, text):
    (tmp_path / "kubeconfig").write_text(text)
    with pytest.raises(NoCluster, match="no usable credentials"):
        await Connection.open(str(tmp_path / "kubeconfig"), {})


async def test_a_kubeconfig_that_is_not_there_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(NoCluster, match="--kubeconfig"):
        await Connection.open(str(tmp_path / "absent"), {})


async def test_a_pod_without_a_service_account_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "SERVICE_TOKEN_FILENAME", str(tmp_path / "absent"))
    with pytest.raises(NoCluster, match="token"):
        await Connection.open(None, {"KUBERNETES_SERVICE_HOST": "localhost", "KUBERNETES_SERVICE_PORT": "443"})


@pytest.fixture
def home(server, tmp_path, monkeypatch) -> Path:
    (tmp_path / ".kube").mkdir()
    Path(server.kubeconfig(tmp_path)).rename(tmp_path / ".kube" / "config")
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


async def test_without_any_of_it_home_is_where_one_looks(server, home):
    connection = await Connection.open(None, {})
    try:
        await connection.get(LIST, ALL, 1 << 20)
    finally:
        await connection.close()
    assert len(server.requests) == 1


async def test_the_token_is_in_no_log_and_no_error(server, connection, caplog):
    caplog.set_level(logging.DEBUG)
    server.refuse = lambda path, query: (500, {})
    with pytest.raises(Refused) as refused:
        await connection.get(LIST, ALL, 1 << 20)
    assert TOKEN not in caplog.text
    assert TOKEN not in str(refused.value)
