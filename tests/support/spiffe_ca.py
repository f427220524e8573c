"""A SPIFFE authority for tests: SVIDs as SPIRE makes them, and with any fault that a test asks for.

ca = SpiffeCa("a.test")
agent = ca.issue("spiffe://a.test/ns/team1/sa/weather-agent")
trust.apply(update(agent, ca, federated={"b.test": [other_ca]}))
"""

import datetime as dt
import math
import ssl
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from broker.authority import Issued
from broker.identity import Identity
from broker.svids import Update, X509Svid
from broker.trust import Trust

BOTH = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
DER = serialization.Encoding.DER


def key_usage(*names: str) -> x509.KeyUsage:
    every = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")  # fmt: skip
    return x509.KeyUsage(**{name: name in names for name in every})


SIGNATURE = key_usage("digital_signature")


@dataclass(frozen=True)
class Faults:
    """How a leaf looks. The defaults are a faultless one."""

    uris: tuple[str, ...] | None = None  # None = the SPIFFE ID asked for
    dns: tuple[str, ...] = ()
    san: bool = True
    san_critical: bool = False
    is_ca: bool | None = False  # None = no basic constraints
    usage: x509.KeyUsage | None = SIGNATURE
    usage_critical: bool = True
    purposes: tuple[x509.ObjectIdentifier, ...] | None = BOTH
    authority_key_id: bool = True
    subject: tuple[tuple[x509.ObjectIdentifier, str], ...] = ((NameOID.COUNTRY_NAME, "US"), (NameOID.ORGANIZATION_NAME, "SPIRE"))
    extra: tuple[tuple[x509.ExtensionType, bool], ...] = ()
    raw_uri: bytes | None = None  # bytes put over the URI before signing: what no library would encode


@dataclass(frozen=True)
class Svid:
    """A leaf with its key and the intermediates above it."""

    spiffe_id: str
    chain: tuple[x509.Certificate, ...]
    key: ec.EllipticCurvePrivateKey

    @property
    def chain_der(self) -> tuple[bytes, ...]:
        return tuple(cert.public_bytes(DER) for cert in self.chain)

    @property
    def key_der(self) -> bytes:
        return self.key.private_bytes(DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())

    @property
    def pem(self) -> bytes:
        pem = serialization.Encoding.PEM
        key = self.key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return key + b"".join(cert.public_bytes(pem) for cert in self.chain)


class SpiffeCa:
    """One trust domain's signing authority: a root, or (by `intermediate`) one below it."""

    def __init__(self, trust_domain: str, *, issuer: "SpiffeCa | None" = None, begins_s: float = -60, ttl_s: float = 86400,
                 usage: x509.KeyUsage | None = None, path_length: int | None = None, is_ca: bool = True,
                 purposes: tuple[x509.ObjectIdentifier, ...] | None = None,
                 constraints: x509.NameConstraints | None = None, uri: bool = True) -> None:  # fmt: skip
        self.trust_domain = trust_domain
        self.key = ec.generate_private_key(ec.SECP256R1())
        self._issuer = issuer
        # every SPIRE names its authorities alike, so tests do too: nothing may be told apart by its subject
        self.name = x509.Name([x509.NameAttribute(NameOID.COUNTRY_NAME, "US"), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "SPIFFE")])
        signer = issuer or self
        builder = (
            _builder(self.name, signer.name, self.key.public_key(), begins_s, ttl_s)
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=path_length), critical=True)
            .add_extension(usage or key_usage("key_cert_sign", "crl_sign"), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key()), critical=False)
        )
        if uri:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")]), critical=False
            )
        if purposes is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        if constraints is not None:
            builder = builder.add_extension(constraints, critical=True)
        self.cert = builder.sign(signer.key, hashes.SHA256())

    @property
    def der(self) -> bytes:
        return self.cert.public_bytes(DER)

    @property
    def pem(self) -> bytes:
        return self.cert.public_bytes(serialization.Encoding.PEM)

    @property
    def above(self) -> tuple[x509.Certificate, ...]:
        """What a workload sends beside its leaf: the authorities up to the root, without it."""
        return () if self._issuer is None else (self.cert, *self._issuer.above)

    def intermediate(self, **options: object) -> "SpiffeCa":
        return SpiffeCa(self.trust_domain, issuer=self, **options)  # type: ignore[arg-type]

    def issue(
        self, spiffe_id: str, faults: Faults = Faults(), *, begins_s: float = -60, ttl_s: float = 3600,
        key: ec.EllipticCurvePrivateKey | None = None,
    ) -> Svid:  # fmt: skip
        """Issue an SVID that is valid from `begins_s` to `ttl_s` seconds from now, for a fresh key or this one."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(oid, value) for oid, value in faults.subject])
        builder = _builder(subject, self.name, key.public_key(), begins_s, ttl_s)
        for extension, critical in self._extensions(spiffe_id, faults, key.public_key()):
            builder = builder.add_extension(extension, critical=critical)
        leaf = builder.sign(self.key, hashes.SHA256())
        if faults.raw_uri is not None:
            leaf = self._resigned(leaf, (faults.uris or (spiffe_id,))[0].encode(), faults.raw_uri)
        return Svid(spiffe_id, (leaf, *self.above), key)

    def _extensions(self, spiffe_id: str, faults: Faults, key: ec.EllipticCurvePublicKey) -> Iterable[tuple[x509.ExtensionType, bool]]:
        if faults.san:
            uris = (spiffe_id,) if faults.uris is None else faults.uris
            names = [*(x509.UniformResourceIdentifier(uri) for uri in uris), *(x509.DNSName(name) for name in faults.dns)]
            yield x509.SubjectAlternativeName(names), faults.san_critical
        if faults.is_ca is not None:
            yield x509.BasicConstraints(ca=faults.is_ca, path_length=None), True
        if faults.usage is not None:
            yield faults.usage, faults.usage_critical
        if faults.purposes is not None:
            yield x509.ExtendedKeyUsage(faults.purposes), False
        yield x509.SubjectKeyIdentifier.from_public_key(key), False
        if faults.authority_key_id:
            yield x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), False
        yield from faults.extra

    def _resigned(self, leaf: x509.Certificate, old: bytes, new: bytes) -> x509.Certificate:
        """Put other bytes of the same length into a signed certificate, and sign it again."""
        assert len(old) == len(new)
        body = leaf.tbs_certificate_bytes
        assert body.count(old) == 1
        body = body.replace(old, new)
        algorithm = bytes.fromhex("300a06082a8648ce3d040302")  # ecdsa-with-SHA256
        signature = b"\x00" + self.key.sign(body, ec.ECDSA(hashes.SHA256()))
        return x509.load_der_x509_certificate(_tlv(0x30, body + algorithm + _tlv(0x03, signature)))


def _tlv(tag: int, content: bytes) -> bytes:
    size = len(content)
    length = bytes([size]) if size < 128 else b"\x82" + size.to_bytes(2)
    return bytes([tag]) + length + content


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, begins_s: float, ttl_s: float
) -> x509.CertificateBuilder:
    now = time.time()
    return (
        x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key).serial_number(x509.random_serial_number())
        .not_valid_before(dt.datetime.fromtimestamp(int(now + begins_s), dt.UTC))
        .not_valid_after(dt.datetime.fromtimestamp(int(now + ttl_s), dt.UTC))
    )  # fmt: skip


def x509_svid(svid: Svid, *authorities: SpiffeCa, hint: str = "") -> X509Svid:
    """As the Workload API hands it over, with its own trust domain's bundle."""
    return X509Svid(svid.spiffe_id, svid.chain_der, svid.key_der, tuple(ca.der for ca in authorities), hint)


def update(svid: Svid, *authorities: SpiffeCa, federated: Mapping[str, Iterable[SpiffeCa]] | None = None) -> Update:
    """One Workload API message: this SVID, its trust domain's authorities, and other domains' ones by name ("b.test")."""
    others = {f"spiffe://{domain}": tuple(ca.der for ca in cas) for domain, cas in (federated or {}).items()}
    return Update((x509_svid(svid, *authorities),), others)


def trusting(svid: Svid, *authorities: SpiffeCa, federated: Mapping[str, Iterable[SpiffeCa]] | None = None) -> Trust:
    """A Trust with this in force."""
    trust = Trust()
    trust.apply(update(svid, *authorities, federated=federated))
    return trust


def anybody(_identity: Identity) -> bool:
    """For `client_context`: whoever is trusted will do."""
    return True


def handshake(client: ssl.SSLContext, server: ssl.SSLContext) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Shake hands in memory; (client's side, server's side). Raises the ssl.SSLError of the side that said no first."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(to_client, to_server), server.wrap_bio(to_server, to_client, server_side=True)]
    waiting = list(ends)
    for _ in range(8):
        for end in tuple(waiting):
            try:
                end.do_handshake()
                waiting.remove(end)
            except ssl.SSLWantReadError:
                pass
    assert not waiting, "the handshake did not end"
    return ends[0], ends[1]


def presenting(svid: Svid) -> ssl.SSLContext:
    """A client that presents this SVID as it is, good or bad, and trusts any broker: what an attacker would run."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return _with(context, svid)


def posing(svid: Svid) -> ssl.SSLContext:
    """A broker that shows this SVID as it is, good or bad, and asks nobody for theirs."""
    return _with(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), svid)


def _with(context: ssl.SSLContext, svid: Svid) -> ssl.SSLContext:
    with tempfile.NamedTemporaryFile() as file:
        file.write(svid.pem)
        file.flush()
        context.load_cert_chain(file.name)
    return context


class SpiffeAuthority:
    """A SpiffeCa in the place of `broker dev`'s own authority, so that what its issuer hands out and what a test forges have one CA."""

    def __init__(self, ca: SpiffeCa) -> None:
        self.cas = [ca]
        self.trust_domain = ca.trust_domain

    @property
    def bundle(self) -> tuple[bytes, ...]:
        return tuple(ca.der for ca in self.cas)

    def issue(self, spiffe_id: str, now: float) -> Issued:
        svid = self.cas[-1].issue(spiffe_id)
        return Issued(spiffe_id, svid.chain_der, svid.key_der, math.inf, now + 3600)

    def advance(self, now: float) -> bool:
        return False

    def due_s(self, now: float) -> float:
        return math.inf


def write_pem(directory: Path, svid: Svid, *authorities: SpiffeCa) -> tuple[Path, Path]:
    """For tools that want files (curl, openssl): key and chain in one, the bundle in the other."""
    own, bundle = directory / "svid.pem", directory / "bundle.pem"
    own.touch(mode=0o600)
    own.write_bytes(svid.pem)
    bundle.write_bytes(b"".join(ca.pem for ca in authorities))
    return own, bundle
