"""A desk over any store: quotas of every kind, somebody who used them, and an audit log to read."""

import json
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from broker.audit import Audit
from broker.chat import Usage
from broker.grant import Budget, PolicyRef
from broker.policy import Snapshot
from broker.usage.desk import Desk

from .asks import ask
from .clock import Clock
from .ledgers import open_ledger
from .worlds import AGENT, access, routing, who, world

OTHER = "spiffe://example.org/ns/team1/sa/other"
STRANGER = "spiffe://example.org/ns/elsewhere/sa/nobody"
POLICY = PolicyRef("team1", "agents", "uid/1")
OBJECTS = (
    routing(models=("gpt",)).replace(
        "backends: [{provider: p, model: real}]", "backends: [{provider: p, model: real}], rateLimit: {tokensPerHour: 5000}"
    ),
    access(
        name="agents",
        spec="""
  subjects: [{spiffeIDPrefix: "spiffe://example.org/ns/team1/"}]
  models: [gpt]
  quotas:
  - {name: hourly, tokens: 1000, per: Hour}
  - {name: team, tokens: 4000, per: Day, scope: Policy}
  - {name: pace, requests: 60, per: Minute}
  - {name: width, concurrent: 8}""",
    ),
)


@dataclass
class UsageWorld:
    ledger: Any
    snapshot: Snapshot
    desk: Desk
    audit: Audit
    file: Path
    clock: Clock

    def budgets(self, spiffe_id: str = AGENT) -> tuple[Budget, ...]:
        return self.snapshot.decide(who(spiffe_id), "gpt").budgets

    async def spend(self, spiffe_id: str, input_tokens: int, output_tokens: int = 0) -> None:
        asked = ask(*self.budgets(spiffe_id), prompt=input_tokens, least=0, wanted=output_tokens, identity=spiffe_id, policies=(POLICY,))
        held = await self.ledger.hold(asked)
        await self.ledger.settle(held.hold_id, Usage(input_tokens, output_tokens))

    def lines(self, kind: str = "adjusted") -> list[dict[str, Any]]:
        self.audit.flush()
        return [line for line in map(json.loads, self.file.read_text().splitlines()) if line["kind"] == kind]


@asynccontextmanager
async def usage_world(store: str, folder: Path, *objects: str):
    clock, file = Clock(), folder / "audit.jsonl"
    ledger = await open_ledger(store, folder, clock)
    snapshot = world(*(objects or OBJECTS))
    audit = Audit.open(str(file), "test")
    try:
        yield UsageWorld(ledger, snapshot, Desk(ledger, lambda: snapshot, audit, clock), audit, file, clock)
    finally:
        audit.close()
        await ledger.close()
