"""An API server for each test, and a connection to it."""

import pytest
from support.fake_apiserver import FakeApiServer, api_server

from broker.kube.connection import Connection


@pytest.fixture
async def server():
    async with api_server() as running:
        yield running


@pytest.fixture
async def connection(server: FakeApiServer, tmp_path):
    opened = await Connection.open(server.kubeconfig(tmp_path), {})
    yield opened
    await opened.close()
