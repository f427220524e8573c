"""Every switch of the webhook."""

from pathlib import Path

import pytest

from broker.config import Address, ConfigError
from webhook import config

NEEDED = [
    *("--tls-cert", "c.pem", "--tls-key", "k.pem", "--broker", "broker.ns.svc:8443"),
    *("--broker-spiffe-id", "spiffe://example.org/ns/b/sa/b", "--gateway-image", "registry.example/broker:1"),
]


def without(flag):
    at = NEEDED.index(flag)
    return [*NEEDED[:at], *NEEDED[at + 2 :]]


def test_what_is_needed_is_enough():
    settings = config.read(NEEDED, {})
    assert settings.gateway.broker == (Address("broker.ns.svc", 8443),)
    assert (settings.gateway.port, settings.gateway.uid, settings.gateway.pull_policy) == (4180, 64180, "IfNotPresent")
    assert settings.gateway.requests == {"cpu": "10m", "memory": "64Mi"}
    assert settings.gateway.limits == {"memory": "192Mi"}
    assert settings.listen == Address("", 9443)


def test_everything_can_come_from_the_environment():
    environ = {
        "WEBHOOK_TLS_CERT": "c",
        "WEBHOOK_TLS_KEY": "k",
        "WEBHOOK_BROKER": "a:1,b:2",
        "WEBHOOK_BROKER_SPIFFE_ID": "spiffe://example.org/b",
        "WEBHOOK_GATEWAY_IMAGE": "i",
        "WEBHOOK_GATEWAY_PASSTHROUGH": "true",
    }
    settings = config.read([], environ)
    assert settings.gateway.broker == (Address("a", 1), Address("b", 2))
    assert settings.gateway.passthrough is True


@pytest.mark.parametrize("flag", [entry for entry in NEEDED if entry.startswith("--") and "tls" not in entry])
def test_what_is_missing_is_said_with_its_flag_and_its_variable(flag):
    variable = f"WEBHOOK_{flag.removeprefix('--').replace('-', '_').upper()}"
    with pytest.raises(ConfigError, match=f"{flag} .* is missing: give it, or set {variable}"):
        config.read(without(flag), {})


OWN = [
    *(
        "--tls-secret",
        "webhook-tls",
        "--namespace",
        "inference-broker",
        "--service",
        "webhook",
        "--webhook-configuration",
        "inference-broker",
    ),
    *NEEDED[4:],
]


def test_a_certificate_is_given_or_our_own():
    assert config.read(NEEDED, {}).certificate == config.Given(Path("c.pem"), Path("k.pem"))
    assert config.read(OWN, {}).certificate == config.Kept(
        "inference-broker", "webhook-tls", "inference-broker", ("webhook.inference-broker.svc",)
    )


def test_a_webhook_that_is_reached_by_url_has_more_names_or_others():
    more = config.read([*OWN, "--tls-names", "webhook.example, 10.0.0.7, ::1"], {}).certificate
    assert more.names == ("webhook.inference-broker.svc", "webhook.example", "10.0.0.7", "::1")
    at = OWN.index("--service")
    assert config.read([*OWN[:at], *OWN[at + 2 :], "--tls-names", "127.0.0.1"], {}).certificate.names == ("127.0.0.1",)


@pytest.mark.parametrize("flag", ["--tls-cert", "--tls-key"])
def test_without_a_certificate_both_ways_to_one_are_said(flag):
    with pytest.raises(ConfigError, match="give --tls-cert and --tls-key, or --tls-secret for a certificate that the webhook makes"):
        config.read(without(flag), {})


@pytest.mark.parametrize("flag", ["--namespace", "--webhook-configuration", "--service"])
def test_what_a_certificate_of_our_own_needs_besides_is_said(flag):
    at = OWN.index(flag)
    with pytest.raises(ConfigError, match=f"--tls-secret needs {flag} as well"):
        config.read([*OWN[:at], *OWN[at + 2 :]], {})


@pytest.mark.parametrize("more", [("--tls-cert", "c.pem"), ("--tls-key", "k.pem")])
def test_both_ways_to_a_certificate_at_once_are_refused(more):
    with pytest.raises(ConfigError, match="leave one or the other out"):
        config.read([*OWN, *more], {})


@pytest.mark.parametrize(
    ("flag", "wrong"),
    [
        ("--tls-secret", "a/b"),
        ("--service", "Webhook"),
        ("--namespace", "a.b"),
        ("--webhook-configuration", "../x"),
        ("--tls-names", "a b"),
        ("--tls-names", "*.svc"),
    ],
)
def test_no_name_leads_to_another_object(flag, wrong):
    with pytest.raises(ConfigError, match=flag):
        config.read([*OWN, flag, wrong], {})


@pytest.mark.parametrize(
    ("flag", "wrong"),
    [
        ("--broker", "broker"),
        ("--broker", ":8443"),
        ("--broker", "$(EVIL):8443"),
        ("--broker", "broker:0"),
        ("--broker-spiffe-id", "spiffe://example.org"),
        ("--broker-spiffe-id", "spiffe://example.org/$(EVIL)"),
        ("--gateway-image", ""),
        ("--gateway-image", "a b"),
        ("--gateway-image", "$(EVIL)"),
        ("--gateway-pull-policy", "Sometimes"),
        ("--gateway-port", "80"),
        ("--gateway-port", "65536"),
        ("--gateway-uid", "0"),
        ("--gateway-uid", "2147483648"),
        ("--gateway-requests", "cpu"),
        ("--gateway-requests", "disk=1Gi"),
        ("--gateway-requests", "cpu=1,cpu=2"),
        ("--gateway-limits", "memory=lots"),
        ("--gateway-passthrough", "yes"),
        ("--spiffe-csi-driver", "csi/spiffe"),
        ("--spiffe-socket", "/run/a.sock"),
        ("--spiffe-socket", "unix:///a.sock"),
        ("--spiffe-socket", "unix:///run/../a.sock"),
    ],
)
def test_what_cannot_be_read_is_refused_by_its_flag(flag, wrong):
    argv = without(flag) if flag in NEEDED else NEEDED
    with pytest.raises(ConfigError, match=flag):
        config.read([*argv, flag, wrong], {})


@pytest.mark.parametrize("switch", config.SWITCHES, ids=lambda switch: switch.flag)
def test_every_switch_says_what_it_means_and_has_a_default_that_it_can_read(switch):
    assert len(switch.help) > 15
    assert switch.variable.startswith("WEBHOOK_")
    if switch.default is not None:
        switch.value(None, {})


def test_no_variable_is_one_that_a_service_named_webhook_brings():
    brought = ("WEBHOOK_PORT", "WEBHOOK_SERVICE_HOST", "WEBHOOK_SERVICE_PORT")
    assert [switch.variable for switch in config.SWITCHES if switch.variable in brought] == []


def test_help_names_every_switch_and_its_variable(capsys):
    with pytest.raises(SystemExit) as done:
        config.read(["--help"], {})
    text = " ".join(capsys.readouterr().out.split())
    assert done.value.code == 0
    assert [switch.flag for switch in config.SWITCHES if f"{switch.flag} {switch.metavar}" not in text or switch.variable not in text] == []
