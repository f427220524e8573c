"""The webhook's own authority: one CA, and short-lived serving certificates below it. Its key signs nothing else. Pure."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_LIFE: Final = dt.timedelta(days=90)
LEAF_LIFE: Final = dt.timedelta(days=7)
BACKDATED: Final = dt.timedelta(minutes=10)  # for clocks that are behind ours


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, PEM."""

    certificate: bytes
    key: bytes = field(repr=False)

    @property
    def begins(self) -> dt.datetime:
        return x509.load_pem_x509_certificate(self.certificate).not_valid_before_utc

    @property
    def ends(self) -> dt.datetime:
        return x509.load_pem_x509_certificate(self.certificate).not_valid_after_utc

    def names(self) -> tuple[str, ...]:
        """Whom it is for: DNS names and addresses."""
        extensions = x509.load_pem_x509_certificate(self.certificate).extensions
        given = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return (*given.get_values_for_type(x509.DNSName), *map(str, given.get_values_for_type(x509.IPAddress)))

    def check(self) -> None:
        """Raises ValueError when it is no certificate with its own elliptic-curve key."""
        try:
            certificate, key = x509.load_pem_x509_certificate(self.certificate), serialization.load_pem_private_key(self.key, password=None)
        except (TypeError, ValueError, UnsupportedAlgorithm) as wrong:
            raise ValueError("it cannot be read") from wrong
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise ValueError("the key is not that of the certificate")

    def signed_by(self, authority: bytes) -> bool:
        """Whether this certificate was issued by that one."""
        try:
            x509.load_pem_x509_certificate(self.certificate).verify_directly_issued_by(x509.load_pem_x509_certificate(authority))
        except Exception:  # noqa: BLE001  ValueError, TypeError or InvalidSignature: each is a no
            return False
        return True


def new_authority(now: dt.datetime) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    # The time makes its name another one than its predecessor's: with two CAs of one name a client may try the wrong key
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"aiaccess webhook {now:%Y-%m-%dT%H:%M:%S.%fZ}")])
    builder = (
        _builder(name, name, key, now, CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return _pair(builder.sign(key, hashes.SHA256()), key)


def new_leaf(authority: Pair, names: Sequence[str], now: dt.datetime) -> Pair:
    """A serving certificate for these DNS names and addresses. It never outlives its CA."""
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    issuer_key = serialization.load_pem_private_key(authority.key, password=None)
    if not isinstance(issuer_key, ec.EllipticCurvePrivateKey):
        raise TypeError("the authority's key is no elliptic-curve key")
    key = ec.generate_private_key(ec.SECP256R1())
    life = min(LEAF_LIFE, issuer.not_valid_after_utc - now)
    builder = (
        _builder(x509.Name([]), issuer.subject, key, now, life)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    return _pair(builder.sign(issuer_key, hashes.SHA256()), key)


def _general(name: str) -> x509.GeneralName:
    try:
        address: IPv4Address | IPv6Address = ip_address(name)
    except ValueError:
        return x509.DNSName(name)
    return x509.IPAddress(address)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: dt.datetime, life: dt.timedelta
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    return builder.serial_number(x509.random_serial_number()).not_valid_before(now - BACKDATED).not_valid_after(now + life)


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
    return Pair(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )
