"""Audit logs as a broker leaves them: rotated, restarted, with a half line of a process that was killed."""

import asyncio
import io
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from broker.audit import Audit, Head, Line, Rotation
from broker.audit.lines import Chain
from broker.audit.verdict import Noted, Verdict
from broker.audit.verifying import Verifier, once
from broker.grant import PolicyRef

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
KEY = b"0123456789abcdef0123456789abcdef"
AGENT = "spiffe://example.org/ns/team1/sa/weather-agent"
Files = dict[str, bytes]


def a_line(number: int = 1, **more) -> Line:
    known = {
        "time": NOON,
        "exchange": f"x{number}",
        "code": "answered",
        "status": 200,
        "decision": "allowed",
        "spiffe_id": AGENT,
        "model": "gpt-4o",
        "namespace": "team1",
        "policies": (PolicyRef("team1", "weather", "uid-1/3"),),
        "input_tokens": 12,
    }
    return Line(**{**known, **more})


def live(path: Path, lines: int, key: bytes | None = None, rotation: Rotation | None = None, killed: bytes | None = None) -> Head:
    """One life of a process that served so many exchanges. `killed`: it left this half line, and no `stop`."""

    async def run() -> Head:
        audit = Audit.open(str(path), "0.1.0", key, rotation or Rotation())
        for number in range(1, lines + 1):
            audit.write(a_line(number))
            audit.flush()
        if killed is None:
            audit.close()
        else:
            os.close(audit._fd)
            audit._closed = True
            with path.open("ab") as file:
                file.write(killed)
        return audit.head()

    with ThreadPoolExecutor(1) as aside:  # a test may have a loop of its own
        return aside.submit(lambda: asyncio.run(run())).result()


def rotated_log(folder: Path, key: bytes | None = None) -> Files:
    """Four files and three lives, the second of which was killed in the middle of a line; the oldest first."""
    path, rotation = folder / "audit.jsonl", Rotation(max_bytes=5_000)
    live(path, 8, key, rotation)
    live(path, 9, key, rotation, killed=b'{"kind":"exchange","time":"2026-11-21T12:00:00Z","exch')
    live(path, 7, key, rotation)
    return in_order(path)


def in_order(path: Path) -> Files:
    return {file.name: file.read_bytes() for file in (*sorted(path.parent.glob("audit.jsonl.*")), path)}


def judge(files: Mapping[str, bytes], key: bytes | None = None, heads: Sequence[Noted] = ()) -> Verdict:
    verifier = Verifier((key,) if key else (), heads)
    for name, content in files.items():
        verifier.read(name, io.BytesIO(content))
    return verifier.verdict()


def places(verdict: Verdict) -> set[tuple[str, int]]:
    return {(fault.file, fault.line) for fault in verdict.faults}


def made_up(chain: str, lines: int, key: bytes | None = None, head: Head | None = None) -> bytes:
    """Lines that somebody ties himself."""
    tied = Chain(head or Head(chain, 0, ""), key)
    return b"".join(tied.tie(a_line(number)) for number in range(lines))


def verify(*paths: str, keys: Sequence[bytes] = (), noted_heads: Sequence[Noted] = ()) -> Verdict:
    """Verify the files of one log, or of several.

    Raises:
        KeyNeeded: they were made with a key, and none was given.
        OSError: one cannot be read.
    """
    verifier = Verifier(keys, noted_heads)
    for path in once(paths):
        with Path(path).open("rb") as file:
            verifier.read(path, file)
    return verifier.verdict()
