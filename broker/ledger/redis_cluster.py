"""Which server counts for which namespace: the only one, or in a Redis Cluster the one that has the namespace's hash slot."""

import asyncio
from binascii import crc_hqx
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, NamedTuple

from broker.errors import Unavailable
from broker.ledger.redis_node import Node, away
from broker.ledger.redis_scripts import Scripts
from broker.ledger.redis_target import Address, Target
from broker.ledger.redis_wire import Reply

_SLOTS: Final = 16384


class _Range(NamedTuple):
    first: int
    last: int
    address: Address


def slot_of(namespace: str) -> int:
    """CRC16 as Redis Cluster has it, of what stands between the braces of a key."""
    return crc_hqx(namespace.encode(), 0) % _SLOTS


class Nodes:
    """The servers of one quota store.

    Args:
        on_up: what to do first when a server is back.
    """

    def __init__(self, target: Target, scripts: Scripts, deadline_s: float, on_up: Callable[[Node], Awaitable[None]]) -> None:
        self._target = target
        self._scripts = scripts
        self._deadline_s = deadline_s
        self._on_up = on_up
        self._nodes: dict[Address, Node] = {}
        self._ranges: tuple[_Range, ...] = ()
        self._moved: dict[int, Address] = {}  # since the ranges were read
        self._first: Node

    async def open(self) -> None:
        """Connect to whoever must be asked. Servers that are away are waited for later.

        Raises:
            CannotOpen: one of them cannot serve.
        """
        for seed in self._target.seeds:
            self._first = self._node(seed)
            await self._first.open()
            if self._first.wire is not None:
                break
        self._ranges = await self._read_ranges()
        await asyncio.gather(*(self._node(address).open() for address in self._keep_primaries()))

    def of(self, slot: int) -> Node:
        """Raises Unavailable where nobody has this slot."""
        if not self._ranges:
            return self._first
        address = self._moved.get(slot) or next((one.address for one in self._ranges if one.first <= slot <= one.last), None)
        if address is None:
            raise away()
        return self._node(address)

    def moved(self, answer: str, asked: Node) -> None:
        """Learn from an answer `MOVED SLOT HOST:PORT` where to ask instead."""
        _, slot, address = answer.split(" ")
        host, _, port = address.rpartition(":")
        there = self._moved[int(slot)] = Address(host.strip("[]") or asked.address.host, int(port))
        self._node(there).seek()

    async def refresh(self) -> None:
        """Read anew who has which slot, from any server that is there."""
        if not self._ranges and not any(node.facts.is_cluster for node in self._nodes.values() if node.wire is not None):
            return
        ranges = await self._read_ranges()
        if ranges:
            self._ranges = ranges
            self._moved.clear()
            for address in self._keep_primaries():
                self._node(address).seek()
        else:
            for seed in self._target.seeds:
                self._node(seed).seek()

    async def inspect(self) -> None:
        """Look whether all of them are still fit."""
        await asyncio.gather(*(node.inspect() for node in self._nodes.values()))

    async def close(self) -> None:
        await asyncio.gather(*(node.close() for node in self._nodes.values()))

    def _node(self, address: Address) -> Node:
        node = self._nodes.get(address)
        if node is None:
            node = self._nodes[address] = Node(address, self._target, self._scripts, self._deadline_s, self._on_up, self.refresh)
        return node

    def _keep_primaries(self) -> set[Address]:
        """Let go of servers that have no slots; those that have are returned. Without a cluster there is nothing to do."""
        primaries = {one.address for one in self._ranges}
        if primaries:
            for address in set(self._nodes) - primaries:
                self._nodes[address].retire()
            self._nodes = {address: node for address, node in self._nodes.items() if address in primaries or not node.is_retired}
        return primaries

    async def _read_ranges(self) -> tuple[_Range, ...]:
        for node in tuple(self._nodes.values()):
            if node.wire is not None and node.facts.is_cluster:
                with suppress(Unavailable):
                    return _ranges_of(await node.ask(b"CLUSTER", b"SLOTS"), node.address)
        return ()


def _ranges_of(reply: Reply, asked: Address) -> tuple[_Range, ...]:
    """CLUSTER SLOTS: first slot, last slot, then the primary (host, port, …) and its replicas; no host = the one that was asked."""
    ranges: list[_Range] = []
    for entry in reply if isinstance(reply, list) else ():
        match entry:
            case [int(first), int(last), [host, int(port), *_], *_]:
                name = host.decode() if isinstance(host, bytes) else ""
                ranges.append(_Range(first, last, Address(name or asked.host, port)))
            case _:
                pass
    return tuple(ranges)
