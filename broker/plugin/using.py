"""What `status.usage` of AIAccessPolicies says, for eyes, for spreadsheets and for programs."""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import quote

from broker.config import ConfigError
from broker.kube.connection import Away, Connection, NoCluster, Refused, TooLarge
from broker.kube.decoding import Unreadable, read_object, read_page
from broker.names import API_VERSION
from broker.objects.reading import as_list, as_mapping
from broker.usage.tables import sheet, table

Output = Literal["table", "json", "csv"]
PAGE_OBJECTS: Final = 250
PAGE_BYTES: Final = 32 << 20
_FIGURES: Final = ("tokens24h", "usd24h", "requests24h", "denied24h")
_COLUMNS: Final = ("TOKENS-24H", "USD-24H", "REQUESTS-24H", "DENIED-24H")
_CELLS: Final = ("tokens_24h", "usd_24h", "requests_24h", "denied_24h")

Fields = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Policy:
    """One AIAccessPolicy. usage: None while the controller has said nothing of it."""

    namespace: str
    name: str
    status: Fields
    usage: tuple[Fields, ...] | None


def read(namespace: str, kubeconfig: str | None, environ: Mapping[str, str]) -> Sequence[Policy]:
    """The policies of a namespace, "" = of all.

    Raises:
        ConfigError: there is no cluster, it does not answer, or it does not let us.
    """
    try:
        return asyncio.run(_read(namespace, kubeconfig, environ))
    except NoCluster as wrong:
        raise ConfigError(str(wrong)) from wrong
    except (Away, TooLarge, Unreadable) as wrong:
        raise ConfigError(f"the API server gave no answer that can be read: {wrong}") from wrong
    except Refused as no:
        raise ConfigError(f"the API server says no: {no}") from no


async def _read(namespace: str, kubeconfig: str | None, environ: Mapping[str, str]) -> Sequence[Policy]:
    within = f"/namespaces/{quote(namespace, '')}" if namespace else ""
    found: list[Policy] = []
    connection = await Connection.open(kubeconfig, environ)
    try:
        query = {"limit": str(PAGE_OBJECTS)}
        while True:
            page = read_page(await connection.get(f"/apis/{API_VERSION}{within}/aiaccesspolicies", query, PAGE_BYTES))
            found += [read_object(raw, _policy) for raw in page.items or ()]
            if not page.metadata.more:
                return found
            query["continue"] = page.metadata.more
    finally:
        await connection.close()


def _policy(raw: Fields) -> Policy:
    metadata, status = as_mapping(raw.get("metadata")) or {}, as_mapping(raw.get("status")) or {}
    rows = as_list(status.get("usage"))
    usage = None if rows is None else tuple(row for one in rows if (row := as_mapping(one)) is not None)
    return Policy(str(metadata.get("namespace")), str(metadata.get("name")), status, usage)


def shown(policies: Sequence[Policy], output: Output, *, everywhere: bool) -> str:
    """All of it, with a line end; "" for a table without a row."""
    if output == "json":
        return json.dumps({"policies": [_whole(one) for one in policies]}, indent=2) + "\n"
    if output == "csv":
        return sheet(
            ("row", "namespace", "policy", "identity", *_CELLS, "quota", "unit", "used", "limit", "reset_time"),
            [row for one in policies for row in _rows(one)],
        )
    head = ("POLICY", "IDENTITY", *_COLUMNS, "QUOTAS")
    lines = [
        (*((one.namespace,) if everywhere else ()), one.name, *_line(use)) for one in policies for use in one.usage or ()
    ]  # fmt: skip
    if not lines:
        return ""
    return table(("NAMESPACE", *head) if everywhere else head, lines) + "".join(_left_out(one) for one in policies)


def _whole(one: Policy) -> Fields:
    kept = ("identityCount", *_FIGURES, "lastUsedTime")
    figures = {name: one.status[name] for name in kept if name in one.status}
    return {"namespace": one.namespace, "name": one.name, **figures, "usage": one.usage}


def _line(use: Fields) -> Sequence[str]:
    quotas = ", ".join(
        f"{_text(quota, 'name')} {_text(quota, 'used')}/{_text(quota, 'limit')} {_text(quota, 'unit')}" for quota in _quotas(use)
    )
    return (_text(use, "identity"), *(_text(use, name) for name in _FIGURES), quotas or "-")


def _left_out(one: Policy) -> str:
    count = one.status.get("identityCount")
    rest = count - len(one.usage) if isinstance(count, int) and one.usage else 0
    return f"… and {rest} identities more under {one.namespace}/{one.name}, which used less\n" if rest > 0 else ""


def _rows(one: Policy) -> Iterator[Mapping[str, object]]:
    for use in one.usage or ():
        who = {"namespace": one.namespace, "policy": one.name, "identity": _text(use, "identity")}
        yield {"row": "identity", **who, **{cell: use.get(name, "") for cell, name in zip(_CELLS, _FIGURES, strict=True)}}
        for quota in _quotas(use):
            about = {name: _text(quota, name) for name in ("unit", "used", "limit")}
            yield {"row": "quota", **who, "quota": _text(quota, "name"), **about, "reset_time": _text(quota, "resetTime")}


def _quotas(use: Fields) -> list[Fields]:
    return [found for one in as_list(use.get("quotas")) or () if (found := as_mapping(one)) is not None]


def _text(fields: Fields, name: str) -> str:
    value: Any = fields.get(name, "")
    return str(value)
