"""Certificates that no peer may believe, by their fault: made by authority A (ours) or B (of a federated trust domain) for a SPIFFE ID of A.

FAULTS["expired"](a, b, "spiffe://a.test/ns/team1/sa/agent")
"""

from collections.abc import Callable
from functools import reduce

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from support.spiffe_ca import Faults, SpiffeCa, Svid, key_usage

SERVER_ONLY, CLIENT_ONLY = (ExtendedKeyUsageOID.SERVER_AUTH,), (ExtendedKeyUsageOID.CLIENT_AUTH,)
NEITHER = (ExtendedKeyUsageOID.CODE_SIGNING,)

Maker = Callable[[SpiffeCa, SpiffeCa, str], Svid]


def _spelled(change: Callable[[str], str]) -> Maker:
    """A leaf whose URI is a spelling of the ID that the specification forbids."""
    return lambda a, _, spiffe_id: a.issue(spiffe_id, Faults(uris=(change(spiffe_id),)))


def _put_over(change: Callable[[bytes], bytes]) -> Maker:
    """The same, of bytes that no library would encode: as many as were there."""
    return lambda a, _, spiffe_id: a.issue(spiffe_id, Faults(raw_uri=change(spiffe_id.encode())))


def _faulty(**faults: object) -> Maker:
    return lambda a, _, spiffe_id: a.issue(spiffe_id, Faults(**faults))  # type: ignore[arg-type]


def _below(**options: object) -> Maker:
    """A faultless leaf of a faulty intermediate."""
    return lambda a, _, spiffe_id: a.intermediate(**options).issue(spiffe_id)


def _with_chain(svid: Svid, *chain: x509.Certificate) -> Svid:
    return Svid(svid.spiffe_id, (svid.chain[0], *chain), svid.key)


def _self_signed(a: SpiffeCa, _: SpiffeCa, spiffe_id: str) -> Svid:
    forger = SpiffeCa(a.trust_domain)
    return forger.issue(spiffe_id, Faults(subject=((NameOID.COUNTRY_NAME, "US"), (NameOID.ORGANIZATION_NAME, "SPIFFE"))), key=forger.key)


def _stolen_chain(a: SpiffeCa, b: SpiffeCa, spiffe_id: str) -> Svid:
    return _with_chain(SpiffeCa(a.trust_domain).issue(spiffe_id), a.intermediate().cert, a.cert)


def _stranger(path: str) -> Maker:
    return lambda a, _, __: a.issue(f"spiffe://{path}")


# Not one of these is vouched for by the authority that may do so
FOREIGN: dict[str, Maker] = {
    "trust domain A by federated authority B": lambda _, b, spiffe_id: b.issue(spiffe_id),
    "trust domain A by federated authority B, its root sent along": lambda _, b, spiffe_id: _with_chain(b.issue(spiffe_id), b.cert),
    "trust domain A by an intermediate of B": lambda _, b, spiffe_id: b.intermediate().issue(spiffe_id),
    "trust domain B by authority A": lambda a, b, _: a.issue(f"spiffe://{b.trust_domain}/w"),
    "trust domain B by an intermediate of A": lambda a, b, _: a.intermediate().issue(f"spiffe://{b.trust_domain}/w"),
    "an unknown trust domain by authority A": _stranger("unknown.test/w"),
    "an unknown trust domain by its own authority": lambda *_: SpiffeCa("unknown.test").issue("spiffe://unknown.test/w"),
    "an authority of the same name with another key": lambda a, _, spiffe_id: SpiffeCa(a.trust_domain).issue(spiffe_id),
    "the same, its root sent along": lambda a, _, spiffe_id: _with_chain(
        (forger := SpiffeCa(a.trust_domain)).issue(spiffe_id), forger.cert
    ),
    "the same, with a chain of ours": _stolen_chain,
    "self-signed": _self_signed,
}

SPELLINGS: dict[str, Maker] = {
    "two URI names": lambda a, _, spiffe_id: a.issue(spiffe_id, Faults(uris=(spiffe_id, f"{spiffe_id}2"))),
    "the same URI name twice": lambda a, _, spiffe_id: a.issue(spiffe_id, Faults(uris=(spiffe_id, spiffe_id))),
    "a second URI name that is no SPIFFE ID": lambda a, _, spiffe_id: a.issue(spiffe_id, Faults(uris=(spiffe_id, "https://a.test/"))),
    "no name at all": _faulty(san=False),
    "a DNS name only": _faulty(uris=(), dns=("a.test",)),
    "no path": _spelled(lambda i: "/".join(i.split("/")[:3])),
    "no path but a slash": _spelled(lambda i: "/".join(i.split("/")[:3]) + "/"),
    "https": _spelled(lambda i: i.replace("spiffe:", "https:")),
    "an upper-case scheme": _spelled(lambda i: i.replace("spiffe:", "SPIFFE:")),
    "upper case in the trust domain": _spelled(lambda i: i.replace(i.split("/")[2], i.split("/")[2].upper())),
    "no trust domain": _spelled(lambda _: "spiffe:///ns/team1/sa/agent"),
    "a port": _spelled(lambda i: i.replace("/ns", ":443/ns", 1)),
    "userinfo": _spelled(lambda i: i.replace("spiffe://", "spiffe://root@")),
    "a query": _spelled(lambda i: f"{i}?a=b"),
    "a fragment": _spelled(lambda i: f"{i}#a"),
    "a slash at the end": _spelled(lambda i: f"{i}/"),
    "an empty segment": _spelled(lambda i: i.replace("/sa/", "//sa/")),
    "a dot segment": _spelled(lambda i: i.replace("/sa/", "/../sa/")),
    "a percent-escape": _spelled(lambda i: i.replace("/sa/", "%2Fsa/")),
    "a space": _put_over(lambda i: i[:-1] + b" "),
    "a newline": _put_over(lambda i: i[:-1] + b"\n"),
    "a newline within": _put_over(lambda i: i.replace(b"/sa/", b"/sa\n")),
    "NUL": _put_over(lambda i: i[:-1] + b"\0"),
    "a byte beyond ASCII": _put_over(lambda i: i[:-1] + b"\xe9"),
    "2049 bytes": _spelled(lambda i: i + "w" * (2049 - len(i))),
    "a trust domain of 256 letters": _spelled(lambda _: f"spiffe://{'a' * 256}/w"),
}

LEAVES: dict[str, Maker] = {
    "a CA certificate as a leaf": _faulty(is_ca=True),
    "a CA certificate with signing rights as a leaf": _faulty(is_ca=True, usage=key_usage("digital_signature", "key_cert_sign")),
    "the authority itself": lambda a, _, spiffe_id: Svid(spiffe_id, (a.cert,), a.key),
    "keyCertSign": _faulty(usage=key_usage("digital_signature", "key_cert_sign")),
    "cRLSign": _faulty(usage=key_usage("digital_signature", "crl_sign")),
    "no digitalSignature": _faulty(usage=key_usage("key_agreement")),
    "no key usage": _faulty(usage=None),
    "a key usage that is not critical": _faulty(usage_critical=False),
    "serverAuth alone": _faulty(purposes=SERVER_ONLY),
    "clientAuth alone": _faulty(purposes=CLIENT_ONLY),
    "codeSigning alone": _faulty(purposes=NEITHER),
    "an empty subject and a name that is not critical": _faulty(subject=()),
    "no authority key identifier": _faulty(authority_key_id=False),
    "an unknown critical extension": _faulty(extra=((x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True),)),
    "expired": lambda a, _, spiffe_id: a.issue(spiffe_id, begins_s=-100, ttl_s=-2),
    "not valid yet": lambda a, _, spiffe_id: a.issue(spiffe_id, begins_s=100),
}

CHAINS: dict[str, Maker] = {
    "an expired intermediate": _below(begins_s=-100, ttl_s=-2),
    "an intermediate that is not valid yet": _below(begins_s=100),
    "an intermediate that is no CA": _below(is_ca=False),
    "an intermediate that may not sign": _below(usage=key_usage("digital_signature")),
    "an intermediate for servers alone": _below(purposes=SERVER_ONLY),
    "an intermediate below a path length of 0": lambda a, _, spiffe_id: a.intermediate(path_length=0).intermediate().issue(spiffe_id),
    "URI name constraints, which our verifier does not know": lambda a, _, spiffe_id: a.intermediate(
        constraints=x509.NameConstraints([x509.UniformResourceIdentifier(a.trust_domain)], None)
    ).issue(spiffe_id),
    "a leaf that another leaf signed": _below(is_ca=False, usage=key_usage("digital_signature")),
    "a missing intermediate": lambda a, _, spiffe_id: _with_chain(a.intermediate().issue(spiffe_id)),
    "another intermediate than its own": lambda a, _, spiffe_id: _with_chain(a.intermediate().issue(spiffe_id), a.intermediate().cert),
    "six intermediates": lambda a, _, spiffe_id: reduce(lambda ca, _: ca.intermediate(), range(6), a).issue(spiffe_id),
}

FAULTS = FOREIGN | SPELLINGS | LEAVES | CHAINS
# Faultless as such, but of whom nobody asked for: a client that wants one broker refuses them by name alone
OF_OTHER_DOMAINS = frozenset(name for name in FOREIGN if "unknown" in name)
