"""What an edit of the objects changes, for whom. Pure.

Sound and complete: an identity that any decision treats otherwise belongs to a class that is reported, and for each class that is
reported there is a decision that changed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from broker.grant import Backend, Budget
from broker.money import Price, dollars
from broker.policy import Snapshot
from broker.review.access import Access, Decisions, Without, fold
from broker.review.classes import Class, below, classes
from broker.review.explaining import quota_text


class Effect(StrEnum):
    """Of a change, on whoever asks."""

    MORE = "more"
    LESS = "less"
    OTHER = "other"


class Kind(StrEnum):
    """Of a change, in a word."""

    GAINS = "gains"
    LOSES = "loses"
    CHANGES = "changes"


@dataclass(frozen=True, slots=True)
class Detail:
    """One thing that is different where a model was granted and is."""

    effect: Effect
    text: str


@dataclass(frozen=True, slots=True)
class Change:
    """What is different for one class of identities and one model.

    names: under which it is asked for, when NAMESPACE/NAME is none of them; else empty.
    without: narrower classes of which it is not true, each with the reason.
    by: the policies that grant it now, or that granted it.
    """

    kind: Kind
    identities: Class
    without: tuple[Without, ...]
    model: str
    names: tuple[str, ...]
    details: tuple[Detail, ...]
    by: tuple[str, ...]

    @property
    def gives_more(self) -> bool:
        return self.kind is Kind.GAINS or any(one.effect is Effect.MORE for one in self.details)


class _Key(NamedTuple):
    """What changes of several classes must have in common to be told as one."""

    model: str
    names: tuple[str, ...]
    old: Access | None
    new: Access | None


@dataclass(slots=True)
class _Found:
    """For each change the classes that have it, and all that was decided on the way."""

    changes: dict[_Key, dict[str, Class]] = field(default_factory=dict[_Key, dict[str, Class]])
    by: dict[tuple[_Key, str], tuple[str, ...]] = field(default_factory=dict[tuple[_Key, str], tuple[str, ...]])


def compare(old: Snapshot, new: Snapshot) -> tuple[Change, ...]:
    """Every change: what is gained first, then what is lost, then the rest.

    Raises:
        Unavailable: a namespace of one of them could not be read, so that nobody knows what it says.
    """
    everyone = classes((old, new))
    before, after = Decisions(old), Decisions(new)
    found = _Found()
    for one in everyone:
        _note(found, one, before, after)
    inner = below(everyone)
    changes = [change for key in found.changes for change in _told(key, found, inner, (before, after))]
    order = list(Kind)
    return tuple(sorted(changes, key=lambda one: (order.index(one.kind), one.model, one.names, one.identities.name)))


def _note(found: _Found, one: Class, before: Decisions, after: Decisions) -> None:
    if before.alike(one, after):
        return
    changed: dict[tuple[str, Access | None, Access | None], set[str]] = {}
    for name in {*before.names(one), *after.names(one)}:
        old, new = before.of(one, name), after.of(one, name)
        if old == new:
            continue
        if old and new and old.model == new.model:
            changed.setdefault((old.model, old, new), set()).add(name)
            continue
        if old:
            changed.setdefault((old.model, old, None), set()).add(name)
        if new:
            changed.setdefault((new.model, None, new), set()).add(name)
    for (model, old, new), names in changed.items():
        key = _Key(model, () if model in names else tuple(sorted(names)), old, new)
        found.changes.setdefault(key, {})[one.name] = one
        granted = new or old
        found.by[key, one.name] = granted.granting if granted else ()


def _told(key: _Key, found: _Found, inner: Mapping[str | None, Sequence[Class]], worlds: tuple[Decisions, Decisions]) -> Iterator[Change]:
    before, after = worlds
    asked = key.names[0] if key.names else key.model

    def why_not(one: Class) -> str:
        old, new = before.of(one, asked), after.of(one, asked)
        if old != new:
            return "changes otherwise, see there"
        if new:
            return "is granted it as before"
        denying = ", ".join(f"AIAccessPolicy {rule.ref}" for rule in after.refusing(one, key.model))
        return f"is refused as before{f', by {denying}' if denying else ''}"

    kind = Kind.GAINS if key.old is None else Kind.LOSES if key.new is None else Kind.CHANGES
    details = tuple(_details(key.old, key.new)) if key.old and key.new else ()
    for one, without in fold(found.changes[key], inner, why_not):
        yield Change(kind, one, without, key.model, key.names, details, found.by[key, one.name])


def _details(old: Access, new: Access) -> Iterator[Detail]:
    yield from _quotas(old, new)
    for feature in sorted(new.features - old.features):
        yield Detail(Effect.MORE, f"feature {feature} is granted")
    for feature in sorted(old.features - new.features):
        yield Detail(Effect.LESS, f"feature {feature} is not granted any more")
    if old.max_stream_s != new.max_stream_s:
        yield Detail(
            _grown(old.max_stream_s, new.max_stream_s), f"an exchange may take {_span(new.max_stream_s)}, was {_span(old.max_stream_s)}"
        )
    if old.max_output_tokens != new.max_output_tokens:
        limits = [float("inf") if one is None else float(one) for one in (old.max_output_tokens, new.max_output_tokens)]
        texts = ["as many as it likes" if one is None else str(one) for one in (old.max_output_tokens, new.max_output_tokens)]
        yield Detail(_grown(*limits), f"tokens of one answer: {texts[1]}, was {texts[0]}")
    if old.default_output_tokens != new.default_output_tokens:
        yield Detail(Effect.OTHER, f"tokens of an answer without a limit: {new.default_output_tokens}, was {old.default_output_tokens}")
    yield from _ways(old, new)
    if old.would_refuse != new.would_refuse:
        text = "a policy in Shadow mode would refuse it" if new.would_refuse else "no policy in Shadow mode would refuse it any more"
        yield Detail(Effect.OTHER, text)


def _ways(old: Access, new: Access) -> Iterator[Detail]:
    """Where prompts go."""
    was, goes = [_way(one) for one in old.backends], [_way(one) for one in new.backends]
    for way in dict.fromkeys(goes):
        if way not in was:
            yield Detail(Effect.OTHER, f"prompts may go to {way}")
    for way in dict.fromkeys(was):
        if way not in goes:
            yield Detail(Effect.OTHER, f"prompts do not go to {way} any more")
    prices = [_prices(one) for one in (old, new)]
    for backend, price in prices[1].items():
        if backend in prices[0] and prices[0][backend] != price:
            yield Detail(_dearer(prices[0][backend], price), f"{backend} costs {_price(price)}, was {_price(prices[0][backend])}")
    bare = [[(one.provider, one.model, one.priority, one.weight) for one in access.backends] for access in (old, new)]
    if (
        (bare[0] != bare[1] and sorted(was) == sorted(goes))
        or old.failover != new.failover
        or (old.configured != new.configured and was == goes)
    ):
        yield Detail(Effect.OTHER, "how its providers are asked is different (order, weight, timeouts, headers or failover)")


def _way(one: Backend) -> str:
    with_key = "" if one.provider.auth == "None" else f" with {one.provider.auth}"
    secret = f" of Secret {one.provider.secret.name}" if one.provider.secret and one.provider.auth == "APIKey" else ""
    return f"{one.provider.namespace}/{one.provider.name} ({one.provider.endpoint}{with_key}{secret}), model {one.model}"


def _prices(access: Access) -> Mapping[str, Price | None]:
    return {_way(one): one.price for one in access.backends}


def _price(price: Price | None) -> str:
    return f"{dollars(price.input)} in, {dollars(price.output)} out for a million tokens" if price else "nobody knows what"


def _dearer(old: Price | None, new: Price | None) -> Effect:
    """What costs less leaves more of a quota in dollars."""
    if old is None or new is None:
        return Effect.OTHER
    figures = [(one.input, one.output, one.cached_input, one.cache_write, one.request) for one in (old, new)]
    return Effect.MORE if any(now < then for then, now in zip(*figures, strict=True)) else Effect.LESS


def _quotas(old: Access, new: Access) -> Iterator[Detail]:
    then, now = ({one.counter: one for one in access.budgets} for access in (old, new))
    for counter, budget in sorted(now.items()):
        was = then.get(counter)
        if was is None:
            effect = Effect.OTHER if budget.shadow else Effect.LESS
            yield Detail(effect, f"a quota more: {quota_text(budget)}")
        elif was != budget:
            effect = Effect.OTHER if was.shadow and budget.shadow else Effect.LESS if _holds(budget, was) else Effect.MORE
            yield Detail(effect, f"{quota_text(budget)}{_marks(budget)}; was {was.amount}{_marks(was)}")
    for counter, budget in sorted(then.items()):
        if counter not in now:
            # also where another takes its place: that one starts to count at 0, and nobody knows here what it counts beside
            yield Detail(Effect.OTHER if budget.shadow else Effect.MORE, f"a quota less: {quota_text(budget)}")


def _holds(now: Budget, was: Budget) -> bool:
    """Whether a quota is at least as tight as it was."""
    return now.limit <= was.limit and (was.shadow or not now.shadow) and now.strict >= was.strict and now.cut_off >= was.cut_off


def _marks(budget: Budget) -> str:
    words = [*["Shadow"] * budget.shadow, *["strict"] * budget.strict, *["cutOff"] * budget.cut_off]
    return f" [{', '.join(words)}]" if words else ""


def _grown(old: float, new: float) -> Effect:
    return Effect.MORE if new > old else Effect.LESS


def _span(seconds: float) -> str:
    return f"{seconds:g} s"
