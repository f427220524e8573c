"""What the status of an object says: the broker's own words about it, when they began to hold, and what was used. Pure.

Applied to its own output it changes nothing, whatever the time: that is what keeps a controller from writing for ever.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Final

from broker.controller.consumption import Consumer, Consumption, Quota, as_time
from broker.money import dollars
from broker.objects.reading import as_list, as_mapping
from broker.policy.status import Condition, ObjectStatus
from broker.policy.written import written

MESSAGE_CHARS: Final = 1000  # of a condition; metav1 allows 32,768, and nobody reads that in a terminal
ROW_CHARS: Final = 500
COLUMN_CHARS: Final = 200
NOTICES: Final = 4  # that a condition quotes

# What is counted, and changes all the time; everything else of a status follows from the objects alone.
COUNTED: Final = ("identityCount", "tokens24h", "usd24h", "requests24h", "denied24h", "lastUsedTime", "usage")
_TYPES: Final = frozenset(
    (
        *("Accepted", "ProvidersConfigured", "RoutingActive", "Programmed", "Ready"),
        *("BundleReady", "ModelsResolved", "GatewayBound", "MTLSActive"),
    )
)
_FIELDS: Final = frozenset(("observedGeneration", "providers", "models", "subjectSummary", "modelSummary", *COUNTED))

Status = Mapping[str, object]


def desired(told: ObjectStatus, before: Status, now_s: float, used: Consumption | None = None) -> dict[str, object]:
    """The status that an object should have: our part of it, never anybody else's conditions.

    Args:
        told: what the broker makes of the object.
        before: its status as the API server has it.
        now_s: Unix time, for conditions that change.
        used: under an AIAccessPolicy; None = not known now, which leaves the figures as they are.
    """
    status = written(_in_words(told))
    since = {kind: (truth, began) for kind, truth, began in _transitions(before)}
    conditions = [_condition(one, since, now_s) for one in _entries(status.get("conditions"))]
    wanted: dict[str, object] = {**status, "conditions": conditions}
    for rows in ("providers", "models"):
        if rows in wanted:
            wanted[rows] = [{**row, "message": clip(str(row["message"]), ROW_CHARS)} for row in _entries(wanted[rows])]
    for column in ("subjectSummary", "modelSummary"):
        if column in wanted:
            wanted[column] = clip(str(wanted[column]), COLUMN_CHARS)
    if told.about.kind == "AIAccessPolicy":
        wanted |= {name: before[name] for name in COUNTED if name in before} if used is None else _counted(used, before)
    return wanted


def differs(wanted: Status, seen: Status) -> bool:
    """Whether a status lacks something that we want, or says otherwise."""
    conditions = {one.get("type"): one for one in _entries(seen.get("conditions"))}
    if any(not _same(one, conditions.get(one["type"])) for one in _entries(wanted.get("conditions"))):
        return True
    return any(value != seen.get(name) for name, value in wanted.items() if name != "conditions")


def left_over(wanted: Status, seen: Status) -> bool:
    """Whether a status says something of our kind that we do not say any more, such as a condition of a field that has gone."""
    ours = {one["type"] for one in _entries(wanted.get("conditions"))}
    kinds = {one.get("type") for one in _entries(seen.get("conditions"))}
    return bool((kinds & _TYPES) - ours) or any(name in seen and name not in wanted for name in _FIELDS)


def without_counts(status: Status) -> dict[str, object]:
    """What of a status is worth telling at once."""
    return {name: value for name, value in status.items() if name not in COUNTED}


def words(status: Status) -> dict[str, object]:
    """What a status says, without its figures and since when it holds."""
    conditions = [
        {name: value for name, value in one.items() if name != "lastTransitionTime"} for one in _entries(status.get("conditions"))
    ]
    return {**without_counts(status), "conditions": conditions}


def clip(text: str, chars: int) -> str:
    return text if len(text) <= chars else f"{text[: chars - 1]}…"


def _in_words(told: ObjectStatus) -> ObjectStatus:
    """With the place of what is wrong in each message that lacks it, and with what is to be noticed in an object that works."""
    conditions = tuple(_placed(one) for one in told.conditions)
    if told.about.accepted and told.notices:
        conditions = tuple(_noticed(one, told.notices) if one.type == "Accepted" else one for one in conditions)
    return replace(told, conditions=conditions)


def _placed(one: Condition) -> Condition:
    if one.status == "True" or not one.path or one.path in one.message:
        return one
    return replace(one, message=f"{one.path}: {one.message}")


def _noticed(one: Condition, notices: Iterable[tuple[str, str]]) -> Condition:
    said = [f"{path}: {text}" for path, text in notices]
    more = f"; and {len(said) - NOTICES} more" if len(said) > NOTICES else ""
    return replace(one, message=f"{one.message}. Look at {'; '.join(said[:NOTICES])}{more}")


def _condition(one: Status, since: Mapping[str, tuple[object, str]], now_s: float) -> dict[str, object]:
    truth, began = since.get(str(one["type"]), (None, ""))
    kept = began if truth == one["status"] else as_time(now_s)
    return {**one, "message": clip(str(one["message"]), MESSAGE_CHARS), "lastTransitionTime": kept}


def _transitions(before: Status) -> Iterator[tuple[str, object, str]]:
    for one in _entries(before.get("conditions")):
        kind, began = one.get("type"), one.get("lastTransitionTime")
        if isinstance(kind, str) and isinstance(began, str) and _is_time(began):
            yield kind, one.get("status"), began


def _counted(used: Consumption, before: Status) -> dict[str, object]:
    counted: dict[str, object] = {
        "identityCount": used.identities,
        "tokens24h": used.tokens,
        "usd24h": dollars(used.microusd),
        "requests24h": used.requests,
        "denied24h": used.denied,
        "usage": [_consumer(one) for one in used.top],
    }
    earlier = before.get("lastUsedTime")
    last = max(as_time(used.last_used) if used.last_used else "", earlier if isinstance(earlier, str) and _is_time(earlier) else "")
    return {**counted, "lastUsedTime": last} if last else counted


def _consumer(one: Consumer) -> dict[str, object]:
    return {
        "identity": one.identity,
        "tokens24h": one.tokens,
        "usd24h": dollars(one.microusd),
        "requests24h": one.requests,
        "denied24h": one.denied,
        "quotas": [_quota(quota) for quota in one.quotas],
    }


def _quota(one: Quota) -> dict[str, object]:
    row: dict[str, object] = {"name": one.name, "unit": one.unit, "used": one.used, "limit": one.limit}
    return row if one.resets_at is None else {**row, "resetTime": as_time(one.resets_at)}


def _same(wanted: Status, seen: Status | None) -> bool:
    return seen is not None and all(value == seen.get(name) for name, value in wanted.items())


def _entries(value: object) -> list[Status]:
    return [found for one in as_list(value) or () if (found := as_mapping(one)) is not None]


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return text.endswith("Z")
