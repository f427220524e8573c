"""A SPIFFE signing authority in memory, for `broker dev`: issues X509-SVIDs as SPIRE does, and renews itself. Pure: time is an argument.

Rotation without a gap. A new CA is first *prepared*: it stands in the bundle and signs nothing, until everybody has had time to
learn it. Then it signs, while the old one stays in the bundle until the last SVID that it signed has expired.

It protects a laptop's experiments: keys live in this process alone and are gone with it.
"""

import datetime as dt
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from broker.identity import parse_spiffe_id

BACKDATE_S: Final = 10  # clocks of one machine's processes agree, but notBefore has whole seconds
CA_TTL_S: Final = 86400.0
PREPARE_S: Final = 5.0  # at most: how long a CA stands in the bundle before it signs


@dataclass(frozen=True, slots=True, repr=False)
class Issued:
    """One SVID. DER; `key` is PKCS#8. `renew_s`: epoch seconds of its half-life."""

    spiffe_id: str
    chain: tuple[bytes, ...]
    key: bytes
    renew_s: float
    not_after: float


@dataclass(slots=True, repr=False, eq=False)
class _Ca:
    key: ec.EllipticCurvePrivateKey
    cert: x509.Certificate
    signs_from: float
    not_after: float
    needed_until: float = 0.0  # the last notAfter that it signed

    @property
    def der(self) -> bytes:
        return self.cert.public_bytes(Encoding.DER)


class Authority:
    """The signing authority of one trust domain.

    rotate_ca_every_s: how long a CA signs; 0 = for half of CA_TTL_S.

    Raises:
        InvalidSpiffeId: that is no trust domain.
    """

    def __init__(self, trust_domain: str, now: float, *, svid_ttl_s: float, rotate_ca_every_s: float = 0.0) -> None:
        self.trust_domain = parse_spiffe_id(f"spiffe://{trust_domain}").trust_domain
        self._svid_ttl_s = svid_ttl_s
        self._rotate_every_s = rotate_ca_every_s or CA_TTL_S / 2
        self._prepare_s = min(PREPARE_S, svid_ttl_s / 4)
        self._cas = [self._new_ca(now, signs_from=now)]  # by signs_from; the last may be in preparation

    @property
    def bundle(self) -> tuple[bytes, ...]:
        """Every CA that a valid SVID may stand on, DER; the newest last."""
        return tuple(ca.der for ca in self._cas)

    def rotate(self, now: float) -> None:
        """Begin to use a new CA. One that is in preparation already is not overtaken."""
        if self._cas[-1].signs_from <= now:
            self._cas.append(self._new_ca(now, signs_from=now + self._prepare_s))

    def advance(self, now: float) -> bool:
        """Do what is due: rotate, and drop CAs that nobody needs any more. True when the bundle has changed."""
        before = self._cas.copy()
        if now >= self._cas[-1].signs_from + self._rotate_every_s:
            self.rotate(now)
        signing = self._signing(now)
        self._cas = [ca for ca in self._cas if ca.signs_from >= signing.signs_from or ca.needed_until >= now]
        return self._cas != before

    def due_s(self, now: float) -> float:
        """Epoch seconds of the next moment at which `advance` has something to do."""
        signing = self._signing(now)
        old = [ca.needed_until for ca in self._cas if ca.signs_from < signing.signs_from]
        coming = [ca.signs_from for ca in self._cas if ca.signs_from > now]
        return min([self._cas[-1].signs_from + self._rotate_every_s, *old, *coming])

    def issue(self, spiffe_id: str, now: float) -> Issued:
        """Issue an SVID.

        Raises:
            InvalidSpiffeId: that is no SPIFFE ID.
            ValueError: it is no workload's, or of another trust domain.

        Source: X509-SVID §2 to §4.
        """
        identity = parse_spiffe_id(spiffe_id)
        if identity.trust_domain != self.trust_domain or not identity.path:
            raise ValueError(f"{spiffe_id} is no workload of spiffe://{self.trust_domain}")
        ca, key = self._signing(now), ec.generate_private_key(ec.SECP256R1())
        not_after = min(now + self._svid_ttl_s, ca.not_after)
        subject = x509.Name([x509.NameAttribute(NameOID.COUNTRY_NAME, "US"), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "broker dev")])
        leaf = (
            _builder(subject, ca.cert.subject, key, ca.key, (now - BACKDATE_S, not_after))
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(spiffe_id)]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .sign(ca.key, hashes.SHA256())
        )
        ca.needed_until = max(ca.needed_until, not_after)
        key_der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        return Issued(spiffe_id, (leaf.public_bytes(Encoding.DER),), key_der, (now + not_after) / 2, not_after)

    def _signing(self, now: float) -> _Ca:
        return next((ca for ca in reversed(self._cas) if ca.signs_from <= now), self._cas[0])  # a clock put back finds the oldest

    def _new_ca(self, now: float, *, signs_from: float) -> _Ca:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COUNTRY_NAME, "US"), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "broker dev CA")])
        not_after = now + CA_TTL_S
        cert = (
            _builder(name, name, key, key, (now - BACKDATE_S, not_after))
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{self.trust_domain}")]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        return _Ca(key, cert, signs_from, not_after)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    validity: tuple[float, float],
) -> x509.CertificateBuilder:
    not_before, not_after = (dt.datetime.fromtimestamp(int(moment), dt.UTC) for moment in validity)
    return (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number(), not_before, not_after)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
