"""Can quotas be counted and audit lines be written, and do the clocks agree."""

import asyncio
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from broker.adjustment import Look
from broker.config import BrokerSettings, ConfigError
from broker.doctor.finding import Finding, fail, ok, warn
from broker.errors import Unavailable
from broker.grant import Per
from broker.ledger.opening import open_ledger
from broker.quota import Ledger
from broker.wiring import read_audit_key

OPEN_S: Final = 10.0
SKEW_WARN_S: Final = 2.0  # clocks that are told in whole seconds differ by one
SKEW_FAIL_S: Final = 30.0  # SVIDs are judged without leeway, and quotas by the store's windows
FREE_BYTES: Final = 256 << 20
_MINUTE_S: Final = 60.0
_STORE: Final = "quota store"
_AUDIT: Final = "audit"


async def examine_store(settings: BrokerSettings) -> tuple[Sequence[Finding], float | None]:
    """Open it and write into it what changes nothing: that an id that nobody has was given up.

    Returns:
        What was found, and by how many seconds its clock is ahead of ours; None when it does not say.
    """
    if settings.quota_store == "memory:":
        return [warn(_STORE, "memory: forgets every count at a restart", "give redis or sqlite, unless this is a test")], None
    if (folder := _of_a_new_file(settings.quota_store)) is not None:
        return [folder], None
    try:
        async with asyncio.timeout(OPEN_S):
            ledger = await open_ledger(settings)
    except (ConfigError, Unavailable, OSError) as wrong:  # TimeoutError is an OSError
        remedy = "look at its address, its password, its rights and the NetworkPolicies: docs/quotas.md"
        return [fail(_STORE, str(wrong) or f"it could not be opened in {OPEN_S:.0f} s", remedy)], None
    try:
        await ledger.void(f"doctor-{uuid.uuid4().hex}")
        holds = await ledger.open_holds()
        ahead_s = await _ahead(ledger, settings.namespace)
    except Unavailable as away:
        remedy = "look whether it runs and can be reached from here (NetworkPolicies), then at its log, its memory and its disk"
        return [fail(_STORE, f"it cannot be used: {away}", remedy)], None
    finally:
        with suppress(Unavailable, OSError):
            await ledger.close()
    kind = settings.quota_store.partition(":")[0]
    return [ok(_STORE, f"{kind}: can be read and written; {holds} holds are open")], ahead_s


def _of_a_new_file(url: str) -> Finding | None:
    """Of a database that is not there yet, which is for the broker to make: whoever looks may be another user."""
    path = Path(url.removeprefix("sqlite://"))
    if not url.startswith("sqlite:///") or path.exists():
        return None
    if not path.parent.is_dir():
        return fail(_STORE, f"the folder {path.parent} of the database is not there", "make it, or mount the volume")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        return fail(_STORE, f"this user may not write into {path.parent}", "give the folder to the broker's user")
    return ok(_STORE, f"{path} is not there yet, and its folder can be written")


async def _ahead(ledger: Ledger, namespace: str) -> float | None:
    """By the end of a window, which the store says in its own time."""
    sent_s = datetime.now(UTC).timestamp()
    (balance,) = await ledger.balances([Look(f"{{{namespace}}}/doctor/-", Per.MINUTE)])
    got_s = datetime.now(UTC).timestamp()
    theirs_s = datetime.fromisoformat(balance.window).replace(tzinfo=UTC).timestamp() + _MINUTE_S - balance.reset_s
    return theirs_s - (sent_s + got_s) / 2


def clocks(ahead: Sequence[tuple[str, float]]) -> Iterator[Finding]:
    """What others' clocks say; (who, seconds ahead of ours)."""
    remedy = "keep the time of every node by NTP: SVIDs, quota windows and audit lines depend on it"
    for who, seconds in ahead:
        text = f"{who} is {abs(seconds):.1f} s {'ahead of' if seconds > 0 else 'behind'} this machine's clock"
        if abs(seconds) >= SKEW_FAIL_S:
            yield fail("clock", text, remedy)
        elif abs(seconds) >= SKEW_WARN_S:
            yield warn("clock", text, remedy)
    agreeing = [who for who, seconds in ahead if abs(seconds) < SKEW_WARN_S]
    if agreeing:
        yield ok("clock", f"agrees with {', '.join(agreeing)}")
    elif not ahead:
        yield warn("clock", "nobody told us another time to compare with", "--ask-providers compares with the providers' Date")


def examine_audit(settings: BrokerSettings) -> Iterator[Finding]:
    """Look, and write nothing: a broker that runs has the file."""
    try:
        key = read_audit_key(settings.audit_key_file)
    except ConfigError as wrong:
        yield fail(_AUDIT, str(wrong), "give a file of at least 32 random bytes that the broker's user may read")
        return
    sealed = "" if key else "; without --audit-key-file whoever may write the file may rewrite it unseen"
    if settings.audit == "-":
        yield ok(_AUDIT, f"lines go to the standard output{sealed}")
        return
    yield _audit_file(Path(settings.audit), sealed)


def _audit_file(path: Path, sealed: str) -> Finding:
    folder = path.parent
    if not folder.is_dir():
        return fail(_AUDIT, f"the folder {folder} is not there", "make it, or mount the volume")
    if path.is_dir():
        return fail(_AUDIT, f"{path} is a folder", "name a file in it")
    if not os.access(path if path.exists() else folder, os.W_OK):
        what = f"write {path}" if path.exists() else f"make a file in {folder}"
        return fail(_AUDIT, f"this user may not {what}", "give it to the broker's user, the file with mode 0600")
    free = shutil.disk_usage(folder).free
    if free < FREE_BYTES:
        text = f"{free >> 20} MiB are free for {path}; when none is, every request is refused"
        return warn(_AUDIT, text, "make room, or rotate with --audit-max-bytes and --audit-keep")
    return ok(_AUDIT, f"{path} can be written, {free >> 30} GiB are free{sealed}")
