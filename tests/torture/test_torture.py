"""`make torture` for three seeds: one that holds to the token, one that counts prompts, one whose store loses what it was told."""

import pytest
from torture.plan import KINDS, plan
from torture.seed import run


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_no_quota_is_passed_and_nothing_charged_is_given_back_whatever_is_killed(seed, tmp_path):
    verdict = await run(seed, tmp_path)
    assert verdict.faults == [], verdict.line


def test_the_seeds_of_every_run_are_of_every_kind():
    assert {plan(seed).kind for seed in (1, 2, 3)} == set(KINDS)


def test_a_seed_decides_everything():
    assert plan(17) == plan(17) != plan(18)
