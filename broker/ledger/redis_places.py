"""The namespaces of a quota store in Redis: each is entered before it is counted in, and what was lost is found out there."""

import asyncio
import logging
import secrets
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

from hiredis import ProtocolError, ReplyError

from broker.errors import Unavailable
from broker.ledger.redis_cluster import Nodes, slot_of
from broker.ledger.redis_node import Node, away
from broker.ledger.redis_scripts import DONE, OTHER_EPOCH, OTHER_LAYOUT, US, Script, Scripts
from broker.ledger.redis_target import Target
from broker.ledger.redis_wire import Reply, Wire, pack

log = logging.getLogger(__name__)

TRIES: Final = 6  # each answer that sends us elsewhere, or tells us the time, has changed nothing

TOGETHER: Final = 200  # what one step of a sweep or of renewing takes, since nobody else is served during it

_MINUTE_US: Final = 60 * US
_OTHER_LAYOUT: Final = -1
_TODO: Final = (
    "windows that began before are refused until they are over; find out what lost or deleted them. To go on at once with counts that are"
    " too low: HDEL '%s' lost (docs/quotas.md, When Redis loses counts)"
)
NOWHERE: Final = "-"  # no namespace has this name: what is known of ids whose namespace is not


class Place:
    """One namespace in the store: where it is, and what this broker knows of it.

    wire: over which it was entered.
    epoch: in which we count. known_us: the last time that it remembers as far as we know.
    leased: ids of holds of ours that have leases here.
    """

    __slots__ = ("_seen_s", "_seen_us", "_told", "base", "epoch", "known_us", "leased", "lock", "name", "node", "slot", "wire")

    def __init__(self, name: str, prefix: str) -> None:
        self.name = name
        self.base = f"{prefix}{{{name}}}".encode()
        self.slot = slot_of(name)
        self.lock = asyncio.Lock()
        self.node: Node
        self.wire: Wire | None = None
        self.epoch = b""
        self.known_us = 0
        self.leased: set[str] = set()
        self._told = 0
        self._seen_us = 0
        self._seen_s = 0.0

    def see(self, now_us: int) -> None:
        self._seen_us, self._seen_s = now_us, time.monotonic()

    def minute(self) -> int:
        """What the store's minute should be by now. It says so when it is another."""
        return (self._seen_us + int((time.monotonic() - self._seen_s) * US)) // _MINUTE_US

    def tell_loss(self, lost_us: int, window: str = "") -> None:
        """Once for each loss. `window` is the one that somebody deleted, where we are the first to find that out."""
        if lost_us and lost_us != self._told:
            self._told = lost_us
            facts = {"window": window} if window else {}
            since, todo = datetime.fromtimestamp(lost_us / US, UTC).isoformat(), _TODO % self.base.decode()
            log.error("quota_counts_lost", extra={"namespace": self.name, "since": since, "todo": todo, **facts})

    def refuse_layout(self) -> Unavailable:
        """Said once."""
        if self._told != _OTHER_LAYOUT:
            self._told = _OTHER_LAYOUT
            todo = "end the brokers of one of the two versions (docs/quotas.md, Several versions)"
            log.error("quota_store_other_layout", extra={"namespace": self.name, "todo": todo})
        return Unavailable("The quota store is written by another version of the broker: ask the operator.", retry_after_s=60.0)


class Places:
    """All of them, and how to ask in one.

    Attributes:
        nowhere: stands for no namespace.
    """

    def __init__(self, target: Target, scripts: Scripts, prefix: str, deadline_s: float) -> None:
        self.nodes = Nodes(target, scripts, deadline_s, self._enter_again)
        self._scripts = scripts
        self._prefix = prefix
        self._places: dict[str, Place] = {}
        self.nowhere = self.of(NOWHERE)

    def of(self, name: str) -> Place:
        place = self._places.get(name)
        if place is None:
            place = self._places[name] = Place(name, self._prefix)
        return place

    async def ask(self, place: Place, script: Script, *words: bytes | str | int) -> list[Any]:
        """Ask where the namespace is, in the epoch that we count in.

        Raises:
            Unavailable: nobody answers, or not as one who can keep quotas.
        """
        for _ in range(TRIES):
            wire = place.wire
            if wire is None or wire.is_over:
                await self._enter(place)
                continue
            epoch = place.epoch
            try:
                reply = await wire.ask(pack((b"EVALSHA", script.sha, b"1", place.base, epoch, place.known_us, *words)))
            except (OSError, ProtocolError):
                raise away() from None
            if not isinstance(reply, list):
                await self._learn(place, script, reply)
                continue
            answer: list[Any] = reply
            if answer[0] == DONE:
                place.known_us = max(place.known_us, answer[1])
            elif answer[0] == OTHER_EPOCH:
                if place.epoch is epoch:  # else it was entered again meanwhile
                    place.wire = None
                continue
            else:
                place.see(answer[1])
            return answer
        raise away()

    async def everywhere(self) -> tuple[Place, ...]:
        """Every namespace that was ever in use, having said which ones we use: whoever sweeps must find them."""
        return (await self.look())[0]

    async def look(self) -> tuple[tuple[Place, ...], int]:
        """As everywhere, and the time."""
        _, names, now_us = await self._register(self._places)
        return tuple(map(self.of, names)), now_us

    async def _register(self, names: Iterable[str]) -> tuple[list[bytes], list[str], int]:
        """Ids that were voided while nobody knew their namespace, each followed by the time until which; all namespaces; the time."""
        answer = await self.ask(self.nowhere, self._scripts.register, *(name for name in names if name != NOWHERE))
        end = 3 + 2 * answer[2]
        return answer[3:end], [name.decode() for name in answer[end:]], answer[1]

    async def _learn(self, place: Place, script: Script, reply: Reply) -> None:
        """From an answer that is none. Returns when it can be asked again: nothing was done.

        Raises:
            Unavailable.
        """
        said = str(reply) if isinstance(reply, ReplyError) else "no list"
        if said.startswith("NOSCRIPT"):
            await place.node.ask(b"SCRIPT", b"LOAD", script.text)
        elif said.startswith("MOVED "):
            self.nodes.moved(said, place.node)
            place.wire = None
        else:
            raise place.node.refuse(said)

    async def _enter(self, place: Place) -> None:
        """Say what we know of a namespace, over a new connection or when it says that it is not what we counted in."""
        async with place.lock:
            if place.wire is not None and not place.wire.is_over:
                return
            voids, floor_us = list[bytes](), 0
            if place is not self.nowhere:
                voids, _, floor_us = await self._register([place.name])
            node = place.node = self.nodes.of(place.slot)
            wire, script = node.wire, self._scripts.enter
            if wire is None:
                raise away()
            words = place.base, place.epoch, place.known_us, node.facts.run_id, secrets.token_hex(8), floor_us
            reply = await node.ask(b"EVALSHA", script.sha, b"1", *words, *voids)
            if not isinstance(reply, list):
                await self._learn(place, script, reply)
                return
            answer: list[Any] = reply
            if answer[0] == OTHER_LAYOUT:
                raise place.refuse_layout()
            _, place.known_us, place.epoch, what, lost_us = answer
            place.see(place.known_us)
            if place is not self.nowhere:  # where nothing is counted
                _tell(place.name, what.decode())
                place.tell_loss(lost_us)
            if await self._renew(place, node):
                place.wire = wire

    async def _renew(self, place: Place, node: Node) -> bool:
        """Whether our leases are alive again: they may have run out meanwhile, and nobody, we neither, may be given one of them."""
        leased, script = tuple(place.leased), self._scripts.renew
        for at in range(0, len(leased), TOGETHER):
            some = leased[at : at + TOGETHER]
            reply = await node.ask(b"EVALSHA", script.sha, b"1", place.base, place.epoch, place.known_us, *some)
            if not isinstance(reply, list):
                await self._learn(place, script, reply)
                return False
            answer: list[Any] = reply
            if answer[0] != DONE:
                return False
            place.known_us = max(place.known_us, answer[1])
        return True

    async def _enter_again(self, node: Node) -> None:
        """First thing on a connection that is back: say what we know, everywhere, before somebody counts on what was lost."""
        await self.nodes.refresh()
        for place in tuple(self._places.values()):
            with suppress(Unavailable):
                if place.epoch and self.nodes.of(place.slot) is node:
                    await self._enter(place)


def _tell(namespace: str, what: str) -> None:
    if what == "begun":
        log.info("quota_counts_begin", extra={"namespace": namespace})
    elif what == "other":
        log.info("quota_store_other_server", extra={"namespace": namespace})
