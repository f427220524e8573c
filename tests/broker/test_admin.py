"""The admin port, asked over a real socket."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily

from broker.admin import Admin

LOOPBACK = "127.0.0.1"


class Asked:
    """An admin port that listens, and a way to ask it."""

    def __init__(self, reasons: list[str], port: int, session: ClientSession) -> None:
        self.reasons = reasons
        self.port = port
        self._session = session

    async def ask(self, path: str, method: str = "GET", **more: object) -> tuple[int, str, dict[str, str]]:
        async with self._session.request(method, f"http://{LOOPBACK}:{self.port}{path}", **more) as answer:
            return answer.status, await answer.text(), dict(answer.headers)

    async def raw(self, sent: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(LOOPBACK, self.port)
        writer.write(sent)
        got = await reader.read()
        writer.close()
        await writer.wait_closed()
        return got


@pytest.fixture
async def admin() -> AsyncIterator[Asked]:
    reasons: list[str] = []
    registry = CollectorRegistry()
    Counter("weather", "A counter", registry=registry).inc(3)
    door = Admin(registry, lambda: reasons, patience_s=0.2)
    port = await door.start(LOOPBACK, 0)
    async with ClientSession() as session:
        yield Asked(reasons, port, session)
    await door.stop()


async def test_a_process_that_runs_is_alive(admin: Asked) -> None:
    admin.reasons.append("no SVID yet: start the SPIFFE agent")
    assert (await admin.ask("/healthz"))[:2] == (200, "alive\n")


async def test_ready_without_a_reason_against_it(admin: Asked) -> None:
    assert (await admin.ask("/readyz"))[:2] == (200, "ready\n")


async def test_what_keeps_no_request_from_being_served_is_a_remark() -> None:
    door = Admin(CollectorRegistry(), list, lambda: [f"namespace {number} may not be read" for number in range(150)])
    port = await door.start(LOOPBACK, 0)
    try:
        async with ClientSession() as session, session.get(f"http://{LOOPBACK}:{port}/readyz") as answer:
            lines = (await answer.text()).splitlines()
    finally:
        await door.stop()
    assert answer.status == 200
    assert lines[:2] == ["ready", "remark: namespace 0 may not be read"]
    assert len(lines) == 101


async def test_not_ready_says_every_reason(admin: Asked) -> None:
    admin.reasons += ["no SVID yet: start the SPIFFE agent", "the audit log cannot be written: free space"]
    assert (await admin.ask("/readyz"))[:2] == (
        503,
        "not ready: no SVID yet: start the SPIFFE agent\nnot ready: the audit log cannot be written: free space\n",
    )


async def test_metrics_come_in_the_text_format(admin: Asked) -> None:
    status, text, headers = await admin.ask("/metrics")
    assert (status, headers["Content-Type"].split(";")[0]) == (200, "text/plain")
    assert "weather_total 3.0" in text


async def test_metrics_come_as_openmetrics_to_who_prefers_them(admin: Asked) -> None:
    _, text, headers = await admin.ask("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    assert text.endswith("# EOF\n")


async def test_between_two_families_of_a_scrape_the_exchanges_have_their_turn() -> None:
    turns: list[int] = []

    class Counting:
        def collect(self):
            for _ in range(2):
                asyncio.get_running_loop().call_soon(turns.append, 1)
                yield GaugeMetricFamily(f"turns_after_{len(turns)}", "How often somebody else had a turn")

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Counting())
    door = Admin(registry, list)
    port = await door.start(LOOPBACK, 0)
    try:
        async with ClientSession() as session, session.get(f"http://{LOOPBACK}:{port}/metrics") as answer:
            text = await answer.text()
    finally:
        await door.stop()
    assert "turns_after_0" in text
    assert "turns_after_1" in text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
async def test_only_get_is_answered(admin: Asked, method: str) -> None:
    assert (await admin.ask("/metrics", method))[0] == 405


@pytest.mark.parametrize("path", ["/", "/debug/pprof", "/metrics/", "/usage", "/../metrics"])
async def test_any_other_path_is_not_there(admin: Asked, path: str) -> None:
    got = await admin.raw(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert got.startswith(b"HTTP/1.1 404")


async def test_a_body_is_not_read(admin: Asked) -> None:
    got = await admin.raw(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 413")


async def test_an_endless_head_is_refused_and_not_logged(admin: Asked, caplog: pytest.LogCaptureFixture) -> None:
    got = await admin.raw(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAuthorization: " + b"canary" * 1000 + b"\r\n\r\n")
    assert got.split()[1] == b"400"
    assert "canary" not in caplog.text


async def test_who_never_finishes_a_head_is_dropped(admin: Asked) -> None:
    assert await admin.raw(b"GET /metrics HTTP/1.1\r\nHost: loc") == b""


async def test_who_says_nothing_is_dropped(admin: Asked) -> None:
    assert await admin.raw(b"") == b""


async def test_answers_name_no_software_and_are_not_kept(admin: Asked) -> None:
    _, _, headers = await admin.ask("/nowhere")
    assert (headers["Server"], headers["Cache-Control"]) == ("aiaccess", "no-store")


async def test_an_address_that_is_taken_is_an_error_at_once(admin: Asked) -> None:
    second = Admin(CollectorRegistry(), list)
    with pytest.raises(OSError, match="address already in use"):
        await second.start(LOOPBACK, admin.port)
    await second.stop()
