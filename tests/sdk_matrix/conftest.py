"""One account, one broker and a gateway an agent for each file of tests here, and the environment that an agent's pod would have."""

import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from support.shared_account import OWNER, Thieves, thieves

OF_SDKS = ("OPENAI_", "LANGCHAIN_", "LANGSMITH_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
# Both would send what they see to their makers, which no broker is asked about
SILENT = {"OPENAI_AGENTS_DISABLE_TRACING": "1", "LANGSMITH_TRACING": "false", "LANGCHAIN_TRACING_V2": "false"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def it(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Thieves]:
    async with thieves(tmp_path_factory.mktemp("sdks")) as running:
        yield running


@pytest.fixture(autouse=True)
def environment(it: Thieves, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the webhook injects, and nothing else that an SDK of models reads."""
    for name in os.environ:
        if name.startswith(OF_SDKS):
            monkeypatch.delenv(name)
    for name, value in {**it.it.environment(OWNER), **SILENT}.items():
        monkeypatch.setenv(name, value)
