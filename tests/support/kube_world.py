"""What wiring is to a source of objects: it takes each state that comes, and decides by it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from broker import policy
from broker.credentials import SecretRef
from broker.errors import Forbidden, Unavailable
from broker.identity import parse_spiffe_id
from broker.kube.source import Cluster

OWN = "inference-broker"
SETTINGS = policy.Settings(namespace=OWN, trust_domain="example.org")


def agent(namespace: str) -> str:
    return f"spiffe://example.org/ns/{namespace}/sa/agent"


class KubeWorld:
    """The newest state, how many there were, and what the first provider was called in each."""

    def __init__(self, cluster: Cluster, settings: policy.Settings) -> None:
        self.cluster = cluster
        self.settings = settings
        self.resources = cluster.read()
        self.snapshot = policy.build(self.resources, settings)
        self.builds = 0
        self.states: list[str] = []

    async def keep(self) -> None:
        async for resources in self.cluster.changes():
            self.resources = resources
            self.snapshot = policy.build(resources, self.settings)
            self.builds += 1
            self.states.append(self.provider)

    @property
    def ready(self) -> bool:
        return not self.cluster.why_not_ready()

    def answer(self, namespace: str, model: str = "gpt-4o") -> str:
        """What the agent of this namespace is told."""
        try:
            self.snapshot.decide(parse_spiffe_id(agent(namespace)), model)
        except (Forbidden, Unavailable) as no:
            return no.code
        return "granted"

    def value(self, name: str = "openai", namespace: str = "team1") -> str | None:
        found = self.resources.credentials.get(SecretRef(namespace, name, "api-key"))
        return found.reveal() if found else None

    @property
    def provider(self) -> str:
        """Reason and message of the first provider of all routing policies."""
        rows = [row for status in self.snapshot.statuses for row in status.providers]
        return f"{rows[0].reason}: {rows[0].message}" if rows else ""


@asynccontextmanager
async def following(cluster: Cluster, settings: policy.Settings = SETTINGS) -> AsyncIterator[KubeWorld]:
    world = KubeWorld(cluster, settings)
    task = asyncio.get_running_loop().create_task(world.keep())
    try:
        yield world
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
