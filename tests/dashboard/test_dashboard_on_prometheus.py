"""Every query of the dashboard, asked of a real Prometheus that scrapes a real broker with something of everything to show.

Needs the program `prometheus` (Debian's package of that name); `make test-dashboard` runs it.
"""

import asyncio
import contextlib
import json
import ssl

import httpx2 as httpx
import openai
import pytest
from support.dashboard import asked, labels_of, metrics_of, queries
from support.fake_provider import FakeProvider
from support.objects_yaml import access, routing
from support.ports import free_port
from support.prometheus import ask, prometheus
from support.provider_words import CHAT
from support.stack import AGENT, OTHER, stack

EMPTY = {"aiaccess_kubernetes_staleness_seconds"}  # without a cluster nobody waits for one
QUOTA = "[{name: few, requests: 5, per: Month}]"


async def traffic(it):
    """Something of every kind, for as long as it is wanted."""
    identities = [AGENT, OTHER]
    while True:
        for identity in identities:
            for model in ("gpt", "unreachable", "ungranted"):
                with contextlib.suppress(openai.APIStatusError):
                    await it.openai(identity).chat.completions.create(
                        model=model, messages=[{"role": "user", "content": "hi"}], max_tokens=16
                    )
            nobody = ssl.create_default_context()
            nobody.check_hostname, nobody.verify_mode = False, ssl.CERT_NONE
            reader, writer = await asyncio.open_connection("127.0.0.1", it.broker_port, ssl=nobody)
            with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)
            writer.transport.abort()
        await asyncio.sleep(0.2)


async def test_every_query_has_an_answer_with_the_labels_that_it_names(tmp_path, monkeypatch):
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}",  # nobody: spans are dropped
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_METRIC_EXPORT_INTERVAL": "500",
    }
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    objects = access(quotas=QUOTA) + access(name="other", subject=OTHER, quotas=QUOTA)
    async with (
        FakeProvider(CHAT) as provider,
        stack(tmp_path, routing(provider.port) + objects, [AGENT, OTHER], environ=environ) as it,
        prometheus(tmp_path, it.admin_port) as client,
    ):
        calling = asyncio.create_task(traffic(it))
        unanswered = set(queries())
        try:
            async with asyncio.timeout(60):
                while unanswered:
                    await asyncio.sleep(1)
                    with contextlib.suppress(httpx.HTTPError):  # it is still starting
                        for query in tuple(unanswered):
                            found = await ask(client, "/query", query=asked(query))
                            if found["result"] or metrics_of(query) <= EMPTY:
                                unanswered.discard(query)
        except TimeoutError:
            pytest.fail(f"no answer to {json.dumps(sorted(unanswered), indent=1)}")
        finally:
            calling.cancel()
            await asyncio.wait((calling,))
        for query in queries():
            known = set()
            for name in metrics_of(query) - EMPTY:
                for series in await ask(client, "/series", **{"match[]": name}):
                    known |= set(series)
            assert labels_of(query) <= known or metrics_of(query) <= EMPTY
