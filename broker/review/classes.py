"""Identities that every policy names alike, so that one of them stands for all. Pure.

Nobody can list the identities of a trust domain, and nobody needs to: policies name them by beginnings of their SPIFFE IDs (all of
them, a trust domain, a prefix, one whole ID), and these lie one within the other. So each identity belongs to one class: that of
the longest beginning that names it. One thing more tells identities apart: the service accounts of a namespace ask for its models
by bare names.

Source: broker.policy.rules.Rules.naming, broker.policy.precedence.beginnings, broker.policy.snapshot.Snapshot.places.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from broker.identity import SCHEME, Identity, InvalidSpiffeId, parse_spiffe_id
from broker.policy import Snapshot
from broker.policy.precedence import EVERYBODY, beginnings
from broker.policy.rules import Rule

_NOBODY: Final = "*"  # a segment, or a trust domain, that no SPIFFE ID has


@dataclass(frozen=True, slots=True)
class Class:
    """The identities below a beginning that no narrower class has.

    name: the beginning; of the service accounts of a namespace it ends with `/sa/*`.
    parent: of the narrowest class around it; "" for everybody's, and everybody has none.
    example: stands for all of them; where they are many, no workload has this ID.
    """

    name: str
    parent: str | None
    example: Identity

    @property
    def trust_domain(self) -> str:
        """The one that it is all of; "" where it is less, or more."""
        return self.example.trust_domain if self.name == f"{SCHEME}{self.example.trust_domain}/" else ""

    def __str__(self) -> str:
        if self.name == EVERYBODY:
            return "every identity"
        if self.trust_domain:
            return f"EVERY identity of trust domain {self.trust_domain}"
        if self.example.namespace and self.example.service_account == _NOBODY:
            return f"every service account of namespace {self.example.namespace} ({self.name})"
        return f"{self.name}*" if self.name.endswith("/") else self.name


def classes(snapshots: Iterable[Snapshot]) -> tuple[Class, ...]:
    """All of them, each behind its parent. Every identity of a workload belongs to exactly one."""
    snapshots = tuple(snapshots)
    named = {EVERYBODY, *(one for snapshot in snapshots for rule in snapshot.rules.all for one in naming(rule))}
    own = {snapshot.settings.trust_domain for snapshot in snapshots} - {""}
    homes = {
        f"{SCHEME}{domain}/ns/{namespace}/sa/": namespace for domain in own or _trust_domains(named) for namespace in _offering(snapshots)
    }
    found = [Class(one, _around(one, named, homes), _example(one)) for one in named]
    found += [_home(prefix, namespace, named) for prefix, namespace in homes.items()]
    return tuple(sorted(found, key=lambda one: one.name))


def naming(rule: Rule) -> Iterator[str]:
    """The beginnings of SPIFFE IDs that a rule names, without those that no ID has: a rejected object may say anything."""
    for one in beginnings(rule):
        try:
            parse_spiffe_id(one.removesuffix("/") or f"{SCHEME}any")
        except InvalidSpiffeId:
            continue
        yield one


def below(given: Iterable[Class]) -> Mapping[str | None, list[Class]]:
    """Each class's narrower ones, by its name."""
    found: dict[str | None, list[Class]] = {}
    for one in given:
        found.setdefault(one.parent, []).append(one)
    return found


def _trust_domains(named: Iterable[str]) -> set[str]:
    """With none that is the broker's own, each may be."""
    return {one.removeprefix(SCHEME).partition("/")[0] for one in named if one}


def _offering(snapshots: Iterable[Snapshot]) -> set[str]:
    return {namespace for snapshot in snapshots for namespace, _ in snapshot.offers}


def _home(prefix: str, namespace: str, named: set[str]) -> Class:
    domain = prefix.removeprefix(SCHEME).partition("/")[0]
    example = Identity(f"{prefix}{_NOBODY}", domain, f"/ns/{namespace}/sa/{_NOBODY}", namespace, _NOBODY)
    return Class(f"{prefix}{_NOBODY}", next(one for one in _prefixes(f"{prefix}{_NOBODY}") if one in named), example)


def _around(one: str, named: set[str], homes: Mapping[str, str]) -> str | None:
    if one == EVERYBODY:
        return None
    folder = one[: one.rfind("/") + 1]
    if folder != one and folder in homes:
        return f"{folder}{_NOBODY}"
    return next(prefix for prefix in _prefixes(one) if prefix in named)


def _prefixes(text: str) -> Iterator[str]:
    """Every beginning around one, the narrowest first."""
    end = len(text) - 1
    while (end := text.rfind("/", 0, end)) >= len(SCHEME):
        yield text[: end + 1]
    yield EVERYBODY


def _example(one: str) -> Identity:
    if one and not one.endswith("/"):
        return parse_spiffe_id(one)
    domain = one.removeprefix(SCHEME).partition("/")[0] or _NOBODY
    path = f"{one.removeprefix(f'{SCHEME}{domain}') or '/'}{_NOBODY}/{_NOBODY}"
    return Identity(f"{SCHEME}{domain}{path}", domain, path, "", "")
