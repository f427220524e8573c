"""What the objects say now, wherever they are kept."""

import logging
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Final, Protocol

from broker import policy
from broker.credentials import Credential, SecretRef
from broker.objects import Resources

log = logging.getLogger(__name__)

FAULTS_SAID: Final = 8  # of one object
SAID_AT_ONCE: Final = 100


class Source(Protocol):
    """Where objects come from: a folder (files.py), or a cluster (kube/)."""

    def read(self) -> Resources:
        """What is known at the start. Raises files.Unreadable when there is no telling."""
        ...

    def changes(self) -> AsyncGenerator[Resources]:
        """All objects after each change, for ever."""
        ...

    def why_not_ready(self) -> list[str]:
        """What is missing before anything can be served, and what to do about it."""
        ...

    def remarks(self) -> list[str]:
        """What is wrong besides, in sentences."""
        ...

    def stale_s(self) -> Mapping[tuple[str, str], float]:
        """By kind and namespace: seconds since the last sign of life; empty where the source is always there."""
        ...


class World:
    """What the objects say now. Replaced as a whole; a request that has begun keeps the snapshot it was decided by."""

    def __init__(self, resources: Resources, operator: policy.Settings) -> None:
        self.operator = operator
        self.generation = 0
        self.snapshot = policy.build(Resources(), operator)
        self._said: frozenset[tuple[str, str, str]] = frozenset()
        self.replace(resources)

    def replace(self, resources: Resources) -> None:
        self.snapshot = policy.build(resources, self.operator, self.snapshot)
        self.resources = resources
        self.generation += 1
        self.built_s = time.monotonic()
        self._hosts = {(secret.about.namespace, secret.about.name): secret.hosts for secret in resources.secrets}

    def report(self) -> None:
        """Say in the log what is wrong with the objects, each thing once until it is mended, and then that it is.

        Who may write objects can get much wrong, again and again: of one object, and of one change, only so much is said.
        """
        found: set[tuple[str, str, str]] = set()
        for status in self.snapshot.statuses:
            about = status.about
            found.update(("object_rejected", about.place(fault.path), f"{about}: {fault}") for fault in about.faults[:FAULTS_SAID])
            if len(about.faults) > FAULTS_SAID:
                found.add(
                    ("object_rejected", about.place(""), f"{about}: more than {FAULTS_SAID} faults; its status tells, or `broker check`")
                )
            if about.accepted:
                found.update(
                    ("object_not_ready", about.place(condition.path), f"{about}: {condition.reason}: {condition.message}")
                    for condition in status.conditions
                    if condition.status == "False"
                )
        for stray in self.resources.strays:
            if stray.ours:
                found.add(("document_refused", stray.origin.place("") if stray.origin else "", str(stray.fault)))
        still = {problem for _, _, problem in found}  # wherever it stands by now
        lines = [(logging.ERROR, event, place, problem) for event, place, problem in sorted(found - self._said)]
        lines += [(logging.INFO, "object_mended", place, problem) for _, place, problem in sorted(self._said) if problem not in still]
        for level, event, place, problem in lines[:SAID_AT_ONCE]:
            log.log(level, event, extra={"at": place, "problem": problem})
        if len(lines) > SAID_AT_ONCE:
            log.error(
                "objects_not_said", extra={"lines": len(lines) - SAID_AT_ONCE, "instead": "see each object's status, or `broker check`"}
            )
        self._said = frozenset(found)

    def secret(self, ref: SecretRef) -> tuple[Credential | None, str | None]:
        return self.resources.credentials.get(ref), self._hosts.get((ref.namespace, ref.name))

    def secret_values(self) -> Iterator[str]:
        """For the log's last resort, which takes them out of every line."""
        return (credential.reveal() for credential in self.resources.credentials.values())
