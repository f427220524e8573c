"""The webhook's doors, in the test's own loop and as a process of their own, and who asks there."""

import asyncio
import contextlib
import datetime as dt
import io
import json
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import aiohttp
from support.admission import GATEWAY, a_review
from support.ports import free_port
from support.processes import Process, Processes

from broker.config import Address
from webhook import authority
from webhook.authority import Pair

LOOPBACK = "127.0.0.1"
SWITCHES = (
    *("--broker", str(GATEWAY.broker[0]), "--broker-spiffe-id", GATEWAY.broker_spiffe_id, "--gateway-image", GATEWAY.image),
    *("--log-format", "json"),
)


def an_authority() -> Pair:
    return authority.new_authority(dt.datetime.now(dt.UTC))


def write_leaf(folder: Path, ca: Pair) -> tuple[Path, Path]:
    """A certificate for loopback and its key, as a Secret's mount has them."""
    leaf = authority.new_leaf(ca, (LOOPBACK,), dt.datetime.now(dt.UTC))
    certificate, key = folder / "tls.crt", folder / "tls.key"
    certificate.write_bytes(leaf.certificate)
    key.write_bytes(leaf.key)
    return certificate, key


def trusting(ca: Pair) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=ca.certificate.decode())


class Asker:
    """Asks as an API server does: HTTPS, connections kept."""

    def __init__(self, port: int, ca: Pair, connections: int = 100) -> None:
        self.base = f"https://{LOOPBACK}:{port}"
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=trusting(ca), limit=connections),
            timeout=aiohttp.ClientTimeout(total=20),
            auto_decompress=False,
        )

    async def review(self, pod: Any, path: str = "/mutate", **request: Any) -> dict[str, Any]:
        status, body = await self.post(json.dumps(a_review(pod, **request)).encode(), path)
        assert status == 200, body
        response: dict[str, Any] = json.loads(body)["response"]
        return response

    async def post(self, body: bytes, path: str = "/mutate", **headers: str) -> tuple[int, bytes]:
        given = {"Content-Type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
        async with self.session.post(f"{self.base}{path}?timeout=5s", data=io.BytesIO(body), headers=given) as answer:
            return answer.status, await answer.read()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()


async def start(children: Processes, *more: str, certificate: tuple[Path, Path], name: str = "webhook") -> tuple[Process, int, int]:
    """`python -m webhook`, and its two ports. It listens when this returns."""
    listen, admin = free_port(), free_port()
    process = await children.spawn(
        name,
        [
            *(sys.executable, "-m", "webhook", *SWITCHES, "--listen", f"{LOOPBACK}:{listen}", "--admin", f"{LOOPBACK}:{admin}"),
            *("--tls-cert", str(certificate[0]), "--tls-key", str(certificate[1]), *more),
        ],
    )
    async with asyncio.timeout(30):
        while True:
            assert process.child.returncode is None, process.output()
            with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, listen), 1):
                return process, listen, admin
            await asyncio.sleep(0.05)


@asynccontextmanager
async def doors(judges: Any, ca: Pair, folder: Path, why_not_ready: Any = list) -> AsyncIterator[tuple[int, int]]:
    """The doors alone, in this loop."""
    from webhook.certs import GivenFiles, server_context
    from webhook.server import Doors, Figures

    tls = server_context()
    GivenFiles(*write_leaf(folder, ca), tls).load()
    it = Doors(judges, Figures(), why_not_ready)
    try:
        yield await it.open(Address(LOOPBACK, 0), Address(LOOPBACK, 0), tls)
    finally:
        await it.close()
