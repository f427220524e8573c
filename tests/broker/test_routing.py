from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from broker.grant import Backend, Endpoint, Provider
from broker.routing import choose

PROVIDER = Provider("team1", "openai", "OpenAI", Endpoint("https", "api.openai.com", 443, "/v1"), "None", None)

backends = st.lists(
    st.builds(Backend, st.just(PROVIDER), st.text(max_size=3), st.integers(0, 3), st.integers(1, 9)), min_size=1, max_size=6
)


@given(backends, st.floats(0, 1, exclude_max=True))
def test_the_choice_has_the_lowest_priority_number(offered, draw):
    assert choose(tuple(offered), draw).priority == min(backend.priority for backend in offered)


def test_draws_spread_by_weight():
    light, heavy = Backend(PROVIDER, "light", 0, 1), Backend(PROVIDER, "heavy", 0, 3)
    later = Backend(PROVIDER, "later", 1, 100)
    seen = Counter(choose((light, heavy, later), draw / 100).model for draw in range(100))
    assert seen == {"light": 25, "heavy": 75}


def test_one_backend_needs_no_draw():
    only = Backend(PROVIDER, "only", 5, 1)
    assert choose((only,), 0.999) is only
