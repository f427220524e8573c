import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.addresses import HostList, Off, off_limits, parse_hosts, refusal

NOBODY = (HostList(), Off())
OLLAMA = "ollama.team1.svc"

INSIDE = [
    "127.0.0.1", "127.8.9.10", "::1", "0.0.0.0", "::", "169.254.169.254", "fe80::1", "fe80::1%eth0", "10.0.0.1", "172.16.0.1", "192.168.1.1",
    "100.64.0.1", "fd00:ec2::254", "fc00::1", "224.0.0.1", "ff02::1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1",
    "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "64:ff9b::7f00:1", "2002:7f00:1::", "2002:a9fe:a9fe::1", "2001:db8::1",
]  # fmt: skip


@pytest.mark.parametrize("address", INSIDE)
def test_an_address_inside_is_refused(address):
    assert refusal("api.example.com", 443, address, NOBODY, own_service=False)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "64:ff9b::808:808"])
def test_a_public_address_passes(address):
    assert refusal("api.example.com", 443, address, NOBODY, own_service=False) is None


@pytest.mark.parametrize("address", ["10.0.0.1", "172.20.1.2", "fd12::1"])
@pytest.mark.parametrize("canonical", [OLLAMA, f"{OLLAMA}.cluster.local", f"{OLLAMA}.cluster.local.", OLLAMA.upper()])
def test_a_service_of_the_own_namespace_may_be_private(address, canonical):
    assert refusal(OLLAMA, 11434, address, NOBODY, own_service=True, canonical=canonical) is None


@pytest.mark.parametrize("address", ["10.0.0.1", "8.8.8.8"])
@pytest.mark.parametrize(
    "canonical",
    [
        *("vault.vault.svc.cluster.local", "other.team1.svc.cluster.local", "10.0.0.1.nip.io", f"{OLLAMA}.attacker.example", "ollama", ""),
        *(f"{OLLAMA}.cluster.local.attacker.example", f"x.{OLLAMA}", None),
    ],
)
def test_a_service_that_is_an_alias_of_another_name_is_none_of_the_namespace(address, canonical):
    why = refusal(OLLAMA, 11434, address, NOBODY, own_service=True, canonical=canonical)
    assert "ExternalName" in str(why)
    listed = parse_hosts([OLLAMA]), Off()
    assert refusal(OLLAMA, 11434, address, listed, own_service=True, canonical=canonical) is None


def test_the_clusters_domain_is_what_a_pod_searches_in():
    resolver = "nameserver 10.96.0.10\nsearch inference-broker.svc.corp.example svc.corp.example corp.example lan\noptions ndots:5\n"
    off = off_limits("inference-broker", {}, resolver)
    assert off.domains == ("cluster.local", "corp.example")
    assert refusal(OLLAMA, 1, "10.0.0.1", (HostList(), off), own_service=True, canonical=f"{OLLAMA}.corp.example") is None
    assert refusal("redis.inference-broker.svc.corp.example", 1, "8.8.8.8", (HostList(), off), own_service=False)


def test_a_short_name_or_an_alias_leads_to_our_own_namespace_no_more_than_its_whole_name():
    everything = parse_hosts(["0.0.0.0/0"]), off_limits("inference-broker", {})
    for host in ("redis.inference-broker", "alias.example"):
        assert refusal(host, 6379, "10.0.0.9", everything, own_service=False, canonical="redis.inference-broker.svc.cluster.local")


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "::1", "fe80::1", "0.0.0.0", "::ffff:127.0.0.1"])
def test_a_service_is_never_on_loopback_or_link_local(address):
    assert refusal(OLLAMA, 11434, address, NOBODY, own_service=True, canonical=OLLAMA)


def test_what_the_operator_lists_passes_and_nothing_besides():
    allowed = (parse_hosts(["model.internal:8080", "10.1.0.0/16", "[::1]:4000", "any-port.internal"]), Off())
    assert refusal("model.internal", 8080, "127.0.0.1", allowed, own_service=False) is None
    assert refusal("model.internal", 8081, "127.0.0.1", allowed, own_service=False)
    assert refusal("other.internal", 8080, "10.1.2.3", allowed, own_service=False) is None
    assert refusal("other.internal", 8080, "10.2.2.3", allowed, own_service=False)
    assert refusal("::1", 4000, "::1", allowed, own_service=False) is None
    assert refusal("any-port.internal", 1, "127.0.0.1", allowed, own_service=False) is None


@pytest.mark.parametrize("entry", ["", ":80", "host:port", "host:99999", "a b", "10.0.0.0/33", "host:-1"])
def test_an_entry_that_is_no_host_names_itself(entry):
    with pytest.raises(ValueError, match="neither HOST|is not|does not appear|Only|mask|empty" if entry else "neither"):
        parse_hosts([entry])


@given(st.ip_addresses(v=4))
def test_hiding_an_ipv4_address_in_ipv6_changes_nothing(address):
    plain = refusal("h", 1, str(address), NOBODY, own_service=False) is None
    for hidden in (f"::ffff:{address}", str(ipaddress.IPv6Address(int(ipaddress.IPv6Address("64:ff9b::")) + int(address)))):
        assert (refusal("h", 1, hidden, NOBODY, own_service=False) is None) == plain


@pytest.mark.parametrize(
    ("host", "address"),
    [("redis.inference-broker.svc", "10.0.0.9"), ("a.inference-broker.svc.cluster.local", "8.8.8.8"), ("api.example.com", "10.0.0.1")],
)
def test_the_control_plane_and_our_own_namespace_are_off_limits_whoever_lists_them(host, address):
    off = off_limits("inference-broker", {"KUBERNETES_SERVICE_HOST": "10.0.0.1"})
    everything = parse_hosts(["0.0.0.0/0", host])
    assert "which no provider may lead to" in str(refusal(host, 443, address, (everything, off), own_service=True))
    assert refusal("api.example.com", 443, "10.0.0.2", (everything, off), own_service=False) is None
