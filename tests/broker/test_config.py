from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import config
from broker.config import ConfigError, Switch

EVERY = {switch.flag: switch for switch in (*config.CONTROLLER, *config.SERVE, *config.GATEWAY, *config.DEV)}


def test_the_command_line_wins_over_the_environment_and_that_over_the_default():
    switch = Switch("--drain", "DURATION", "", "25s", config.duration)
    assert switch.value("1s", {"BROKER_DRAIN": "2s"}) == 1.0
    assert switch.value(None, {"BROKER_DRAIN": "2s"}) == 2.0
    assert switch.value(None, {}) == 25.0


def test_a_repeatable_switch_is_a_comma_list_in_the_environment():
    switch = Switch("--broker", "HOST:PORT", "", read=config.address, many=True)
    expected = (config.Address("a", 1), config.Address("::1", 2))
    assert switch.value(["a:1", "[::1]:2"], {}) == expected
    assert switch.value(None, {"BROKER_BROKER": "a:1, [::1]:2"}) == expected
    assert switch.value(None, {}) == ()


def test_what_is_missing_is_said_with_its_flag_and_its_variable():
    with pytest.raises(ConfigError, match=r"--quota-store URL is missing: give it, or set BROKER_QUOTA_STORE"):
        EVERY["--quota-store"].value(None, {})


def test_the_workload_api_is_found_by_its_standard_variable_too():
    switch = EVERY["--spiffe-endpoint-socket"]
    assert switch.value(None, {"SPIFFE_ENDPOINT_SOCKET": "unix:///a"}) == "unix:///a"
    assert switch.value(None, {"SPIFFE_ENDPOINT_SOCKET": "unix:///a", "BROKER_SPIFFE_ENDPOINT_SOCKET": "unix:///b"}) == "unix:///b"


@pytest.mark.parametrize(
    ("read", "wrong"),
    [
        *((config.duration, text) for text in ("", "5", "-1s", "1d", "1s ", "s", "١s")),
        *((config.size, text) for text in ("", "-1", "5MB", "1.5MiB")),
        *((config.audit_size, text) for text in ("", "1", "63KiB", "65535")),
        *((config.count, text) for text in ("0", "-1", "1.0", "²")),
        *((config.yes_or_no, text) for text in ("", "yes", "1", "True")),
        *((config.address, text) for text in ("", "host", "host:", "host:x", "host:70000", "::1:80")),
        *((config.trust_bundle, text) for text in ("", "td", "td=", "=file")),
        *((config.bundle_configmap, text) for text in ("", "td", "td=", "td=ns", "td=ns/", "td=/name", "=ns/name", "td=ns/name/x")),
        *((config.workload, text) for text in ("", "spiffe://a/b", "http://a=1", "spiffe://a/b=x", "spiffe://a/b=70000")),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_it_should_be(read, wrong):
    with pytest.raises(ValueError, match=r"is no|is not|neither"):
        read(wrong)


@given(st.integers(0, 10**6), st.sampled_from(["ms", "s", "m", "h"]))
def test_durations_are_seconds(number, unit):
    factor = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[unit]
    assert config.duration(f"{number}{unit}") == pytest.approx(number * factor)


def test_objects_are_in_the_cluster_or_in_a_folder():
    assert config.resources("kubernetes") is None
    assert config.resources("./kubernetes") == Path("kubernetes")


def test_a_staleness_below_what_is_normal_is_refused():
    assert config.staleness("2m") == 120
    with pytest.raises(ValueError, match="2m"):
        config.staleness("119s")


def test_sizes_are_bytes():
    assert config.audit_size("64KiB") == 64 << 10
    assert (config.size("32MiB"), config.size("7"), config.size("1GiB")) == (32 << 20, 7, 1 << 30)


@pytest.mark.parametrize("flag", EVERY)
def test_every_switch_says_what_it_means_and_has_a_default_that_it_can_read(flag):
    switch = EVERY[flag]
    assert len(switch.help) > 15
    if switch.default is not None:
        switch.value(None, {})


def test_broker_settings_have_a_field_for_each_switch():
    names = {switch.name for switch in config.SERVE}
    fields = set(config.BrokerSettings.__dataclass_fields__) - {"environ"}
    assert names == fields
