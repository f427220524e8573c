"""Who is asked, who rests and who is asked again, on a clock of our own."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import NoBackend, ProviderRateLimited
from broker.grant import Backend, Endpoint, Failover, Provider
from broker.routing import (
    FIRST_REST_S,
    LONGEST_REST_S,
    LONGEST_RETRY_AFTER_S,
    PATIENCE,
    RETRY_RESERVE,
    RETRY_SHARE,
    TRICKLE_S,
    Router,
    choose,
)

PROVIDER = Provider("team1", "openai", "OpenAI", Endpoint("https", "api.openai.com", 443, "/v1"), "None", None)
A, B = Backend(PROVIDER, "a", 0), Backend(PROVIDER, "b", 1)
RULES = Failover(max_retries=5, backoff_base_s=0.1, backoff_max_s=2.0)

backends = st.lists(
    st.builds(Backend, st.just(PROVIDER), st.text(max_size=3), st.integers(0, 3), st.integers(1, 9)), min_size=1, max_size=6
)


class Health:
    """A router whose clock stands still and whose draw is named."""

    def __init__(self, draw: float = 0.5) -> None:
        self.now_s = 1000.0
        self.draw = draw
        self.router = Router(lambda: self.now_s, lambda: self.draw)

    def fail(self, backend: Backend, times: int, cause="ConnectFailure") -> float:
        return sum(self.router.failed(backend, cause, None) for _ in range(times))


@given(backends, st.floats(0, 1, exclude_max=True))
def test_the_choice_has_the_lowest_priority_number(offered, draw):
    assert choose(tuple(offered), lambda: draw).priority == min(backend.priority for backend in offered)


def test_draws_spread_by_weight():
    light, heavy = Backend(PROVIDER, "light", 0, 1), Backend(PROVIDER, "heavy", 0, 3)
    later = Backend(PROVIDER, "later", 1, 100)
    seen = Counter(choose((light, heavy, later), lambda draw=draw: draw / 100).model for draw in range(100))
    assert seen == {"light": 25, "heavy": 75}


def test_one_backend_needs_no_draw():
    only = Backend(PROVIDER, "only", 5, 1)
    assert choose((only,), None) is only


@pytest.mark.parametrize("cause", ["ConnectFailure", "Reset", "Timeout", "Malformed", 502, 503, 504, 529])
def test_a_backend_that_fails_again_and_again_rests(cause):
    health = Health()
    assert health.fail(A, PATIENCE - 1, cause) == 0
    assert health.router.first((A, B)) is A
    assert health.fail(A, 1, cause) == pytest.approx(FIRST_REST_S)
    assert health.router.first((A, B)) is B
    assert health.router.resting == 1


@pytest.mark.parametrize("cause", [400, 401, 404, 422, 500, 429])
def test_an_answer_about_one_request_says_nothing_of_the_next(cause):
    health = Health()
    assert health.fail(A, 100, cause) == 0
    assert health.router.first((A, B)) is A


def test_a_success_in_between_begins_the_count_anew():
    health = Health()
    health.fail(A, PATIENCE - 1)
    health.router.succeeded(A)
    assert health.fail(A, PATIENCE - 1) == 0


def test_one_model_of_a_provider_rests_alone():
    health = Health()
    health.fail(A, PATIENCE)
    assert health.router.first((B,)) is B


def test_rests_grow_and_end_somewhere():
    health = Health()
    rests = [health.fail(A, PATIENCE)]
    for _ in range(8):
        health.now_s += rests[-1] + TRICKLE_S
        rests.append(health.fail(A, 1))
    assert rests[:4] == pytest.approx([1, 2, 4, 8])
    assert rests[-1] == pytest.approx(LONGEST_REST_S)


def test_after_a_rest_a_trickle_finds_out_whether_all_is_well():
    health = Health()
    health.now_s += health.fail(A, PATIENCE)
    health.draw = 0.09
    assert health.router.first((A, B)) is A
    health.draw = 0.11
    assert health.router.first((A, B)) is B
    health.now_s += TRICKLE_S / 2
    health.draw = 0.49
    assert health.router.first((A, B)) is A
    health.draw = 0.51
    assert health.router.first((A, B)) is B
    health.now_s += TRICKLE_S / 2
    health.draw = 0.99
    assert health.router.first((A, B)) is A


def test_when_all_rest_the_answer_says_how_long():
    health = Health()
    health.fail(A, PATIENCE)
    with pytest.raises(NoBackend) as caught:
        health.router.first((A,))
    assert caught.value.retry_after_s == pytest.approx(FIRST_REST_S)


@pytest.mark.parametrize(("asked_s", "rests_s"), [(7, 7), (100_000, LONGEST_RETRY_AFTER_S)])
def test_a_retry_after_is_kept(asked_s, rests_s):
    health = Health()
    assert health.router.failed(A, 429, float(asked_s)) == rests_s
    with pytest.raises(ProviderRateLimited) as caught:
        health.router.first((A,))
    assert caught.value.retry_after_s == rests_s
    health.now_s += rests_s
    assert health.router.first((A,)) is A, "it said itself that it may be asked again: no trickle"


def test_after_a_failure_one_that_was_not_tried_is_asked_at_once():
    assert Health().router.next((A, B), [A], RULES) == (B, 0.0)


@pytest.mark.parametrize(("tried", "wait_s"), [(1, 0.075), (2, 0.15), (3, 0.3), (5, 1.2), (9, 1.5)])
def test_one_that_was_tried_is_asked_again_after_a_backoff(tried, wait_s):
    assert Health().router.next((A,), [A] * tried, RULES) == (A, pytest.approx(wait_s))


def test_backoffs_differ_so_that_callers_do_not_come_back_together():
    waits = [Health(draw).router.next((A,), [A], RULES)[1] for draw in (0.0, 0.5, 0.999)]
    assert waits == pytest.approx([0.05, 0.075, 0.1], abs=1e-3)


def test_a_short_retry_after_is_waited_for_and_a_long_one_is_not():
    health = Health()
    health.router.failed(A, 429, 2.0)
    assert health.router.next((A,), [A], RULES) == (A, 2.0)
    health.router.failed(A, 429, 3.0)
    assert health.router.next((A,), [A], RULES) is None


def test_the_retry_budget_bounds_what_a_broken_provider_is_asked_twice():
    health = Health()
    repeats = 0
    for _ in range(1000):
        health.router.first((A,))
        health.router.succeeded(A)  # the rests are not the subject here
        repeats += health.router.next((A,), [A], RULES) is not None
    assert repeats <= RETRY_RESERVE + 1000 * RETRY_SHARE
    assert health.router.retries == repeats > RETRY_RESERVE


def test_the_budget_of_one_backend_is_no_obstacle_to_asking_another():
    health = Health()
    for _ in range(100):
        health.router.next((A,), [A], RULES)
    assert health.router.next((A,), [A], RULES) is None
    assert health.router.next((A, B), [A], RULES) == (B, 0.0)


def test_a_backend_that_is_well_again_is_forgotten():
    health = Health()
    health.now_s += health.fail(A, PATIENCE) + TRICKLE_S
    health.router.succeeded(A)
    assert health.fail(A, PATIENCE) == pytest.approx(FIRST_REST_S), "the next rest is a first one"


def test_what_is_remembered_is_bounded():
    health = Health()
    health.fail(A, PATIENCE)
    for n in range(5000):
        health.router.failed(Backend(PROVIDER, str(n)), "Reset", None)
    assert health.router.first((A, B)) is B, "those that rest are kept"
    assert health.router.resting == 1


def test_a_limit_of_one_callers_own_account_keeps_nobody_else_waiting():
    health = Health()
    own = Backend(replace(PROVIDER, auth="Passthrough"), "own")
    assert health.router.failed(own, 429, 600.0) == 0.0
    assert health.router.first((own,)) is own
    assert health.router.failed(own, 503, 7.0) == 7.0  # that is no limit of an account
