"""Three nodes on loopback: one step for all quotas of a request, wherever its namespace lies, and when it moves."""

import asyncio
from binascii import crc_hqx

import pytest
from support.asks import ask
from support.redis_server import LEAST_RIGHTS, PREFIX, redis_clusters, redis_replica

from broker.chat import Usage
from broker.errors import QuotaExhausted, Unavailable
from broker.grant import Budget, Per, PolicyRef, Unit
from broker.ledger.redis import RedisLedger
from broker.ledger.redis_cluster import slot_of
from broker.quota import Ask

MENDED_S = 30.0
NAMESPACES = [f"team{number}" for number in range(12)]  # on all three nodes
WHO = "spiffe://example.org/ns/team/sa/agent"


def quotas(namespace: str) -> tuple[Budget, ...]:
    start = f"{{{namespace}}}/AIAccessPolicy/agents"
    return (
        Budget(f"{start}/daily/total_tokens/day/identity/{WHO}", Unit.TOTAL_TOKENS, 1_000, Per.DAY),
        Budget(f"{start}/monthly/output_tokens/month/policy/-", Unit.OUTPUT_TOKENS, 10_000, Per.MONTH),
        Budget(f"{start}/pace/requests/month/identity/{WHO}", Unit.REQUESTS, 100, Per.MONTH),
        Budget(f"{start}/width/concurrent/-/identity/{WHO}", Unit.CONCURRENT, 8, None),
    )


def asked(namespace: str, hold_id: str = "") -> Ask:
    return ask(*quotas(namespace), hold_id=hold_id, policies=(PolicyRef(namespace, "agents", "uid/1"),), least=100)


@pytest.fixture(scope="module")
def clusters(request, tmp_path_factory):
    """One that lasts, and one for each test that leaves its own in pieces."""
    own = sum("own_servers" in item.fixturenames for item in request.session.items)
    with redis_clusters(tmp_path_factory.mktemp("clusters"), 1 + own) as started:
        yield iter(started)


@pytest.fixture(scope="module")
def lasting(clusters):
    return next(clusters)


@pytest.fixture
def servers(lasting):
    """A cluster that a test leaves as it was, but for its keys."""
    yield lasting
    for server in lasting:
        with server.client() as client:
            client.flushall()


@pytest.fixture
def own_servers(clusters):
    return next(clusters)


@pytest.fixture
async def ledger(servers):
    opened = await RedisLedger.open(servers[0].url, allow_insecure=True)
    yield opened
    await opened.close()


@pytest.fixture
async def own_ledger(own_servers):
    opened = await RedisLedger.open(own_servers[0].url, allow_insecure=True)
    yield opened
    await opened.close()


def owner(servers, namespace: str):
    slot = slot_of(namespace)
    return next(server for number, server in enumerate(servers) if 16384 * number // 3 <= slot < 16384 * (number + 1) // 3)


async def until_held(ledger, namespace: str) -> None:
    async with asyncio.timeout(MENDED_S):
        while True:
            try:
                await ledger.hold(asked(namespace))
            except Unavailable:
                await asyncio.sleep(0.05)
            else:
                return


def test_slots_are_those_of_redis(servers):
    assert crc_hqx(b"123456789", 0) == 0x31C3  # the specification's own example
    with servers[0].client() as client:
        for namespace in NAMESPACES:
            key = f"{PREFIX}{{{namespace}}}/hour/2026-11-17T12"
            assert client.execute_command("CLUSTER KEYSLOT", key) == slot_of(namespace)


async def test_all_quotas_of_a_request_are_held_in_one_step_on_every_node(servers, ledger):
    assert {id(owner(servers, namespace)) for namespace in NAMESPACES} == set(map(id, servers))
    for namespace in NAMESPACES:
        for number in range(5):
            await ledger.hold(asked(namespace, f"{namespace}-{number}"))
        with pytest.raises(QuotaExhausted):
            await ledger.hold(asked(namespace))
        await ledger.settle(f"{namespace}-0", Usage(10, 5))
        await ledger.void(f"{namespace}-1")
    assert await ledger.open_holds() == 3 * len(NAMESPACES)
    readings = {reading.counter: reading.used for reading in await ledger.readings()}
    assert readings == {
        budget.counter: used for namespace in NAMESPACES for budget, used in zip(quotas(namespace), (615, 305, 4, 3), strict=True)
    }
    for server in servers:
        with server.client() as client:
            assert {key.decode().split("}")[0].removeprefix(f"{PREFIX}{{") for key in client.keys("*")} <= {
                *(namespace for namespace in NAMESPACES if owner(servers, namespace) is server),
                "-",
            }


async def test_another_broker_settles_and_voids_wherever_the_hold_lies(servers, ledger):
    for namespace in NAMESPACES[:4]:
        await ledger.hold(asked(namespace, f"{namespace}-settled"))
        await ledger.hold(asked(namespace, f"{namespace}-voided"))
    other = await RedisLedger.open(servers[2].url, allow_insecure=True)
    for namespace in NAMESPACES[:4]:
        assert await other.settle(f"{namespace}-settled", Usage(110, 100)) == 10
        await other.void(f"{namespace}-voided")
    assert await other.open_holds() == 0
    await other.close()


async def test_an_id_that_was_voided_before_anybody_knew_its_namespace_is_not_held(servers, ledger):
    await ledger.void("early")
    other = await RedisLedger.open(servers[1].url, allow_insecure=True)
    for namespace in NAMESPACES[:4]:
        with pytest.raises(Unavailable):
            await other.hold(asked(namespace, "early"))
    await other.close()


async def test_a_user_with_the_least_rights_suffices(servers):
    for server in servers:
        with server.client() as admin:
            admin.execute_command("ACL", "SETUSER", "broker", "on", ">canary", *LEAST_RIGHTS.split())
    ledger = await RedisLedger.open(f"redis://broker:canary@127.0.0.1:{servers[1].port}", allow_insecure=True)
    for namespace in NAMESPACES:
        await ledger.hold(asked(namespace))
    assert await ledger.expire() == ()
    await ledger.close()


async def test_a_namespace_that_moves_is_refused_while_it_is_in_two_places_and_counts_on_where_it_arrives(own_servers, own_ledger):
    namespace = NAMESPACES[0]
    slot, source = slot_of(namespace), owner(own_servers, namespace)
    target = next(server for server in own_servers if server is not source)
    await own_ledger.hold(asked(namespace, "one"))
    with source.client() as here, target.client() as there:
        ids = [client.execute_command("CLUSTER MYID").decode() for client in (here, there)]
        there.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[0])
        here.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[1])
        keys = sorted(here.execute_command("CLUSTER GETKEYSINSLOT", slot, 100))
        for key in keys:  # one by one, and between any two nothing is held, nothing counted from nothing
            here.execute_command("MIGRATE", "127.0.0.1", target.port, key, 0, 5000)
            if key != keys[-1]:
                with pytest.raises(Unavailable):
                    await own_ledger.hold(asked(namespace, "two"))
        for client in (there, here):
            client.execute_command("CLUSTER SETSLOT", slot, "NODE", ids[1])
    await until_held(own_ledger, namespace)
    await own_ledger.settle("one", Usage(100, 0))
    readings = {reading.counter: reading.used for reading in await own_ledger.readings() if f"{{{namespace}}}" in reading.counter}
    assert readings[quotas(namespace)[0].counter] == 300
    assert readings[quotas(namespace)[2].counter] == 2


async def test_a_node_that_is_away_refuses_its_namespaces_alone(own_servers, own_ledger):
    mine, other = NAMESPACES[0], next(name for name in NAMESPACES if owner(own_servers, name) is not owner(own_servers, NAMESPACES[0]))
    for namespace in NAMESPACES:
        await own_ledger.hold(asked(namespace, f"{namespace}-0"))
    owner(own_servers, mine).kill()
    with pytest.raises(Unavailable):
        while True:
            await own_ledger.hold(asked(mine))
    await until_held(own_ledger, other)


async def test_a_node_that_nobody_named_and_that_is_no_longer_needed_is_let_go(own_servers, own_ledger):
    """The seed loses all of its slots; the others are asked from then on."""
    with own_servers[0].client() as first, own_servers[1].client() as second:
        heir = second.execute_command("CLUSTER MYID").decode()
        for slot in range(16384 // 3):
            second.execute_command("CLUSTER SETSLOT", slot, "NODE", heir)
            first.execute_command("CLUSTER SETSLOT", slot, "NODE", heir)
    async with asyncio.timeout(MENDED_S):
        while len(own_ledger._places.nodes._nodes) != 2:
            await own_ledger.expire()
            await asyncio.sleep(0.1)
    for namespace in NAMESPACES:
        await until_held(own_ledger, namespace)


@pytest.mark.parametrize("is_lost", [False, True], ids=["with all it had", "without the last of it"])
async def test_a_replica_takes_over_and_counts_on_unless_it_had_not_received_all(own_servers, own_ledger, tmp_path, is_lost):
    namespace = NAMESPACES[0]
    primary = owner(own_servers, namespace)
    with redis_replica(tmp_path / "replica", own_servers, primary) as replica:
        await own_ledger.hold(asked(namespace))
        with primary.client() as client:
            assert client.wait(1, 5000) == 1
        if is_lost:
            replica.pause()
            with primary.client() as client:
                client.client_kill_filter(_type="replica")
            await own_ledger.hold(asked(namespace))
        primary.kill()
        if is_lost:
            replica.go_on()
        said = await until_said(own_ledger, namespace)
        assert ("lost counts" in said) == is_lost
        if not is_lost:
            readings = {reading.counter: reading.used for reading in await own_ledger.readings()}
            assert readings[quotas(namespace)[0].counter] == 400


async def until_said(ledger, namespace: str) -> str:
    """What is said when the store is there again: nothing, when the hold was granted."""
    async with asyncio.timeout(MENDED_S):
        while True:
            try:
                await ledger.hold(asked(namespace))
            except Unavailable as refusal:
                if "lost counts" in str(refusal):
                    return str(refusal)
                await asyncio.sleep(0.05)
            else:
                return ""
