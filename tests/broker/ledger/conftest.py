"""A clock that tests move, and each store by it. Files about one store have a `ledger` of their own."""

import pytest
from support.clock import Clock
from support.ledgers import STORES, open_ledger


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(params=STORES)
async def ledger(request, tmp_path, clock):
    store = await open_ledger(request.param, tmp_path, clock)
    yield store
    await store.close()
