"""One row of what the doctor says."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class State(StrEnum):
    """How well a thing is: FAIL keeps requests from being served, WARN does not yet, or may be meant."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing, how it is, and what to do where it is not well. Never holds a credential."""

    state: State
    check: str
    found: str
    remedy: str = ""


SHOWN: Final = 20  # of one kind; the rest is counted


def ok(check: str, found: str) -> Finding:
    """All is well."""
    return Finding(State.OK, check, found)


def warn(check: str, found: str, remedy: str) -> Finding:
    """It works, and somebody should know."""
    return Finding(State.WARN, check, found, remedy)


def fail(check: str, found: str, remedy: str) -> Finding:
    """It keeps requests from being served."""
    return Finding(State.FAIL, check, found, remedy)


def few(findings: Iterable[Finding], remedy: str) -> list[Finding]:
    """As many as anybody reads, and the count of the others with the worst of their states."""
    every = list(findings)
    if len(every) <= SHOWN:
        return every
    rest = every[SHOWN:]
    worst = State.FAIL if any(one.state is State.FAIL for one in rest) else State.WARN
    return [*every[:SHOWN], Finding(worst, rest[0].check, f"{len(rest)} more", remedy)]
