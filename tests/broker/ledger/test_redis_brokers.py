"""Several brokers on one Redis, in one loop and as processes of which one is killed: together they never pass a limit."""

import asyncio
import itertools
from contextlib import AsyncExitStack, suppress

import pytest
from hypothesis import Phase, given, settings
from support.asks import ask, requests, tokens, width
from support.clock import Clock
from support.interleaving import PROMPT, WANTED, call_all, plans
from support.ledger_workers import HOLD, work_until_the_quota_is_gone
from support.ledgers import steered, used
from support.redis_server import redis_server, shared_server

from broker.chat import Usage
from broker.errors import ConcurrencyFull, ExceedsQuota, Unavailable
from broker.grant import Per
from broker.ledger.redis import RedisLedger
from broker.ledger.redis_scripts import QUIET_S
from broker.quota import LEASE_S, Expired

TEN_REQUESTS = tokens(10 * (PROMPT + WANTED))
LIMIT = tokens(200 * 1000, Per.MONTH)  # for a thousand holds of 200: the victim dies long before they are gone
_prefixes = (f"brokers-{number}/" for number in itertools.count())


class Brokers:
    """As one ledger, of which each question goes to another."""

    def __init__(self, ledgers) -> None:
        self._next = itertools.cycle(ledgers)

    def __getattr__(self, name):
        return getattr(next(self._next), name)


@settings(max_examples=30, deadline=None, phases=[Phase.generate])
@given(plans)
def test_brokers_that_take_turns_never_let_the_provider_bill_more_than_the_quota(fates):
    async def run() -> None:
        clock, prefix = Clock(), next(_prefixes)
        async with AsyncExitStack() as closing:
            ledgers = [await steered(prefix, clock) for _ in range(4)]
            for ledger in ledgers:
                closing.push_async_callback(ledger.close)
            await call_all(Brokers(ledgers), TEN_REQUESTS, fates)

    asyncio.run(run())


async def test_each_expired_hold_is_told_by_one_of_the_brokers_that_sweep_at_once():
    clock, prefix = Clock(), next(_prefixes)
    ledgers = [await steered(prefix, clock) for _ in range(4)]
    lost = [ask(tokens(10**6), hold_id=f"lost-{number}", expires_s=100) for number in range(300)]
    await asyncio.gather(*map(ledgers[0].hold, lost))
    clock.move(100)
    told = await asyncio.gather(*(ledger.expire() for ledger in ledgers))
    assert sorted(itertools.chain(*told), key=str) == sorted((Expired(one.hold_id, one.identity, 200) for one in lost), key=str)
    for ledger in ledgers:
        await ledger.close()


async def test_a_lease_is_renewed_and_freed_by_whichever_broker():
    clock, prefix = Clock(), next(_prefixes)
    here, there = await steered(prefix, clock), await steered(prefix, clock)
    await here.hold(ask(width(1), hold_id="one"))
    clock.move(LEASE_S - 1)
    await there.renew(["one", "never-held"])
    clock.move(LEASE_S - 1)
    with pytest.raises(ConcurrencyFull):
        await there.hold(ask(width(1)))
    await there.settle("one", None)
    assert (await here.hold(ask(width(1)))).leased
    await here.close()
    await there.close()


async def test_a_broker_that_was_cut_off_longer_than_a_lease_lasts_renews_its_own_before_it_admits(tmp_path):
    clock = Clock()
    with redis_server(tmp_path) as server:
        ledger = await steered("cut-off/", clock, server)
        await ledger.hold(ask(width(1), hold_id="one"))
        clock.move(LEASE_S + 1)
        with server.client() as client:
            client.client_kill_filter(_type="normal", skipme=True)
        async with asyncio.timeout(20):
            while True:
                clock.move(QUIET_S)
                try:
                    await ledger.hold(ask(width(1)))
                except Unavailable:
                    await asyncio.sleep(0.02)
                except ConcurrencyFull:
                    break
                else:
                    raise AssertionError("the slot of an exchange that runs was given away")
        await ledger.close()


async def test_after_an_outage_for_all_nobody_is_admitted_before_the_others_could_renew():
    clock, prefix = Clock(), next(_prefixes)
    slow = await steered(prefix, clock)
    await slow.hold(ask(width(1), hold_id="one"))
    clock.move(LEASE_S + 1)
    quick = await steered(prefix, clock)
    with pytest.raises(Unavailable, match="just come back"):
        await quick.hold(ask(width(1)))
    await slow.renew(["one"])
    clock.move(QUIET_S)
    with pytest.raises(ConcurrencyFull):
        await quick.hold(ask(width(1)))
    await slow.close()
    await quick.close()


async def test_a_namespace_without_leases_is_admitted_to_at_once_however_long_nobody_used_it():
    clock, prefix = Clock(), next(_prefixes)
    first = await steered(prefix, clock)
    await first.hold(ask(tokens(1_000)))
    clock.move(LEASE_S + 1)
    later = await steered(prefix, clock)
    assert (await later.hold(ask(tokens(1_000)))).tokens.remaining == 600
    await first.close()
    await later.close()


async def test_an_id_that_was_voided_where_it_was_never_seen_is_held_by_no_broker_that_comes_later():
    clock, prefix = Clock(), next(_prefixes)
    first = await steered(prefix, clock)
    await first.void("late")
    for ledger in (first, await steered(prefix, clock)):
        with pytest.raises(Exception, match="given up"):
            await ledger.hold(ask(tokens(1_000), hold_id="late"))
        await ledger.close()


async def test_two_prefixes_in_one_server_know_nothing_of_each_other():
    clock = Clock()
    here, there = await steered(next(_prefixes), clock), await steered(next(_prefixes), clock)
    await here.hold(ask(tokens(200), hold_id="one"))
    await there.hold(ask(tokens(200), hold_id="one"))
    await here.settle("one", Usage(0, 0))
    assert (await used(here), await used(there)) == ({"hourly": 0}, {"hourly": 200})
    await here.close()
    await there.close()


async def test_every_key_begins_with_the_prefix_and_the_namespace():
    clock, prefix = Clock(), next(_prefixes)
    ledger = await steered(prefix, clock)
    await ledger.hold(ask(tokens(1_000), width(3), hold_id="one"))
    await ledger.settle("one", None)
    with shared_server().client() as client:
        begins = {key.split(b"}")[0].decode() + "}" for key in client.keys(f"{prefix}*")}
    assert begins == {f"{prefix}{{team1}}", f"{prefix}{{-}}", f"{prefix}{{clock}}"}
    await ledger.close()


async def test_a_window_that_is_over_leaves_no_key_behind_even_when_something_is_settled_in_it():
    clock, prefix = Clock(), next(_prefixes)
    ledger = await steered(prefix, clock)
    await ledger.hold(ask(tokens(1_000), requests(60), hold_id="one", expires_s=7200))
    clock.move(3600)
    await ledger.expire()
    await ledger.settle("one", Usage(1, 1))
    with shared_server().client() as client:
        assert client.keys(f"{prefix}*/2*") == []
    await ledger.close()


async def test_a_namespace_that_begins_to_count_does_not_go_back_behind_the_time_of_the_store():
    clock, prefix = Clock(), next(_prefixes)
    ledger = await steered(prefix, clock)
    clock.move(1800)
    await ledger.void("never-held")
    clock.move(-1800)
    assert (await ledger.hold(ask(tokens(1_000)))).tokens.reset_s == 1800
    await ledger.close()


async def test_a_tally_does_not_grow_beyond_a_day():
    clock, prefix = Clock(), next(_prefixes)
    ledger = await steered(prefix, clock)
    for number in range(30):
        await ledger.hold(ask(hold_id=f"hour-{number}"))
        await ledger.settle(f"hour-{number}", Usage(1, 1))
        clock.move(3600)
    with shared_server().client() as client:
        (packed,) = client.hvals(f"{prefix}{{team1}}/tallies")
    assert len(packed) == 36 + 3 + 23 * 5  # small figures take a byte each
    await ledger.close()


async def test_a_broker_remembers_nothing_of_a_hold_that_is_over():
    ledger = await steered(next(_prefixes), Clock())
    for hold_id in ("settled", "voided", "refused"):
        with suppress(ExceedsQuota):
            await ledger.hold(ask(width(3), tokens(200 if hold_id != "refused" else 1), hold_id=hold_id, least=16, wanted=16, prompt=50))
    await ledger.settle("settled", None)
    await ledger.void("voided")
    assert ledger._held == {}
    assert all(place.leased == set() for place in ledger._places._places.values())
    await ledger.close()


async def test_after_two_quiet_days_nothing_is_left_but_the_namespaces():
    clock, prefix = Clock(), next(_prefixes)
    ledger = await steered(prefix, clock)
    for hold_id in ("settled", "expired", "voided"):
        await ledger.hold(ask(tokens(1_000), requests(60), width(3), hold_id=hold_id, expires_s=100))
    await ledger.settle("settled", Usage(1, 1))
    await ledger.void("voided")
    await ledger.void("never-held")
    clock.move(100)
    assert len(await ledger.expire()) == 1
    clock.move(2 * 86400)
    await ledger.expire()
    with shared_server().client() as client:
        left = {key.decode().removeprefix(prefix) for key in client.keys(f"{prefix}*")}
    assert left == {"{team1}", "{-}", "{-}/namespaces", "{clock}"}
    await ledger.close()


async def test_four_processes_and_a_kill_never_pass_the_limit_and_forget_nothing(tmp_path):
    with redis_server(tmp_path) as server:
        opening = "RedisLedger.open(where, deadline_s=5.0, allow_insecure=True)"
        told = work_until_the_quota_is_gone(server.url, opening, f"tokens({LIMIT.limit}, Per.MONTH)")
        ledger = await RedisLedger.open(server.url, deadline_s=5.0, allow_insecure=True)
        (reading,) = await ledger.readings()
        held = await ledger.open_holds()
        assert reading.used == held * HOLD == LIMIT.limit
        assert len(set(told)) == len(told)
        assert len(told) <= held <= len(told) + 4  # the victim may have died between holding and saying so
        await ledger.close()
