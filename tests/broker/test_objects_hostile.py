"""Whoever may write an object decides how much is wrong with it, and must not decide how long we look at it."""

import pytest

from broker.names import API_VERSION
from broker.objects import read_document
from broker.objects.reading import FAULTS


def policy(spec: object) -> dict[str, object]:
    return {"apiVersion": API_VERSION, "kind": "AIAccessPolicy", "metadata": {"name": "p", "namespace": "team1"}, "spec": spec}


@pytest.mark.parametrize(
    "spec",
    [
        {f"subject{number}": 1 for number in range(20_000)},
        {"subjects": [{"wrong": {}} for _ in range(256)], "quotas": [{f"f{number}": 1 for number in range(1_000)} for _ in range(16)]},
    ],
    ids=["at the top", "further down"],
)
def test_the_faults_of_an_object_are_told_up_to_a_number(spec):
    found = read_document(policy(spec))
    assert len(found.about.faults) == FAULTS
    assert not found.about.accepted


def test_fields_beside_spec_are_told_up_to_a_number_too():
    found = read_document({**policy({"models": ["*"]}), **{f"field{number}": 1 for number in range(20_000)}})
    assert FAULTS <= len(found.about.faults) <= 2 * FAULTS


@pytest.mark.parametrize("name", ["x" * 1_000_000, "a.b[0]" * 100_000, "\x1b" * 100_000])
def test_a_word_of_a_megabyte_makes_no_fault_of_a_megabyte(name):
    twice = {"subjects": [{"spiffeID": "spiffe://example.org/a"}], "models": [name, name]}
    for found in (read_document(policy({name: 1})), read_document({**policy({}), name: 1}), read_document(policy(twice))):
        assert found.about.faults
        assert all(len(str(fault)) < 2_000 for fault in found.about.faults)


def test_a_long_word_is_compared_with_none_of_ours():
    spec = {"subjects": [{"spiffeID": "spiffe://example.org/a"}], "models": ["*"], "action": "Alow" + "x" * 500, "q" * 200: 1}
    faults = {fault.path: fault.message for fault in read_document(policy(spec)).about.faults}
    assert "did you mean" not in faults["spec.action"]
    assert "did you mean" not in faults["spec." + "q" * 200]


def test_a_slip_of_one_of_ours_is_recognised_as_before():
    spec = {"subjects": [{"spiffeID": "spiffe://example.org/a"}], "model": ["*"], "action": "Alow"}
    faults = {fault.path: fault.message for fault in read_document(policy(spec)).about.faults}
    assert "did you mean Allow?" in faults["spec.action"]
    assert "did you mean models?" in faults["spec.model"]
