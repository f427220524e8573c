"""Only a Redis that cannot forget, over TLS and as a user of our own, unless the operator says otherwise; its password is in no text."""

import asyncio
import logging
import traceback
from pathlib import Path

import pytest
from redis.exceptions import NoPermissionError
from support.asks import POLICY, ask, requests, tokens, width
from support.clock import Clock
from support.ledgers import steered
from support.redis_server import LEAST_RIGHTS, PREFIX, redis_server, tls_files

from broker.chat import Usage
from broker.errors import Unavailable
from broker.ledger.database import CannotOpen
from broker.ledger.redis import RedisLedger
from broker.quota import LEASE_S

ROOT = Path(__file__).parents[3]
CANARY = "canary-of-the-quota-store"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return tls_files(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def lasting(tmp_path_factory, files):
    with redis_server(tmp_path_factory.mktemp("redis"), tls=files) as started:
        yield started


@pytest.fixture
def server(lasting):
    """Empty, and with the broker's user as it should be."""
    if lasting.child is None:
        lasting.start()
    with lasting.client() as admin:
        admin.flushall()
        admin.execute_command("ACL", "SETUSER", "broker", "reset", "on", f">{CANARY}", *LEAST_RIGHTS.split())
    return lasting


@pytest.fixture
def url(server, files):
    return f"rediss://broker:{CANARY}@localhost:{server.port}/1?ca-file={files.ca}"


async def do_everything(ledger, clock) -> None:
    """Each question of the ledger in each way that it can end."""
    budgets = tokens(10_000), requests(60), width(8)
    await ledger.void("before-anything")
    for hold_id in ("settled", "voided", "lost", "late"):
        await ledger.hold(ask(*budgets, hold_id=hold_id, expires_s=100))
    assert await ledger.settle("settled", Usage(150, 100)) == 50
    await ledger.void("voided")
    await ledger.void("never-held")
    await ledger.void("held-elsewhere")
    await ledger.renew(["lost", "late"])
    await ledger.deny([POLICY], "spiffe://example.org/ns/team1/sa/other")
    assert await ledger.open_holds() == 2
    assert len(await ledger.readings()) == 3
    clock.move(LEASE_S + 100)
    assert {one.hold_id for one in await ledger.expire()} == {"lost", "late"}
    assert await ledger.settle("late", Usage(150, 100)) == 50
    assert len(await ledger.tallies()) == 2
    clock.move(2 * 86400)
    await ledger.expire()
    assert await ledger.readings() == ()
    assert await ledger.tallies() == ()


async def test_over_tls_as_a_user_with_the_least_rights_everything_works(server, url):
    clock = Clock()
    ledger = await steered(PREFIX, clock, server, url)
    await do_everything(ledger, clock)
    await ledger.close()


ELSEWHERE = {"+cluster|slots", "+time"}  # a cluster's tests need the one, and the test below the other


@pytest.mark.parametrize("right", [word for word in LEAST_RIGHTS.split() if word.startswith("+") and word not in ELSEWHERE])
async def test_each_of_the_rights_is_needed(server, url, right):
    with server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "broker", f"-{right[1:]}")
    clock = Clock()
    with pytest.raises((Unavailable, CannotOpen, AssertionError)):
        ledger = await steered(PREFIX, clock, server, url)
        try:
            await do_everything(ledger, clock)
        finally:
            await ledger.close()


async def test_the_right_to_the_servers_time_is_needed(server, url):
    ledger = await RedisLedger.open(url)
    await ledger.hold(ask(tokens(1_000)))
    with server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "broker", "-time")
    with pytest.raises(Unavailable):
        await ledger.hold(ask(tokens(1_000)))
    await ledger.close()


@pytest.mark.parametrize(
    "command",
    [
        f"GET {PREFIX}x",
        "HGET other/x f",
        f"KEYS {PREFIX}*",
        "FLUSHALL",
        f"DEL {PREFIX}{{team1}}",
        "CONFIG GET *",
        "ACL LIST",
        "EVAL return 0",
        "SCRIPT FLUSH",
        "MONITOR",
        "CLIENT LIST",
        "SUBSCRIBE c",
        "SCAN 0",
        "SHUTDOWN",
    ],
)
def test_that_user_may_do_nothing_else(server, command):
    with server.client(username="broker", password=CANARY) as user, pytest.raises(NoPermissionError):
        user.execute_command(*command.split(), *(["0"] if command.startswith("EVAL") else []))


def test_the_rights_are_documented_as_they_are_tested():
    assert LEAST_RIGHTS in " ".join((ROOT / "docs" / "quotas.md").read_text().split())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("rediss://", "redis://"), "without TLS"),
        ((f"broker:{CANARY}@", f":{CANARY}@"), "without a user"),
        ((f"broker:{CANARY}@", ""), "without a user"),
    ],
)
async def test_less_than_that_needs_the_operators_word(url, change, reason):
    wanted = url.replace(*change).partition("?")[0]
    with pytest.raises(CannotOpen, match=f"{reason}.*--allow-insecure-quota-store") as refusal:
        await RedisLedger.open(wanted)
    assert CANARY not in str(refusal.value)


async def test_a_socket_needs_no_word_of_the_operator(tmp_path):
    with redis_server(tmp_path, "--unixsocket", str(tmp_path / "socket")):
        ledger = await RedisLedger.open(f"redis+unix://{tmp_path}/socket")
        assert (await ledger.hold(ask(tokens(1_000)))).granted_output == 100
        await ledger.close()


@pytest.mark.parametrize("change", [(CANARY, f"{CANARY}-wrong"), ("broker:", "nobody:")], ids=["password", "user"])
async def test_a_wrong_password_ends_the_start_and_says_it_to_nobody(url, caplog, change):
    caplog.set_level(logging.DEBUG)
    with pytest.raises(CannotOpen, match="does not let us in: WRONGPASS") as refusal:
        await RedisLedger.open(url.replace(*change))
    assert CANARY not in "".join(traceback.format_exception(refusal.value)) + caplog.text


async def test_an_authority_that_we_do_not_know_ends_the_start(url, tmp_path, files):
    (tmp_path / "other").mkdir()
    other = tls_files(tmp_path / "other")
    with pytest.raises(CannotOpen, match="does not prove who it is"):
        await RedisLedger.open(url.replace(str(files.ca), str(other.ca)))


async def test_a_certificate_for_another_name_ends_the_start(url):
    with pytest.raises(CannotOpen, match="does not prove who it is"):
        await RedisLedger.open(url.replace("@localhost:", "@127.0.0.1:"))


async def test_a_server_that_wants_our_certificate_gets_it(tmp_path, files):
    with redis_server(tmp_path, "--tls-auth-clients", "yes", tls=files) as server:
        url = f"rediss://localhost:{server.port}?ca-file={files.ca}"
        with pytest.raises(CannotOpen):
            await RedisLedger.open(url)
        ledger = await RedisLedger.open(f"{url}&cert-file={files.cert}&key-file={files.key}", allow_insecure=True)
        assert (await ledger.hold(ask(tokens(1_000)))).granted_output == 100
        await ledger.close()


async def test_a_password_from_a_file_is_read_again_at_the_next_connection(server, url, tmp_path):
    file = tmp_path / "password"
    file.write_text(f"{CANARY}\n")
    ledger = await RedisLedger.open(f"{url.replace(f':{CANARY}@', '@')}&password-file={file}")
    await ledger.hold(ask(tokens(1_000)))
    with server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "broker", "resetpass", ">another")
        file.write_text("another")
        admin.client_kill_filter(_type="normal", skipme=True)
    with pytest.raises(Unavailable):
        while True:
            await ledger.hold(ask(tokens(10**6)))
    await until_back(ledger)
    await ledger.close()


async def until_back(ledger) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                await ledger.hold(ask(tokens(10**6)))
            except Unavailable:
                await asyncio.sleep(0.02)
            else:
                return


async def test_the_password_is_in_no_log_and_no_error_whatever_happens(server, url, caplog):
    caplog.set_level(logging.DEBUG)
    ledger = await RedisLedger.open(url)
    await ledger.hold(ask(tokens(1_000)))
    errors = []
    with server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "broker", "-evalsha")
    for _ in range(2):
        with pytest.raises(Unavailable) as refused:
            await ledger.hold(ask(tokens(1_000)))
        errors.append(refused.value)
        server.kill()
    await ledger.close()
    texts = [
        *("".join(traceback.format_exception(error)) for error in errors),
        caplog.text,
        repr(vars(ledger)),
        repr(vars(ledger._places.nodes)),
    ]
    texts += [str(vars(record)) for record in caplog.records]
    assert "quota_store_failed" in caplog.text
    assert [text for text in texts if CANARY in text] == []


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
async def test_a_server_that_may_forget_counts_is_refused(tmp_path, policy):
    said = f"set its maxmemory-policy to noeviction \\(it is {policy}\\)"
    with redis_server(tmp_path, "--maxmemory-policy", policy) as server, pytest.raises(CannotOpen, match=said):
        await RedisLedger.open(server.url, allow_insecure=True)


async def test_a_server_that_begins_to_forget_is_refused_at_the_next_look_until_it_is_mended(tmp_path, caplog):
    with redis_server(tmp_path) as server:
        ledger = await RedisLedger.open(server.url, allow_insecure=True)
        await ledger.hold(ask(tokens(1_000)))
        with server.client() as admin:
            admin.config_set("maxmemory-policy", "allkeys-lru")
            with pytest.raises(Unavailable):
                await ledger.expire()
            with pytest.raises(Unavailable):
                await ledger.hold(ask(tokens(1_000)))
            assert "noeviction" in caplog.records[-1].reason
            admin.config_set("maxmemory-policy", "noeviction")
        await until_back(ledger)
        await ledger.close()


async def test_a_primary_that_needs_a_replica_and_has_lost_it_counts_nothing(tmp_path, caplog):
    """As docs/quotas.md says of one that was cut off: with min-replicas-to-write there are no two that count."""
    with redis_server(tmp_path) as server:
        ledger = await RedisLedger.open(server.url, allow_insecure=True)
        await ledger.hold(ask(tokens(1_000)))
        with server.client() as admin:
            admin.config_set("min-replicas-to-write", 1)
            with pytest.raises(Unavailable):
                await ledger.hold(ask(tokens(1_000)))
            assert "NOREPLICAS" in caplog.records[-1].answer
            admin.config_set("min-replicas-to-write", 0)
        (reading,) = await ledger.readings()
        assert reading.used == 200
        await ledger.close()


async def test_a_replica_is_refused(tmp_path):
    with redis_server(tmp_path) as server:
        with server.client() as admin:
            admin.replicaof("127.0.0.1", 1)
        with pytest.raises(CannotOpen, match="is a replica"):
            await RedisLedger.open(server.url, allow_insecure=True)


async def test_a_prefix_with_a_brace_is_refused(tmp_path):
    with pytest.raises(CannotOpen, match="brace"):
        await RedisLedger.open("redis+unix:///none", "a{b}/")
