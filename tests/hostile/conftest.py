"""The frame of `make hostile`: one broker and one local gateway for all cases, what each case counts to, and what memory they took.

All tests here share one event loop, which those processes' issuer and provider live in.
"""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from support.hostile_run import Doors, Sampler, Tally, open_doors

HERE = Path(__file__).parent
TALLY = pytest.StashKey[Tally]()
SAMPLER = pytest.StashKey[Sampler]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest.fixture(scope="session")
def tally(request: pytest.FixtureRequest) -> Tally:
    """`with tally.tried(GROUP, at="broker")` around each case."""
    return request.config.stash.setdefault(TALLY, Tally())


@pytest.fixture(scope="session")
def sampler(request: pytest.FixtureRequest) -> Iterator[Sampler]:
    sampler = request.config.stash.setdefault(SAMPLER, Sampler())
    yield sampler
    sampler.stop()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_doors(tmp_path_factory: pytest.TempPathFactory, sampler: Sampler) -> AsyncIterator[Doors]:
    async with open_doors(tmp_path_factory.mktemp("hostile")) as doors:
        sampler.start({"broker": doors.broker.pid, "gateway": doors.gateway.pid})
        yield doors
        sampler.sample()


@pytest.fixture
def doors(shared_doors: Doors, sampler: Sampler) -> Iterator[Doors]:
    """The two doors, with a provider that has seen nothing yet. They must be alive after each test."""
    shared_doors.provider.seen.clear()
    sampler.on.set()
    yield shared_doors
    sampler.on.clear()
    for process in (shared_doors.broker, shared_doors.gateway):
        assert process.child.returncode is None, f"the {process.name} ended:\n{process.output()}"


def pytest_sessionfinish(session: pytest.Session) -> None:
    sampler = session.config.stash.get(SAMPLER, None)
    if sampler is not None and not sampler.within and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    tally, sampler = config.stash.get(TALLY, None), config.stash.get(SAMPLER, None)
    if tally is None or sampler is None:
        return
    terminalreporter.section("hostile")
    for line in (*tally.lines(), *sampler.lines()):
        terminalreporter.line(line)
