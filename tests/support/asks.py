"""Asks of the quota store, short to write: what a test does not name does not matter to it."""

import itertools

from broker.chat import Demand
from broker.grant import Budget, Per, PolicyRef, Unit
from broker.money import Rates
from broker.quota import Ask

AGENT = "spiffe://example.org/ns/team1/sa/weather-agent"
POLICY = PolicyRef("team1", "weather-agents", "uid/1")

_numbers = itertools.count()


def tokens(limit: int, per: Per = Per.HOUR, *, unit: Unit = Unit.TOTAL_TOKENS, name: str = "hourly", shadow: bool = False) -> Budget:
    return Budget(f"{{team1}}/policy/weather-agents/{name}/{unit}/{per}/identity/{AGENT}", unit, limit, per, shadow)


def requests(limit: int, per: Per = Per.MINUTE, *, shadow: bool = False) -> Budget:
    return Budget(f"{{team1}}/policy/weather-agents/pace/requests/{per}/identity/{AGENT}", Unit.REQUESTS, limit, per, shadow)


def width(limit: int, *, shadow: bool = False) -> Budget:
    return Budget(f"{{team1}}/policy/weather-agents/width/concurrent/-/identity/{AGENT}", Unit.CONCURRENT, limit, None, shadow)


def money(microusd: int, per: Per = Per.DAY, *, name: str = "money", shadow: bool = False) -> Budget:
    return Budget(f"{{team1}}/policy/weather-agents/{name}/usd/{per}/identity/{AGENT}", Unit.USD, microusd, per, shadow)


def ask(
    *budgets: Budget,
    prompt: int = 100,
    least: int = 16,
    wanted: int = 100,
    hold_id: str = "",
    identity: str = AGENT,
    policies: tuple[PolicyRef, ...] = (POLICY,),
    expires_s: float = 600.0,
    counted: int = 1,
    rates: Rates | None = None,
) -> Ask:
    """An ask with an id of its own unless one is named. `counted` is how many requests it counts as."""
    demand = Demand(prompt, least, wanted)
    return Ask(hold_id or f"hold-{next(_numbers)}", identity, policies, budgets, demand, expires_s, counted, rates)
