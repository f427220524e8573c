"""What a quota of money makes of a model: only backends with a price are asked, and a model without one is not granted.

Which of a model's backends answers is not known before it does. One without a price would be a way round the quota, so it is not asked:
the agent does without it, and the model's owner finds it in the status of the policy that has the quota.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from broker.errors import Forbidden
from broker.grant import Backend, Budget, Unit
from broker.objects.routing import RoutingSpec
from broker.policy.offers import Line, Offer, price_of
from broker.policy.rules import Rule
from broker.providers import PROVIDERS


class Eligible(NamedTuple):
    """What is left of an offer; each field as in Grant."""

    backends: tuple[Backend, ...]
    configured: tuple[str, ...]
    budgets: tuple[Budget, ...]
    would_refuse: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Unpriced:
    """A quota of money that is about a model of which a backend has no price.

    place: which of the policy's quotas. wholly: none has one.
    """

    place: int
    model: str
    wholly: bool


def eligible(offer: Offer, budgets: tuple[Budget, ...]) -> Eligible:
    """The backends that may be asked under these budgets, and the budgets that can be counted there.

    One in Shadow mode takes no backend away, so it is counted only where all have a price.

    Raises:
        Forbidden: a budget of money would have to be counted, and no backend has a price. The text names no policy.
    """
    in_money = [budget for budget in budgets if budget.unit is Unit.USD]
    lacking = unpriced_lines(offer)
    if not in_money or not lacking:
        return Eligible(offer.backends, offer.configured, budgets)
    wholly = lacks_price(offer)
    if all(budget.shadow for budget in in_money):
        others = tuple(budget for budget in budgets if budget.unit is not Unit.USD)
        return Eligible(offer.backends, offer.configured, others, (Forbidden.code,) if wholly else ())
    if wholly:
        raise Forbidden(
            "this model has no price, and what this identity may use is limited in US dollars; the owner of the model can add its price",
            param="model",
        )
    spoken = frozenset[str]().union(*(line.spoken for line in offer.lines if line.price is not None))
    return Eligible(tuple(one for one in offer.backends if one.price is not None), tuple(sorted(spoken)), budgets)


def unpriced_lines(offer: Offer) -> Sequence[Line]:
    """Backends that would be asked, were it known what they bill; ready or not."""
    return [line for line in _asked(offer) if line.price is None]


def lacks_price(offer: Offer) -> bool:
    return all(line.price is None for line in _asked(offer))


def unpriced(rule: Rule, offers: Mapping[str | None, Iterable[Offer]]) -> Iterator[Unpriced]:
    """Where the quotas of money of a rule cannot be counted.

    offers: by namespace.
    """
    in_money = [one for one in rule.ceilings if one.pattern.unit is Unit.USD]
    if rule.denies or not in_money:
        return
    for offer in offers.get(rule.namespace, ()):
        if offer.taken or not rule.covers(offer.namespace, offer.name) or not unpriced_lines(offer):
            continue
        for one in in_money:
            if one.models is None or offer.name in one.models:
                yield Unpriced(one.place, offer.name, lacks_price(offer))


def remarks(spec: RoutingSpec, offers: Iterable[Offer]) -> Iterator[tuple[str, str]]:
    """What an object's prices leave open, each with the place of it."""
    found = {offer.name: offer for offer in offers}
    for index, model in enumerate(spec.models):
        path = f"spec.models[{index}]"
        given = [(f"{path}.price", model.price), *((f"{path}.backends[{n}].price", one.price) for n, one in enumerate(model.backends))]
        yield from ((place, _INCOMPLETE) for place, price in given if price is not None and price_of(price) is None)
        lines = found[model.name].lines if model.name in found else ()
        cheap = sorted({line.provider for line in lines if _takes_writes_for_input(line)})
        if cheap:
            yield path, f"provider {', '.join(cheap)} {_WRITES}"


_INCOMPLETE = 'counts as no price: give both inputPerMillionTokens and outputPerMillionTokens, "0" for what is free'
_WRITES = "bills tokens that are written to a cache at a price of their own: give cacheWritePerMillionTokens, else they count as input"


def _takes_writes_for_input(line: Line) -> bool:
    kind, price = PROVIDERS.get(line.kind), line.price
    return kind is not None and kind.bills_cache_writes and price is not None and 0 < price.input == price.cache_write


def _asked(offer: Offer) -> Sequence[Line]:
    return [line for line in offer.lines if line.weight] or offer.lines
