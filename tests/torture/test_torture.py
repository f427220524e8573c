"""`make torture` for a seed of each kind."""

import pytest
from torture.plan import KINDS, plan
from torture.seed import run


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
async def test_no_quota_is_passed_and_nothing_charged_is_given_back_whatever_is_killed(seed, tmp_path):
    verdict = await run(seed, tmp_path)
    assert verdict.faults == [], verdict.line


def test_the_seeds_of_every_run_are_of_every_kind():
    assert {plan(seed).kind for seed in (1, 2, 3, 4)} == set(KINDS)


def test_twenty_seeds_come_to_the_edge_of_every_kind_of_quota():
    edges = [plan(seed) for seed in range(1, 21) if plan(seed).tight]
    assert sorted(one.tight for one in edges) == sorted(quota.name for quota in edges[0].quotas if quota.unit != "concurrent")


def test_a_seed_decides_everything():
    assert plan(17) == plan(17) != plan(18)
