"""Admit an exchange: hold what it may cost at most, for all quotas in one step, and settle each hold once."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from broker import providers
from broker.errors import ConcurrencyFull, ExceedsQuota, QuotaExhausted
from broker.exchange import Exchange
from broker.grant import Budget, Unit
from broker.house import House
from broker.metering import Gauge
from broker.money import dearest
from broker.quota import Ask, Held, uncountable

HOLD_MARGIN_S: Final = 60.0  # after the last deadline of an exchange nobody settles it any more
# The store's own no. To void what was refused would cost it more than the refusal did, in every namespace, and the caller nothing
NOTHING_HELD: Final = (ExceedsQuota, QuotaExhausted, ConcurrencyFull)


async def admit(x: Exchange, house: House) -> None:
    """Hold what this may cost at most, under an id of its own for each hold. One whose answer did not reach us is voided.

    Whichever candidate answers in the end, and whichever an attempt fails over to, bills no more than is held: by the largest bound
    and the dearest price of all of them.
    """
    x.demand = x.question.demand(x.grant.default_output_tokens, x.grant.max_output_tokens)
    x.rates = dearest(backend.price for backend in x.candidates)
    would_refuse = () if x.demand.bounded else uncountable(x.grant.budgets, x.rates)
    would_refuse += () if x.demand.priced else otherwise_priced(x.grant.budgets)
    x.hold_id = f"{x.id}.{len(x.tried)}" if x.tried else x.id
    ask = Ask(
        hold_id=x.hold_id,
        identity=x.identity.spiffe_id,
        policies=x.grant.granting,
        budgets=x.grant.budgets,
        demand=x.demand,
        expires_s=x.grant.max_stream_s + HOLD_MARGIN_S,
        requests=0 if x.tried else 1,
        rates=x.rates,
    )
    try:
        x.held = await _held(x, house, ask)
    except BaseException as no:
        if not isinstance(no, NOTHING_HELD):  # nobody knows: its answer may be on its way
            house.settler.void(x.hold_id)
        x.hold_id = ""
        raise
    if would_refuse:
        x.held = replace(x.held, would_refuse=(*x.held.would_refuse, *would_refuse))
    x.held_tokens += x.demand.prompt_bound + x.held.granted_output


def otherwise_priced(budgets: Sequence[Budget]) -> tuple[str, ...]:
    """Whether a demand that is billed by other prices passes budgets of money: none that enforces, which would be passed unseen.

    Returns:
        As Held.would_refuse.

    Raises:
        ExceedsQuota: names no policy.
    """
    found = [budget for budget in budgets if budget.unit is Unit.USD]
    if any(not budget.shadow for budget in found):
        raise ExceedsQuota(
            "US dollars are limited here, and the service that this request asks for (a faster tier, or one country) costs more than the "
            "model's price says: ask without it."
        )
    return (ExceedsQuota.code,) if found else ()


async def _held(x: Exchange, house: House, ask: Ask) -> Held:
    """By the prompt's bytes, which are free; only where these are too many, by a count of its tokens."""
    try:
        return await house.ledger.hold(ask)
    except (ExceedsQuota, QuotaExhausted) as refusal:
        vocabularies = {providers.vocabulary(backend) for backend in x.candidates}
        bound = await house.counting.bound(x.demand.prompt_bound, refusal.prompt_room, x.question.texts, vocabularies)
        if bound is None:
            raise
    x.demand = replace(x.demand, prompt_bound=bound)
    return await house.ledger.hold(replace(ask, demand=x.demand))


async def gauge(x: Exchange, house: House) -> Gauge | None:
    """For a quota with a cut-off: what ends the stream of a provider that does not keep to its limit."""
    for budget in x.grant.budgets:
        if budget.cut_off and not budget.shadow:
            return await house.counting.gauge(x.bound(), providers.vocabulary(x.backend))
    return None


def spend(x: Exchange, house: House) -> None:
    """The attempt came to nothing and may be billed all the same: its hold is spent whole, and whoever is asked next needs a new one."""
    house.settler.settle(x.hold_id, None)
    x.spent, x.spent_microusd = x.charged(), x.charged_microusd() or 0
    x.sent, x.hold_id = False, ""  # ended: should it be voided too, a store that was away could hear that first


def settle(x: Exchange, house: House) -> None:
    """Once per hold: what was billed; all of it where nobody can know; nothing where nothing was sent."""
    if not x.hold_id:
        return
    if x.sent:
        house.settler.settle(x.hold_id, x.usage, x.cost(), bounded=x.demand.bounded)
    else:
        house.settler.void(x.hold_id)
