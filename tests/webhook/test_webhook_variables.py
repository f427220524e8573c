"""The base URLs and placeholder keys of one container."""

import pytest

from broker import sdk_env
from broker.dialects import ROUTES
from broker.names import PLACEHOLDER_KEY
from webhook import variables
from webhook.pod import EnvVar

ALL = tuple(sdk_env.BY_DIALECT)
SECRET = {"secretKeyRef": {"name": "openai", "key": "api-key"}}


def after(*env, dialects=ALL, port=4180):
    """The environment that the container then has, and the plan."""
    plan = variables.plan(env, dialects, port)
    values = [one.value for one in env]
    for at, value in plan.changed:
        values[at] = value
    return {**{one.name: value for one, value in zip(env, values, strict=True)}, **dict(plan.added)}, plan


def test_every_dialect_that_the_broker_serves_has_its_variables():
    names = {dialect.NAME for dialect in ROUTES.values()}
    assert {*ALL, *sdk_env.SAME_SDK} == names
    assert set(sdk_env.SAME_SDK.values()) <= set(ALL)
    assert not set(sdk_env.SAME_SDK) & set(ALL)


@pytest.mark.parametrize("dialect", ALL)
def test_every_dialect_has_base_urls_and_a_key(dialect):
    keys = sdk_env.keys(dialect)
    assert keys
    assert set(sdk_env.BY_DIALECT[dialect]) - keys


def test_no_variable_belongs_to_more_than_models():
    names = {name for dialect in ALL for name in sdk_env.BY_DIALECT[dialect]}
    assert {name for name in names if name.startswith(("AWS_", "GOOGLE_APPLICATION"))} == set()


def test_what_the_author_set_stays():
    env, plan = after(EnvVar("OPENAI_API_KEY", "sk-mine"), EnvVar("LOG_LEVEL", "debug"))
    assert (env["OPENAI_API_KEY"], env["LOG_LEVEL"]) == ("sk-mine", "debug")
    assert plan.kept == ("OPENAI_API_KEY",)
    assert plan.keys == ("OPENAI_API_KEY",)


def test_who_sets_one_base_url_of_a_dialect_gets_none_of_its_variables():
    env, plan = after(EnvVar("OPENAI_BASE_URL", "https://api.openai.com/v1"))
    assert {name for name in env if name.startswith("OPENAI")} == {"OPENAI_BASE_URL"}
    assert env["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:4180"
    assert plan.elsewhere == ("OPENAI_BASE_URL",)
    assert plan.keys == ()


def test_who_sets_our_own_base_url_gets_the_rest():
    env, plan = after(EnvVar("OPENAI_BASE_URL", "http://127.0.0.1:4180/v1"))
    assert env["OPENAI_API_KEY"] == PLACEHOLDER_KEY
    assert (plan.kept, plan.elsewhere) == ((), ())


def test_an_empty_value_was_set_too():
    env, plan = after(EnvVar("OPENAI_API_KEY"), EnvVar("ANTHROPIC_API_KEY", ""))
    assert (env["OPENAI_API_KEY"], env["ANTHROPIC_API_KEY"]) == (None, "")
    assert plan.kept == ("ANTHROPIC_API_KEY", "OPENAI_API_KEY")


def test_a_value_from_a_secret_was_set_too():
    _, plan = after(EnvVar("OPENAI_API_KEY", value_from=SECRET))
    assert "OPENAI_API_KEY" not in dict(plan.added)
    assert plan.keys == ("OPENAI_API_KEY",)


def test_one_key_is_enough_where_the_sdk_knows_two():
    env, plan = after(EnvVar("ANTHROPIC_AUTH_TOKEN", "t"))
    assert "ANTHROPIC_API_KEY" not in env
    assert env["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:4180"
    assert plan.keys == ("ANTHROPIC_AUTH_TOKEN",)


def test_of_a_name_that_is_there_twice_the_last_one_counts():
    env, plan = after(EnvVar("OPENAI_BASE_URL", "https://x"), EnvVar("OPENAI_BASE_URL", "http://127.0.0.1:4180/v1"))
    assert plan.elsewhere == ()
    assert "OPENAI_API_KEY" in env


def test_without_dialects_nothing_is_set():
    env, plan = after(EnvVar("NO_PROXY", "x"), dialects=())
    assert env == {"NO_PROXY": "x"}
    assert plan.injected == ()


@pytest.mark.parametrize(
    ("before", "then"),
    [
        ("", "127.0.0.1,localhost"),
        ("*", "*"),
        (".svc,*", ".svc,*"),
        (".svc", ".svc,127.0.0.1,localhost"),
        (".svc,", ".svc,127.0.0.1,localhost"),
        ("localhost", "localhost,127.0.0.1"),
        (" localhost , 127.0.0.1 ", " localhost , 127.0.0.1 "),
        ("127.0.0.11", "127.0.0.11,127.0.0.1,localhost"),
    ],
)
def test_loopback_is_added_to_what_goes_past_the_proxy(before, then):
    env, _ = after(EnvVar("NO_PROXY", before), EnvVar("no_proxy", before))
    assert (env["NO_PROXY"], env["no_proxy"]) == (then, then)


@pytest.mark.parametrize(("given", "other"), [("NO_PROXY", "no_proxy"), ("no_proxy", "NO_PROXY")])
def test_the_other_spelling_says_the_same(given, other):
    """Programs read one of the two: one alone would hide what the author said in the other."""
    env, _ = after(EnvVar(given, ".svc"))
    assert env[given] == env[other] == ".svc,127.0.0.1,localhost"


def test_two_spellings_that_differ_each_keep_their_own():
    env, _ = after(EnvVar("NO_PROXY", "a"), EnvVar("no_proxy", "b"))
    assert (env["NO_PROXY"], env["no_proxy"]) == ("a,127.0.0.1,localhost", "b,127.0.0.1,localhost")


def test_one_that_cannot_be_seen_is_hidden_by_nothing():
    env, plan = after(EnvVar("NO_PROXY", value_from=SECRET))
    assert "no_proxy" not in env
    assert plan.kept == ("NO_PROXY",)


def test_one_that_can_be_seen_is_merged_beside_one_that_cannot():
    env, _ = after(EnvVar("NO_PROXY", value_from=SECRET), EnvVar("no_proxy", "b"))
    assert env["no_proxy"] == "b,127.0.0.1,localhost"


def test_the_port_is_in_every_base_url():
    env, _ = after(port=5000)
    assert {value for value in env.values() if value.startswith("http")} == {"http://127.0.0.1:5000", "http://127.0.0.1:5000/v1"}
