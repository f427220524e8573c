"""The operator's door: who gets in, what is answered, and that nothing else is."""

import asyncio
import json
import os
import socket
import stat
import time
from contextlib import asynccontextmanager

import pytest
from aiohttp import ClientError, ClientSession, TCPConnector, UnixConnector
from support.spiffe_ca import SpiffeCa, anybody, presenting, trusting, update
from support.usage_world import usage_world
from support.worlds import AGENT

from broker import admin_door
from broker.admin_door import AdminDoor, Doors

BROKER = "spiffe://example.org/ns/inference-broker/sa/broker"
ADMIN = "spiffe://example.org/ns/ops/sa/admin"
GRANT = {"quota": "team1/agents/hourly", "identity": AGENT, "amount": "500", "reason": "a demo"}


@pytest.fixture(scope="module")
def ca():
    return SpiffeCa("example.org")


class Opened:
    def __init__(self, world, door, path, port, trust):
        self.world, self.door, self.path, self.port, self.trust = world, door, path, port, trust

    def local(self):
        return ClientSession("http://broker", connector=UnixConnector(path=str(self.path)))

    def remote(self, context):
        return ClientSession(f"https://127.0.0.1:{self.port}", connector=TCPConnector(ssl=context))


@asynccontextmanager
async def opened(tmp_path, ca, now=time.time, identities=(ADMIN,)):
    trust = trusting(ca.issue(BROKER), ca)
    async with usage_world("memory", tmp_path) as world:
        path = tmp_path / "admin.sock"
        door = AdminDoor(world.desk, trust, Doors(path, ("127.0.0.1", 0), frozenset(identities)), now)
        port = await door.open()
        try:
            yield Opened(world, door, path, port, trust)
        finally:
            await door.close()


@pytest.fixture
async def it(tmp_path, ca):
    async with opened(tmp_path, ca) as found:
        yield found


async def asked(session, method, path, **more):
    async with session, session.request(method, path, **more) as answer:
        return answer.status, json.loads(await answer.read())


async def test_our_own_user_is_told_over_the_socket_what_was_used(it):
    await it.world.spend(AGENT, 100)
    status, said = await asked(it.local(), "GET", "/v1/usage", params={"identity": AGENT})
    assert status == 200
    assert [one["used"] for one in said["counters"] if one["quota"] == "team1/agents/hourly"] == [100]


async def test_a_change_over_the_socket_is_written_down_with_the_uid(it):
    status, said = await asked(it.local(), "POST", "/v1/usage/grant", json=GRANT)
    assert (status, said["changes"][0]["credit_after"]) == (200, 500)
    assert [line["who"] for line in it.world.lines()] == [f"uid:{os.getuid()}"]


async def test_a_listed_identity_gets_in_over_mutual_tls_and_is_written_down(it, ca):
    client = trusting(ca.issue(ADMIN), ca).client_context(anybody)
    status, _ = await asked(it.remote(client), "POST", "/v1/usage/reset", json={"identity": AGENT, "reason": "x"})
    assert status == 400  # nothing is counted yet
    assert (await asked(it.remote(client), "POST", "/v1/usage/grant", json=GRANT))[0] == 200
    assert [line["who"] for line in it.world.lines()] == [ADMIN]


async def test_the_socket_is_made_for_its_owner_alone_and_taken_away_at_the_end(tmp_path, ca):
    async with opened(tmp_path, ca) as it:
        found = it.path.lstat()
        assert stat.S_ISSOCK(found.st_mode)
        assert stat.S_IMODE(found.st_mode) == 0o600
    assert not it.path.exists()


async def test_another_user_is_refused_whatever_the_permissions_say(it, monkeypatch):
    real = admin_door._uid
    monkeypatch.setattr(admin_door, "_uid", lambda transport: real(transport) + 12345)
    status, said = await asked(it.local(), "POST", "/v1/usage/grant", json=GRANT)
    assert (status, said["error"]["code"]) == (403, "forbidden")
    assert it.world.lines() == []


@pytest.mark.parametrize("who", [AGENT, BROKER, "spiffe://example.org/ns/ops/sa/admin2", "spiffe://example.org/ns/ops/sa/admin/x"])
async def test_an_identity_that_is_not_listed_ends_in_the_handshake(it, ca, who):
    client = trusting(ca.issue(who), ca).client_context(anybody)
    with pytest.raises((ClientError, OSError)):
        await asked(it.remote(client), "GET", "/v1/usage")


async def test_the_same_name_of_another_authority_ends_in_the_handshake(it, ca):
    stranger = SpiffeCa("example.org")
    with pytest.raises((ClientError, OSError)):
        await asked(it.remote(presenting(stranger.issue(ADMIN))), "GET", "/v1/usage")


async def test_a_kept_connection_is_judged_again_at_each_request(it, ca):
    client = trusting(ca.issue(ADMIN), ca).client_context(anybody)
    async with it.remote(client) as session:
        async with session.get("/v1/usage") as answer:
            assert answer.status == 200
        other = SpiffeCa("example.org")
        it.trust.apply(update(other.issue(BROKER), other))
        async with session.get("/v1/usage") as answer:
            assert answer.status == 401


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/metrics", 404),
        ("GET", "/v1/usage/grant", 405),
        ("POST", "/v1/usage", 405),
        ("DELETE", "/v1/usage", 405),
        ("GET", "/v1/usage?limit=3", 400),
        ("GET", "/v1/usage?policy=a&policy=b", 400),
        ("GET", "/v1/usage?since=yesterday", 400),
    ],
)
async def test_what_is_not_here_says_what_is(it, method, path, status):
    found, said = await asked(it.local(), method, path)
    assert found == status
    assert said["error"]["message"]


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"data": json.dumps(GRANT)}, 400),
        ({"data": b"{", "headers": {"content-type": "application/json"}}, 400),
        ({"json": GRANT | {"force": True}}, 400),
        ({"json": GRANT | {"amount": 500}}, 400),
        ({"json": {"quota": "team1/agents/hourly"}}, 400),
        ({"json": []}, 400),
        ({"data": b'{"reason": "\xff"}', "headers": {"content-type": "application/json"}}, 400),
        ({"json": GRANT | {"reason": "x" * (16 << 10)}}, 413),
    ],
)
async def test_an_order_that_is_none_is_refused_and_changes_nothing(it, more, status):
    assert (await asked(it.local(), "POST", "/v1/usage/grant", **more))[0] == status
    assert it.world.lines() == []


async def test_a_defect_of_ours_says_so_and_nothing_else(it, monkeypatch):
    async def broken(_wanted):
        raise RuntimeError("with a secret in it")

    monkeypatch.setattr(it.world.desk, "report", broken)
    status, said = await asked(it.local(), "GET", "/v1/usage")
    assert status == 500
    assert "secret" not in json.dumps(said)


async def test_an_answer_that_takes_too_long_is_given_up(it, monkeypatch):
    monkeypatch.setattr(admin_door, "DEADLINE_S", 0.05)

    async def never(_wanted):
        await asyncio.Event().wait()

    monkeypatch.setattr(it.world.desk, "report", never)
    status, said = await asked(it.local(), "GET", "/v1/usage")
    assert (status, said["error"]["code"]) == (408, "too_slow")


async def test_a_socket_that_a_killed_broker_left_is_replaced(tmp_path, ca):
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / "admin.sock"))
    left.close()
    async with opened(tmp_path, ca) as it:
        assert (await asked(it.local(), "GET", "/v1/usage"))[0] == 200


async def test_a_socket_that_somebody_listens_on_and_a_file_of_another_kind_are_left_alone(tmp_path, ca):
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(str(path))
        taken.listen()
        with pytest.raises(OSError, match="another process listens there"):
            async with opened(tmp_path, ca):
                pass
    path.unlink()
    path.write_text("kept")
    with pytest.raises(OSError, match="a file of another kind"):
        async with opened(tmp_path, ca):
            pass
    assert path.read_text() == "kept"


async def test_a_socket_of_the_next_broker_is_not_taken_away_by_the_last(tmp_path, ca):
    async with opened(tmp_path, ca) as it:
        it.path.unlink()
        it.path.write_text("the next one's")
    assert it.path.read_text() == "the next one's"


async def test_a_path_too_long_for_a_socket_is_said_before_anything_is_made(tmp_path, ca):
    door = AdminDoor(None, trusting(ca.issue(BROKER), ca), Doors(tmp_path / ("x" * 108)), time.time)
    with pytest.raises(ValueError, match="at most 107 bytes"):
        await door.open()
    await door.close()


async def test_plain_http_gets_nothing_at_the_door_of_mutual_tls(it):
    reader, writer = await asyncio.open_connection("127.0.0.1", it.port)
    writer.write(b"GET /v1/usage HTTP/1.1\r\nhost: x\r\n\r\n")
    assert b"HTTP/1.1 200" not in await asyncio.wait_for(reader.read(), 10)
    writer.close()


async def test_answers_name_no_software_and_are_kept_nowhere(it):
    async with it.local() as session, session.get("/v1/usage") as answer:
        assert answer.headers["Server"] == "aiaccess"
        assert answer.headers["Cache-Control"] == "no-store"
