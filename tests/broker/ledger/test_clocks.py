"""Clocks that jump, of stores and of brokers, by libfaketime: counters stay right, the store's time rules, and never goes back."""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.asks import ask, tokens, width
from support.faketime import FakeTime
from support.ledgers import PATIENCE_S
from support.redis_server import PREFIX, redis_server

from broker.chat import Usage
from broker.errors import BrokerError, ConcurrencyFull, QuotaExhausted, Unavailable
from broker.grant import Per
from broker.ledger.redis import RedisLedger

LIMIT = 1000
BROKER = Path(__file__).parents[2] / "support" / "ledger_of_a_broker.py"
NOON = datetime(2026, 11, 17, 12, 30, tzinfo=UTC)
MONTHS_END = datetime(2026, 11, 30, 23, 59, 30, tzinfo=UTC)
LEAP_SECOND = datetime(2017, 1, 1, tzinfo=UTC)  # 2016-12-31 had a second 23:59:60
HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)


@pytest.fixture
def time(tmp_path):
    return FakeTime(tmp_path)


@pytest.fixture
def server(tmp_path, time):
    with redis_server(tmp_path, environ=time.environ) as started:
        time.put(NOON)
        yield started


@pytest.fixture
async def ledger(server):
    opened = await RedisLedger.open(server.url, deadline_s=PATIENCE_S, allow_insecure=True)
    yield opened
    await opened.close()


async def used_and_left_s(ledger) -> tuple[int, float]:
    (reading,) = await ledger.readings()
    return reading.used, reading.reset_s


async def test_a_new_month_begins_at_midnight_and_what_was_held_before_stays_in_the_old_one(time, ledger):
    time.put(MONTHS_END)
    monthly = tokens(LIMIT, Per.MONTH)
    await ledger.hold(ask(monthly, hold_id="november"))
    for _ in range(4):
        await ledger.hold(ask(monthly))
    with pytest.raises(QuotaExhausted) as refused:
        await ledger.hold(ask(monthly, least=100))
    assert refused.value.retry_after_s == pytest.approx(30, abs=20)
    time.put(MONTHS_END + timedelta(minutes=1))
    held = await ledger.hold(ask(monthly))
    assert held.tokens.remaining == LIMIT - 200
    assert held.tokens.reset_s == pytest.approx(31 * 86400, abs=60)
    await ledger.settle("november", Usage(1, 1))
    assert (await used_and_left_s(ledger))[0] == 200


async def test_a_february_has_its_own_length(time, ledger):
    time.put(datetime(2028, 2, 29, 23, 59, 0, tzinfo=UTC))
    assert (await ledger.hold(ask(tokens(LIMIT, Per.MONTH)))).tokens.reset_s == pytest.approx(60, abs=20)
    time.put(datetime(2028, 3, 1, 0, 0, 30, tzinfo=UTC))
    assert (await ledger.hold(ask(tokens(LIMIT, Per.MONTH)))).tokens.remaining == LIMIT - 200


@pytest.mark.parametrize("per", [Per.MINUTE, Per.HOUR, Per.DAY, Per.MONTH])
async def test_a_leap_second_is_a_second_that_comes_twice_and_opens_no_window_twice(time, ledger, per):
    """Unix time has no 23:59:60: the clock says 23:59:59 again, also where it had said 00:00:00 already."""
    budget = tokens(LIMIT, per)
    time.put(LEAP_SECOND)
    for _ in range(5):
        await ledger.hold(ask(budget))
    time.put(LEAP_SECOND - SECOND)
    with pytest.raises(QuotaExhausted):
        await ledger.hold(ask(budget, least=100))
    time.put(LEAP_SECOND)
    with pytest.raises(QuotaExhausted):
        await ledger.hold(ask(budget, least=100))
    assert (await used_and_left_s(ledger))[0] == LIMIT


async def test_a_store_whose_clock_jumps_back_an_hour_stands_still_for_that_hour(time, ledger):
    hourly = tokens(LIMIT)
    for _ in range(5):
        await ledger.hold(ask(hourly))
    time.put(NOON - HOUR)
    with pytest.raises(QuotaExhausted) as refused:
        await ledger.hold(ask(hourly, least=100))
    assert refused.value.retry_after_s == pytest.approx(1800, abs=20)
    assert (await used_and_left_s(ledger))[0] == LIMIT
    time.put(NOON + HOUR)
    assert (await ledger.hold(ask(hourly))).tokens.remaining == LIMIT - 200


async def test_holds_and_leases_of_before_a_jump_back_are_not_forgotten_in_it(time, ledger):
    await ledger.hold(ask(tokens(LIMIT), width(1), hold_id="one", expires_s=60))
    time.put(NOON - HOUR)
    with pytest.raises(ConcurrencyFull):
        await ledger.hold(ask(width(1)))
    assert await ledger.expire() == ()
    assert await ledger.settle("one", Usage(10, 10)) == 0
    assert (await used_and_left_s(ledger))[0] == 20
    assert (await ledger.hold(ask(width(1)))).leased


async def test_a_jump_forward_spends_what_nobody_settled_and_the_way_back_gives_nothing_back(time, ledger):
    monthly = tokens(LIMIT, Per.MONTH)
    await ledger.hold(ask(monthly, hold_id="one", expires_s=600))
    time.put(NOON + HOUR)
    assert [expired.hold_id for expired in await ledger.expire()] == ["one"]
    time.put(NOON)
    await ledger.settle("one", Usage(1, 1))
    assert (await used_and_left_s(ledger))[0] == 200


def windows(server) -> list[bytes]:
    """Those that are there. Asking is what makes Redis remove a key whose time to live is over by its clock."""
    with server.client() as client:
        return [key for key in client.keys(f"{PREFIX}*/month/*") if client.exists(key)]


async def test_a_jump_two_months_forward_and_back_opens_no_month_again(time, server, ledger):
    monthly = tokens(LIMIT, Per.MONTH)
    for _ in range(5):
        await ledger.hold(ask(monthly))
    time.put(NOON + 60 * 24 * HOUR)
    assert len(windows(server)) == 1
    time.put(NOON)
    with pytest.raises(QuotaExhausted):
        await ledger.hold(ask(monthly, least=100))


async def test_a_window_that_begins_while_the_servers_clock_is_behind_the_namespace_lasts_until_its_end(time, server, ledger):
    monthly = tokens(LIMIT, Per.MONTH)
    await ledger.hold(ask(tokens(10**6)))
    time.put(NOON - 5 * HOUR)
    for _ in range(5):
        await ledger.hold(ask(monthly))
    time.put(MONTHS_END)
    assert len(windows(server)) == 1
    with pytest.raises(QuotaExhausted):
        await ledger.hold(ask(monthly, least=100))


async def test_a_server_that_takes_over_an_hour_behind_opens_no_window_again(tmp_path, time):
    with redis_server(tmp_path, "--appendonly", "yes", "--appendfsync", "always", environ=time.environ) as server:
        time.put(NOON)
        ledger = await RedisLedger.open(server.url, deadline_s=PATIENCE_S, allow_insecure=True)
        for _ in range(5):
            await ledger.hold(ask(tokens(LIMIT)))
        server.kill()
        time.put(NOON - HOUR)
        server.start()
        async with asyncio.timeout(PATIENCE_S):
            while (said := await refusal_of(ledger)) == Unavailable.code:
                await asyncio.sleep(0.05)
        assert said == QuotaExhausted.code
        assert (await used_and_left_s(ledger))[0] == LIMIT
        await ledger.close()


async def refusal_of(ledger) -> str:
    try:
        await ledger.hold(ask(tokens(LIMIT), least=100))
    except BrokerError as refusal:
        return refusal.code
    return ""


class Broker:
    """Its ledger, in a process with a clock of its own."""

    def __init__(self, folder: Path, store: str, per: Per) -> None:
        self.time = FakeTime(folder)
        command = [sys.executable, str(BROKER), store, str(LIMIT), per]
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self.time.environ)

    def hold(self) -> tuple[datetime, str]:
        """What it took the time for, and what it was told: what is left and for how many seconds, or the code of the refusal."""
        self.child.stdin.write("hold\n")
        self.child.stdin.flush()
        time, said = self.child.stdout.readline().strip().split(" ", 1)
        return datetime.fromtimestamp(int(time), UTC), said

    def end(self) -> None:
        self.child.stdin.close()
        self.child.wait(timeout=30)
        self.child.stdout.close()


@contextlib.contextmanager
def broker(folder: Path, store: str, per: Per = Per.HOUR) -> Iterator[Broker]:
    started = Broker(folder, store, per)
    try:
        yield started
    finally:
        started.end()


def test_brokers_whose_clocks_are_hours_apart_count_in_one_window_of_redis(tmp_path):
    with redis_server(tmp_path) as server, broker(tmp_path, server.url, Per.MONTH) as one, broker(tmp_path, server.url, Per.MONTH) as other:
        told = []
        for jump in (timedelta(), -HOUR, 40 * 24 * HOUR, -40 * 24 * HOUR, HOUR):
            one.time.put(NOON + jump)
            other.time.put(NOON - jump)
            (said_by_one, first), (said_by_other, second) = one.hold(), other.hold()
            assert said_by_one - said_by_other == pytest.approx(2 * jump, abs=20 * SECOND)
            told += [first.split()[0], second.split()[0]]
        assert told == ["800", "600", "400", "200", "0", *["quota_exhausted"] * 5]


def test_a_sqlite_file_remembers_the_latest_time_that_any_broker_wrote(tmp_path):
    store = str(tmp_path / "quota.db")
    with broker(tmp_path, store) as one:
        one.time.put(NOON)
        for left in ("800", "600", "400", "200"):
            assert one.hold()[1].split()[0] == left
        one.time.put(NOON - HOUR)
        said_at, said = one.hold()
        assert said_at == pytest.approx(NOON - HOUR, abs=20 * SECOND)
        assert said.split()[0] == "0"
    with broker(tmp_path, store) as restarted:
        restarted.time.put(NOON - HOUR)
        assert restarted.hold()[1] == "quota_exhausted"
        restarted.time.put(NOON + HOUR)
        assert restarted.hold()[1].split()[0] == "800"
