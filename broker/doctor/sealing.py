"""Are there keys to seal ids with, where a policy grants what needs them."""

from collections.abc import Iterator
from pathlib import Path
from stat import S_IROTH
from typing import Final

from broker import policy
from broker.config import BrokerSettings, ConfigError
from broker.doctor.finding import Finding, fail, ok, warn
from broker.features import KEEPING
from broker.sealing.keeping import parse, read_file

_CHECK: Final = "sealing keys"
_SHOWN: Final = 5


def examine(settings: BrokerSettings, snapshot: policy.Snapshot | None) -> Iterator[Finding]:
    """Read the file as a broker does; without one, say who waits for it. Keys are named as sealed ids name them."""
    path = settings.sealing_keys
    if path is None:
        yield _without(sorted(_waiting(snapshot)) if snapshot else [])
        return
    try:
        ids = [key.id.hex() for key in parse(path, read_file(path))]
    except ConfigError as wrong:
        yield fail(_CHECK, str(wrong), "docs/sealing.md has how to make one; a broker that runs goes on with the keys that it read before")
        return
    if _anybody_reads(path):
        yield warn(_CHECK, f"everybody on this machine may read {path}", "chmod it to 0400: whoever has a key can make ids of any agent's")
    first, *others = ids
    also = f"; {', '.join(others)} open too" if others else ""
    yield ok(_CHECK, f"{len(ids)} of them: {first} seals{also}")


def _waiting(snapshot: policy.Snapshot) -> Iterator[str]:
    for rule in snapshot.rules.all:
        if rule.grants and not rule.shadow and rule.features & KEEPING:
            yield str(rule.ref)


def _without(waiting: list[str]) -> Finding:
    if not waiting:
        return ok(_CHECK, "none, and no policy grants what needs them")
    named = ", ".join(waiting[:_SHOWN]) + (f" and {len(waiting) - _SHOWN} more" if len(waiting) > _SHOWN else "")
    text = f"none, and {', '.join(sorted(KEEPING)[:-1])} or {max(KEEPING)} is granted by {named}: what needs it is refused"
    return fail(_CHECK, text, "give --sealing-keys, as docs/sealing.md has it, or take the features out of the policies")


def _anybody_reads(path: Path) -> bool:
    return bool(path.stat().st_mode & S_IROTH)
