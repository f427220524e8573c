"""What the log says of the objects in force: each thing that is wrong once, and once that it is not so any more."""

import logging

import pytest
from support.worlds import SETTINGS, access, resources, routing

from broker.world import FAULTS_SAID, SAID_AT_ONCE, World

WRONG = access(spec="\n  modles: [gpt]")


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.INFO, "broker.world")

    def said() -> list[tuple[str, str]]:
        found = [(record.message, record.problem) for record in caplog.records]
        caplog.clear()
        return found

    return said


def test_what_is_wrong_is_said_once(said):
    world = World(resources(routing(), WRONG), SETTINGS)
    world.report()
    assert any(event == "object_rejected" and "did you mean models?" in problem for event, problem in said())
    world.replace(resources(routing(), WRONG))
    world.report()
    assert said() == []


def test_what_is_mended_is_said_once(said):
    world = World(resources(routing(), WRONG), SETTINGS)
    world.report()
    wrong = [problem for _, problem in said()]
    world.replace(resources(routing(), access()))
    world.report()
    assert sorted(said()) == sorted(("object_mended", problem) for problem in wrong)
    world.report()
    assert said() == []


def test_what_only_moved_to_another_line_is_not_mended(said):
    world = World(resources(routing(), WRONG), SETTINGS)
    world.report()
    said()
    world.replace(resources(routing(), "# a line more\n" + WRONG))
    world.report()
    assert "object_mended" not in [event for event, _ in said()]


def test_of_an_object_with_many_faults_only_some_are_said(said):
    many = ", ".join(f"field{number}: 1" for number in range(300))
    World(resources(access(spec=f"{{{many}}}")), SETTINGS).report()
    told = [problem for event, problem in said() if event == "object_rejected"]
    assert len(told) == FAULTS_SAID + 1
    assert any(f"more than {FAULTS_SAID} faults" in problem for problem in told)


def test_of_many_wrong_objects_only_so_many_are_said_at_once(caplog):
    wrong = [access(f"p{number}", spec="{modles: [gpt]}") for number in range(SAID_AT_ONCE)]
    World(resources(*wrong), SETTINGS).report()
    told = [record.message for record in caplog.records]
    assert told.count("object_rejected") == SAID_AT_ONCE
    assert told[-1] == "objects_not_said"
