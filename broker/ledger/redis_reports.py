"""What was counted, for people to read: in many small steps beside the holds, so that nobody waits for a report."""

import asyncio
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Final, cast

import msgspec
from hiredis import ReplyError

from broker.adjustment import with_credits
from broker.ledger.holds import first_hour
from broker.ledger.redis_cluster import Nodes
from broker.ledger.redis_node import away
from broker.ledger.redis_places import TOGETHER, Place
from broker.ledger.redis_scripts import LAYOUT
from broker.ledger.redis_wire import Reply
from broker.quota import Reading, Tally

DEADLINE_S: Final = 5.0
_STEP: Final = 1000
_US: Final = 1_000_000
_NEWEST: Final = struct.Struct("<dIQIIQ")  # as tallying.lua packs it
_EACH: Final = 5  # of an hour before the newest: its number modulo _HOURS, and what was done in it
_HOURS: Final = 128
_decode_past: Final = msgspec.msgpack.Decoder(list[int]).decode


class Reports:
    """One look at the store. What is asked here raises Unavailable, also when it takes longer than anybody waits for.

    Args:
        places: where something was ever counted.
        now_us: the store's time.
    """

    def __init__(self, nodes: Nodes, places: Sequence[Place], now_us: int) -> None:
        self._nodes = nodes
        self._places = places
        self._now_us = now_us

    async def tallies(self) -> tuple[Tally, ...]:
        async with _in_time():
            found: list[Tally | None] = []
            async for place in self._readable():
                found += [_tally(*entry, self._now_us) async for entry in self._hash(place, b"/tallies")]
        return tuple(sorted((tally for tally in found if tally is not None), key=lambda tally: (tally.policy, tally.identity)))

    async def readings(self) -> tuple[Reading, ...]:
        readings: list[Reading] = []
        async with _in_time():
            async for place in self._readable():
                readings += await self._counted(place)
                readings += await self._leased(place)
        return tuple(sorted(readings, key=lambda reading: reading.counter))

    async def open_holds(self) -> int:
        counts: list[Reply] = []
        async with _in_time():
            for few in _batches([place async for place in self._readable()]):
                counts += await asyncio.gather(*(self._ask(place, b"ZCARD", b"/open") for place in few))
        return sum(count for count in counts if isinstance(count, int))

    async def _readable(self) -> AsyncIterator[Place]:
        """All that this version wrote, or could have."""
        for few in _batches(self._places):
            layouts = await asyncio.gather(*(self._ask(place, b"HGET", b"", b"layout") for place in few))
            for place, layout in zip(few, layouts, strict=True):
                if layout == b"%d" % LAYOUT:
                    yield place

    async def _counted(self, place: Place) -> list[Reading]:
        now_us = max(self._now_us, int(cast("bytes | None", await self._ask(place, b"HGET", b"", b"clock")) or 0))
        windows = await self._list(place, b"ZRANGEBYSCORE", b"/windows", b"(%d" % now_us, b"+inf", b"WITHSCORES")
        rows = [
            (counter, int(used), (int(ends_us) - now_us) / _US)
            for window, ends_us in zip(windows[::2], windows[1::2], strict=True)
            async for counter, used in self._hash(place, b"/" + window)
        ]
        return [Reading(*row) for row in with_credits(rows)]

    async def _leased(self, place: Place) -> list[Reading]:
        readings: list[Reading] = []
        for counter in await self._list(place, b"SMEMBERS", b"/widths"):
            alive = await self._ask(place, b"ZCOUNT", b"/leases/" + counter, b"(%d" % self._now_us, b"+inf")
            if isinstance(alive, int) and alive:
                readings.append(Reading(counter.decode(), alive, 0.0))
        return readings

    async def _hash(self, place: Place, key: bytes) -> AsyncIterator[tuple[str, bytes]]:
        """Every entry of a hash once, also when it grows meanwhile."""
        cursor, seen = b"0", set[bytes]()
        while True:
            answer = await self._ask(place, b"HSCAN", key, cursor, b"COUNT", _STEP)
            cursor, entries = cast("tuple[bytes, list[bytes]]", answer)
            for field, value in zip(entries[::2], entries[1::2], strict=True):
                if field not in seen:
                    seen.add(field)
                    yield field.decode(), value
            if cursor == b"0":
                return

    async def _list(self, place: Place, command: bytes, key: bytes, *words: bytes) -> list[bytes]:
        return cast("list[bytes]", await self._ask(place, command, key, *words))

    async def _ask(self, place: Place, command: bytes, key: bytes, *words: bytes | int) -> Reply:
        """Ask of the namespace's key that ends so. Raises Unavailable."""
        node = self._nodes.of(place.slot)
        reply = await node.ask(command, place.base + key, *words)
        if isinstance(reply, ReplyError):
            said = str(reply)
            if said.startswith("MOVED "):
                self._nodes.moved(said, node)
                raise away()
            raise node.refuse(said)
        return reply


@asynccontextmanager
async def _in_time() -> AsyncGenerator[None]:
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield
    except TimeoutError:
        raise away() from None


def _batches(places: Sequence[Place]) -> Iterator[Sequence[Place]]:
    """A round trip for each of thousands of namespaces would take seconds."""
    for at in range(0, len(places), TOGETHER):
        yield places[at : at + TOGETHER]


def _tally(field: str, packed: bytes, now_us: int) -> Tally | None:
    """The last 24 hours, or nothing when nothing was done in them."""
    policy, identity = field.split(" ", 1)
    used_us, newest, *figures = _NEWEST.unpack_from(packed)
    past = _decode_past(packed[_NEWEST.size :]) if len(packed) > _NEWEST.size else []
    by_hour = [(newest, figures)]
    by_hour += [(newest - (newest - past[at]) % _HOURS, past[at + 1 : at + _EACH]) for at in range(0, len(past), _EACH)]
    first = first_hour(now_us / _US)
    hours = [figures for hour, figures in by_hour if hour >= first]
    if not hours:
        return None
    tokens, requests, denied, microusd = map(sum, zip(*hours, strict=True))
    last_used = used_us / _US
    return Tally(policy, identity, tokens, requests, denied, last_used if last_used >= first * 3600 else 0.0, microusd)
