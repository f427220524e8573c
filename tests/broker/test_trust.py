import asyncio
import gc
import logging
import random
import ssl
import sys
import tempfile
import time
from pathlib import Path

import pytest
from support.hostile_certificates import CLIENT_ONLY, FAULTS, OF_OTHER_DOMAINS, SERVER_ONLY
from support.spiffe_ca import Faults, SpiffeCa, anybody, handshake, posing, presenting, trusting, update

from broker.errors import Unavailable, Unidentified
from broker.svids import BadUpdate, Update, X509Svid
from broker.trust import Trust
from broker.truststate import TrustState

BROKER, AGENT = "spiffe://a.test/ns/inference-broker/sa/broker", "spiffe://a.test/ns/team1/sa/agent"


class Clock:
    """A wall clock that stands still until it is moved."""

    def __init__(self):
        self.now = time.time()

    def __call__(self):
        return self.now


@pytest.fixture(scope="module")
def ca():
    return SpiffeCa("a.test")


@pytest.fixture(scope="module")
def other():
    return SpiffeCa("b.test")


@pytest.fixture(scope="module")
def agent(ca):
    return ca.issue(AGENT)


@pytest.fixture
def broker(ca, other):
    """A broker of a.test that federates with b.test."""
    return trusting(ca.issue(BROKER), ca, federated={"b.test": [other]})


def domains(trust):
    """Those whose workloads can get in."""
    return {name for name, anchors in trust.in_force.bundles.items() if anchors}


def judged(trust, tls, now=None):
    return trust.judge(tls, time.time() if now is None else now).spiffe_id


# who gets in


def test_both_sides_know_each_other_after_the_handshake(broker, ca, agent):
    client = trusting(agent, ca)
    ours, theirs = handshake(client.client_context(anybody), broker.server_context())
    assert judged(client, ours) == BROKER
    assert judged(broker, theirs) == AGENT
    assert ours.version() == "TLSv1.3"
    assert ours.selected_alpn_protocol() == theirs.selected_alpn_protocol() == "http/1.1"


def test_a_federated_workload_gets_in_by_its_own_domains_bundle(broker, ca, other):
    client = trusting(other.issue("spiffe://b.test/w"), other, federated={"a.test": [ca]})
    ours, theirs = handshake(client.client_context(anybody), broker.server_context())
    assert judged(broker, theirs) == "spiffe://b.test/w"
    assert judged(client, ours) == BROKER


CHAINS = {
    "an intermediate": lambda ca: ca.intermediate().issue(AGENT),
    "two intermediates": lambda ca: ca.intermediate().intermediate().issue(AGENT),
    "an intermediate with both purposes": lambda ca: ca.intermediate(purposes=(*SERVER_ONLY, *CLIENT_ONLY)).issue(AGENT),
    "a DNS name beside the SPIFFE ID": lambda ca: ca.issue(AGENT, Faults(dns=("agent.team1.svc",))),
    "no extended key usage": lambda ca: ca.issue(AGENT, Faults(purposes=None)),
    "no basic constraints": lambda ca: ca.issue(AGENT, Faults(is_ca=None)),
    "an empty subject and a critical name": lambda ca: ca.issue(AGENT, Faults(subject=(), san_critical=True)),
    "the root sent along": lambda ca: _sent_with(ca.intermediate().issue(AGENT), ca.cert),
}


def _sent_with(svid, *more):
    return type(svid)(svid.spiffe_id, (*svid.chain, *more), svid.key)


@pytest.mark.parametrize("shape", CHAINS)
def test_a_chain_of_this_shape_gets_in(broker, ca, shape):
    _, theirs = handshake(presenting(CHAINS[shape](ca)), broker.server_context())
    assert judged(broker, theirs) == AGENT


@pytest.mark.parametrize("fault", FAULTS)
def test_a_client_with_this_fault_ends_in_the_handshake(broker, ca, other, fault):
    with pytest.raises(ssl.SSLError):
        handshake(presenting(FAULTS[fault](ca, other, AGENT)), broker.server_context())


@pytest.mark.parametrize("fault", FAULTS)
def test_a_chain_with_this_fault_is_refused_by_our_own_verdict_too(ca, other, fault):
    """OpenSSL may have said no first above: here it has no say."""
    state = trusting(ca.issue(BROKER), ca, federated={"b.test": [other]}).in_force
    assert state is not None
    with pytest.raises(Unidentified):
        state.verify(FAULTS[fault](ca, other, AGENT).chain_der, time.time())


@pytest.mark.parametrize("fault", sorted(FAULTS.keys() - OF_OTHER_DOMAINS))
def test_a_broker_with_this_fault_gets_no_byte_of_ours(ca, other, agent, fault):
    server = posing(FAULTS[fault](ca, other, AGENT))
    client = trusting(agent, ca, federated={"b.test": [other]})
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(client.client_context(anybody), server)


def test_a_client_without_a_certificate_is_refused(broker):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with pytest.raises(ssl.SSLError, match=r"(?i)peer.did.not.return.a.certificate"):
        handshake(context, broker.server_context())


def test_a_trusted_broker_of_another_name_is_refused_and_named(broker, ca, agent):
    client = trusting(agent, ca).client_context(lambda identity: identity.spiffe_id == "spiffe://a.test/other")
    with pytest.raises(ssl.SSLCertVerificationError, match=BROKER):
        handshake(client, broker.server_context())


def test_a_bundle_that_holds_an_intermediate_alone_is_enough(ca):
    below = ca.intermediate()
    broker = trusting(ca.issue(BROKER), below)
    _, theirs = handshake(presenting(below.issue(AGENT)), broker.server_context())
    assert judged(broker, theirs) == AGENT
    with pytest.raises(ssl.SSLError):
        handshake(presenting(ca.issue(AGENT)), broker.server_context())


def test_an_authority_that_has_expired_vouches_for_nobody(ca):
    past = SpiffeCa("a.test", begins_s=-100, ttl_s=-2)
    broker = trusting(ca.issue(BROKER), ca, past)
    with pytest.raises(ssl.SSLError):
        handshake(presenting(past.issue(AGENT)), broker.server_context())
    state = broker.in_force
    assert state is not None
    with pytest.raises(Unidentified):
        state.verify(past.issue(AGENT).chain_der, time.time())


# TLS itself


def test_tls_1_2_is_refused(broker, agent):
    client = presenting(agent)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match=r"(?i)unsupported.protocol"):
        handshake(client, broker.server_context())


def test_no_ticket_is_given_and_a_kept_session_is_not_resumed(broker, agent):
    client, server = presenting(agent), broker.server_context()
    ours, theirs = handshake(client, server)
    theirs.write(b"x")
    ours.read(1)  # a ticket would have come before this byte
    assert ours.session is not None
    assert not ours.session.has_ticket
    kept = ours.session

    class Resuming:
        def wrap_bio(self, *bios):
            return client.wrap_bio(*bios, session=kept)

    again, theirs = handshake(Resuming(), server)
    assert not again.session_reused
    assert not theirs.session_reused


def test_a_session_is_never_taken_up_again(broker, ca, agent):
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLError, match="not resumed"):
        trusting(agent, ca).client_context(anybody).wrap_bio(incoming, outgoing, session=object())


def test_a_plain_socket_cannot_be_wrapped_past_the_verdict(broker):
    with pytest.raises(ssl.SSLError, match="event loop"):
        broker.server_context().wrap_socket(None)


async def test_over_loopback_a_refused_client_never_becomes_a_connection(broker, ca, other, agent):
    made, reasons = [], []
    broker = Trust(on_refusal=reasons.append)
    broker.apply(update(ca.issue(BROKER), ca, federated={"b.test": [other]}))

    async def serve(reader, writer):
        made.append(judged(broker, writer.get_extra_info("ssl_object")))
        writer.write(await reader.read(1))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=broker.server_context())
    port = server.sockets[0].getsockname()[1]
    for svid in (agent, other.issue(AGENT)):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=presenting(svid), server_hostname="broker")
        writer.write(b"x")
        answer = await reader.read()
        assert answer == (b"x" if svid is agent else b"")
        writer.close()
        await writer.wait_closed()
    server.close()
    await server.wait_closed()
    assert made == [AGENT]
    assert len(reasons) == 1
    assert "not vouched for" in reasons[0]


# every request


def test_an_svid_that_expires_between_two_requests_is_refused_at_the_second(broker, ca):
    svid = ca.issue(AGENT, ttl_s=30)
    _, theirs = handshake(presenting(svid), broker.server_context())
    ends = int(svid.chain[0].not_valid_after_utc.timestamp())
    assert judged(broker, theirs, ends) == AGENT
    with pytest.raises(Unidentified, match="renewed"):
        broker.judge(theirs, ends + 0.001)


def test_an_intermediate_that_expires_ends_what_stands_on_it(broker, ca):
    above = ca.intermediate(ttl_s=30)
    _, theirs = handshake(presenting(above.issue(AGENT)), broker.server_context())
    with pytest.raises(Unidentified):
        broker.judge(theirs, time.time() + 31)


def test_a_clock_that_is_put_back_does_not_make_an_svid_valid_before_its_time(broker, ca):
    _, theirs = handshake(presenting(ca.issue(AGENT, begins_s=-5)), broker.server_context())
    with pytest.raises(Unidentified):
        broker.judge(theirs, time.time() - 30)


def test_a_connection_that_was_never_identified_is_nobody(broker, ca):
    with pytest.raises(Unidentified, match="never identified"):
        broker.judge(broker.server_context().wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True), time.time())
    plain = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with pytest.raises(Unidentified, match="never identified"):
        broker.judge(plain.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="x"), time.time())


# rotation


def test_a_connection_lives_through_the_rotation_of_the_authority_while_the_bundle_has_both(ca, agent):
    broker, new = trusting(ca.issue(BROKER), ca), SpiffeCa("a.test")
    server = broker.server_context()
    ours, theirs = handshake(presenting(agent), server)
    broker.apply(update(new.issue(BROKER), ca, new))
    assert judged(broker, theirs) == AGENT
    theirs.write(b"still here")
    assert ours.read(10) == b"still here"
    _, newer = handshake(presenting(new.issue(AGENT)), server)
    assert judged(broker, newer) == AGENT


def test_an_authority_that_is_taken_out_of_the_bundle_ends_requests_and_handshakes(ca, agent):
    broker, new = trusting(ca.issue(BROKER), ca), SpiffeCa("a.test")
    server = broker.server_context()
    _, theirs = handshake(presenting(agent), server)
    broker.apply(update(new.issue(BROKER), new))
    with pytest.raises(Unidentified, match="not vouched for"):
        broker.judge(theirs, time.time())
    with pytest.raises(ssl.SSLError):
        handshake(presenting(agent), server)


def test_a_trust_domain_that_is_taken_back_ends_requests_and_handshakes(broker, ca, other):
    server, svid = broker.server_context(), other.issue("spiffe://b.test/w")
    _, theirs = handshake(presenting(svid), server)
    broker.apply(update(ca.issue(BROKER), ca))
    with pytest.raises(Unidentified, match=r"no trust bundle is held for the trust domain b\.test"):
        broker.judge(theirs, time.time())
    with pytest.raises(ssl.SSLError):
        handshake(presenting(svid), server)


def test_a_bundle_comes_into_force_even_when_our_own_svid_no_longer_stands_on_it(ca, agent):
    """Else a withdrawn authority would live on with us until our next SVID comes."""
    own = ca.issue(BROKER)
    broker, new = trusting(own, ca), SpiffeCa("a.test")
    _, theirs = handshake(presenting(agent), broker.server_context())
    broker.apply(update(own, new))
    with pytest.raises(Unidentified):
        broker.judge(theirs, time.time())


@pytest.mark.parametrize("withdrawn", [False, True])
def test_a_handshake_that_began_before_a_change_is_judged_by_what_came_after(ca, agent, withdrawn):
    broker, client, new = trusting(ca.issue(BROKER), ca), trusting(agent, ca), SpiffeCa("a.test")

    class Changing:
        """The broker's authority is taken back when our side has already begun."""

        def wrap_bio(self, *bios):
            tls = context.wrap_bio(*bios)
            client.apply(None if withdrawn else update(new.issue(AGENT), new))
            return tls

    context = client.client_context(anybody)
    with pytest.raises(ssl.SSLCertVerificationError, match="withdrawn during" if withdrawn else "not vouched for"):
        handshake(Changing(), broker.server_context())


def test_after_one_look_at_a_new_state_the_verdict_is_cheap_again(broker, ca, other, agent, monkeypatch):
    _, theirs = handshake(presenting(agent), broker.server_context())
    broker.apply(update(ca.issue(BROKER), ca, federated={"b.test": [other]}))
    looks = []
    verify = TrustState.verify
    monkeypatch.setattr(TrustState, "verify", lambda *args: looks.append(1) or verify(*args))
    for _ in range(3):
        broker.judge(theirs, time.time())
    assert looks == [1]


def test_the_same_update_again_is_no_change(broker, ca, other):
    again = update(ca.issue(BROKER), ca)
    broker.apply(again)
    generation = broker.generation
    broker.apply(Update(again.svids, dict(again.federated)))
    assert broker.generation == generation
    broker.apply(update(ca.issue(BROKER), ca))
    assert broker.generation == generation + 1


# our own identity


def test_before_the_first_svid_nothing_is_served_and_the_reason_says_what_to_check(ca, agent):
    trust = Trust()
    assert trust.own_id is None
    assert trust.expires is None
    assert "check the SPIFFE agent" in (trust.why_not_ready(0) or "")
    with pytest.raises(ssl.SSLError, match="no SVID"):
        handshake(presenting(agent), trust.server_context())


def test_contexts_that_were_made_before_the_first_svid_work_after_it(ca, agent):
    trust = Trust()
    server = trust.server_context()
    trust.apply(update(ca.issue(BROKER), ca))
    assert trust.why_not_ready(time.time()) is None
    _, theirs = handshake(presenting(agent), server)
    assert judged(trust, theirs) == AGENT


def test_a_withdrawn_svid_ends_requests_and_handshakes_until_a_new_one_comes(broker, ca, agent):
    server = broker.server_context()
    _, theirs = handshake(presenting(agent), server)
    broker.apply(None)
    with pytest.raises(Unavailable):
        broker.judge(theirs, time.time())
    with pytest.raises(ssl.SSLError, match="no SVID"):
        handshake(presenting(agent), server)
    assert "withdrawn" in (broker.why_not_ready(time.time()) or "")
    broker.apply(update(ca.issue(BROKER), ca))
    assert judged(broker, theirs) == AGENT


def test_a_withdrawn_svid_may_come_back_unchanged(ca, agent):
    broker, own = Trust(), update(ca.issue(BROKER), ca)
    broker.apply(own)
    broker.apply(None)
    broker.apply(own)
    assert broker.why_not_ready(time.time()) is None
    handshake(presenting(agent), broker.server_context())


def test_when_our_own_svid_has_expired_every_request_is_refused(ca, agent):
    broker = trusting(ca.issue(BROKER, ttl_s=30), ca)
    _, theirs = handshake(presenting(agent), broker.server_context())
    assert broker.expires is not None
    assert judged(broker, theirs, broker.expires) == AGENT
    with pytest.raises(Unavailable):
        broker.judge(theirs, broker.expires + 0.001)
    assert "expired" in (broker.why_not_ready(broker.expires + 1) or "")


def test_an_svid_of_tomorrow_is_not_used_today(ca):
    broker = trusting(ca.issue(BROKER, begins_s=100), ca)
    assert "clock" in (broker.why_not_ready(time.time()) or "")


def test_the_reason_why_not_ready_has_what_the_agent_said_last(caplog):
    trust = Trust()
    with caplog.at_level(logging.WARNING, "broker.trust"):
        trust.note("PERMISSION_DENIED: no identity issued")
        trust.note("PERMISSION_DENIED: no identity issued")
    assert "no identity issued" in (trust.why_not_ready(0) or "")
    assert len(caplog.records) == 1


BAD_UPDATES = {
    "another workload's key": lambda ca, svid: X509Svid(AGENT, svid.chain_der, ca.issue(AGENT).key_der, (ca.der,), ""),
    "a key that is none": lambda ca, svid: X509Svid(AGENT, svid.chain_der, b"\x30\x03abc", (ca.der,), ""),
    "a chain that is none": lambda ca, svid: X509Svid(AGENT, (b"\x30\x03abc",), svid.key_der, (ca.der,), ""),
    "no chain": lambda ca, svid: X509Svid(AGENT, (), svid.key_der, (ca.der,), ""),
    "a bundle that is none": lambda ca, svid: X509Svid(AGENT, svid.chain_der, svid.key_der, (b"\x30\x03abc",), ""),
    "no bundle": lambda ca, svid: X509Svid(AGENT, svid.chain_der, svid.key_der, (), ""),
    "another SPIFFE ID than announced": lambda ca, svid: X509Svid(BROKER, svid.chain_der, svid.key_der, (ca.der,), ""),
    "a SPIFFE ID that is none": lambda ca, svid: X509Svid("a.test", svid.chain_der, svid.key_der, (ca.der,), ""),
    "a leaf that is a CA": lambda ca, svid: _announced(ca, Faults(is_ca=True)),
    "a SPIFFE ID without a path": lambda ca, svid: _announced(ca, Faults(uris=("spiffe://a.test",))),
}


def _announced(ca, faults):
    svid = ca.issue(AGENT, faults)
    return X509Svid(AGENT, svid.chain_der, svid.key_der, (ca.der,), "")


@pytest.mark.parametrize("fault", BAD_UPDATES)
def test_a_bad_update_changes_nothing(broker, ca, agent, fault):
    server = broker.server_context()
    _, theirs = handshake(presenting(agent), server)
    generation = broker.generation
    with pytest.raises(BadUpdate):
        broker.apply(Update((BAD_UPDATES[fault](ca, agent),), {}))
    assert broker.generation == generation
    assert judged(broker, theirs) == AGENT
    assert broker.own_id is not None
    assert broker.own_id.spiffe_id == BROKER
    handshake(presenting(agent), server)


def test_an_update_that_openssl_refuses_changes_no_context(broker, agent, ca, monkeypatch):
    """Two contexts, the second of which fails: the first must not have moved."""
    first, second = broker.server_context(), broker.client_context(anybody)
    monkeypatch.setattr(second, "build", lambda state: (_ for _ in ()).throw(ssl.SSLError(1, "no")))
    with pytest.raises(ssl.SSLError):
        broker.apply(update(SpiffeCa("a.test").issue(BROKER), SpiffeCa("a.test")))
    _, theirs = handshake(presenting(agent), first)
    assert judged(broker, theirs) == AGENT


# other trust domains


def test_a_federated_bundle_that_cannot_be_read_costs_its_own_domain_alone(ca, agent, other, caplog):
    good = update(ca.issue(BROKER), ca, federated={"b.test": [other]})
    broker = Trust()
    broker.apply(Update(good.svids, {**good.federated, "spiffe://c.test": (b"\x30\x03abc",), "nonsense\n": (other.der,)}))
    assert domains(broker) == {"a.test", "b.test"}
    handshake(presenting(agent), broker.server_context())
    assert [record.message for record in caplog.records] == ["federated_bundle_unreadable"] * 2


def test_an_operators_bundle_is_trusted_for_its_own_domain_alone(ca, other):
    broker = Trust({"b.test": (other.cert,)})
    broker.apply(update(ca.issue(BROKER), ca))
    _, theirs = handshake(presenting(other.issue("spiffe://b.test/w")), broker.server_context())
    assert judged(broker, theirs) == "spiffe://b.test/w"
    with pytest.raises(ssl.SSLError):
        handshake(presenting(other.issue(AGENT)), broker.server_context())


@pytest.mark.parametrize("federated", [(), (SpiffeCa("b.test"),)])
def test_what_the_agent_says_of_a_domain_wins_over_the_operators_file(ca, other, federated):
    """Above all an empty bundle: "everything of this domain is revoked"."""
    broker = Trust({"b.test": (other.cert,), "a.test": (other.cert,)})
    broker.apply(update(ca.issue(BROKER), ca, federated={"b.test": federated}))
    for spiffe_id in ("spiffe://b.test/w", AGENT):
        with pytest.raises(ssl.SSLError):
            handshake(presenting(other.issue(spiffe_id)), broker.server_context())


# secrets


def test_the_key_is_never_in_a_file(ca, agent, tmp_path, monkeypatch):
    for variable in ("HOME", "TMPDIR"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    opened = []
    sys.addaudithook(lambda event, args: opened.append(args) if event == "open" and recording else None)
    recording = True
    try:
        broker = Trust()
        broker.server_context()
        broker.apply(update(ca.issue(BROKER), ca))
    finally:
        recording = False
    assert [path for path, *_ in opened if not str(path).startswith("/proc/self/fd/")] == []
    assert list(tmp_path.iterdir()) == []
    assert not [link for file in Path("/proc/self/fd").iterdir() if "svid" in (link := _link(file))]


def _link(file):
    try:
        return str(file.readlink())
    except FileNotFoundError:  # the listing's own
        return ""


def test_no_repr_and_no_log_line_shows_a_key(broker, ca, agent, caplog):
    svid = ca.issue(BROKER)
    new = update(svid, ca)
    with caplog.at_level(logging.DEBUG):
        broker.apply(new)
    shown = repr((broker, new, new.svids[0], broker.in_force)) + "".join(str(record.__dict__) for record in caplog.records)
    assert repr(svid.key_der[40:60])[2:-1] not in shown
    assert svid.key_der.hex() not in shown


def test_states_that_are_out_of_force_are_let_go(broker, ca):
    broker.server_context()
    for _ in range(3):
        broker.apply(update(ca.issue(BROKER), ca))
    gc.collect()
    assert sum(isinstance(thing, TrustState) and thing.identity.spiffe_id == BROKER for thing in gc.get_objects()) <= 1


@pytest.mark.filterwarnings("ignore:Parsed a", "ignore:The parsed certificate")
def test_no_damage_to_a_chain_gets_anything_but_a_verdict(broker, ca, agent):
    dice = random.Random(7)  # noqa: S311  repeatable
    state = broker.in_force
    assert state is not None
    svid = ca.intermediate().issue(AGENT)
    verdicts = {"yes": 0, "no": 0}
    for _ in range(3000):
        chain = [bytearray(der) for der in svid.chain_der]
        place = dice.choice(chain)
        for _ in range(dice.randint(1, 3)):
            place[dice.randrange(len(place))] = dice.randrange(256)
        try:
            state.verify([bytes(der) for der in chain], time.time())
            verdicts["yes"] += 1
        except Unidentified:
            verdicts["no"] += 1
    assert verdicts["no"] > 2900  # a byte may be drawn that was there already


# the operator's bundles, when they change


def test_a_bundle_that_the_operator_changes_counts_for_connections_that_are_there(ca, other):
    broker = trusting(ca.issue(BROKER), ca)
    broker.anchor("b.test", (other.cert,))
    visitor = other.issue("spiffe://b.test/ns/team1/sa/agent")
    _, server = handshake(presenting(visitor), broker.server_context())
    assert judged(broker, server) == visitor.spiffe_id
    broker.anchor("b.test", ())
    with pytest.raises(Unidentified):
        judged(broker, server)


def test_a_bundle_of_the_operator_that_comes_before_the_svid_counts_with_it(ca, other):
    broker = Trust()
    broker.anchor("b.test", (other.cert,))
    broker.apply(update(ca.issue(BROKER), ca))
    assert domains(broker) == {"a.test", "b.test"}


def test_what_the_workload_api_says_of_a_domain_wins_over_the_operator(ca, other):
    broker = trusting(ca.issue(BROKER), ca, federated={"b.test": [other]})
    impostor = SpiffeCa("b.test")
    broker.anchor("b.test", (impostor.cert,))
    assert broker.in_force.bundles["b.test"] == (other.cert,)


def test_the_same_bundle_again_changes_nothing(ca, other):
    broker = trusting(ca.issue(BROKER), ca)
    broker.anchor("b.test", (other.cert,))
    generation = broker.generation
    broker.anchor("b.test", (other.cert,))
    assert broker.generation == generation
