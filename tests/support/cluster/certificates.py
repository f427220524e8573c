"""The authority of a throw-away control plane: certificates for its servers and for any user and groups."""

import datetime as dt
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIVES = dt.timedelta(days=2)
PEM = serialization.Encoding.PEM


@dataclass(frozen=True)
class Pair:
    """Files of a certificate and its key."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Authority:
    """Signs what a cluster's servers and users show each other. Its own certificate is the file `ca`."""

    folder: Path
    key: ec.EllipticCurvePrivateKey
    name: x509.Name

    @property
    def ca(self) -> Path:
        return self.folder / "ca.crt"

    @classmethod
    def new(cls, folder: Path) -> Self:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a cluster of tests")])
        made = cls(folder, ec.generate_private_key(ec.SECP256R1()), name)
        builder = made._builder(name, made.key.public_key()).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        made.ca.write_bytes(builder.sign(made.key, hashes.SHA256()).public_bytes(PEM))
        return made

    def server(self, name: str, hosts: Sequence[str]) -> Pair:
        names = [x509.IPAddress(ipaddress.ip_address(host)) if host[0].isdigit() else x509.DNSName(host) for host in hosts]
        return self._issue(name, name, (), x509.SubjectAlternativeName(names))

    def client(self, file: str, user: str, groups: Sequence[str] = ()) -> Pair:
        """The API server takes the common name for the user and the organizations for the groups."""
        return self._issue(file, user, groups, None)

    def _issue(self, file: str, common_name: str, groups: Sequence[str], hosts: x509.SubjectAlternativeName | None) -> Pair:
        pair = Pair(self.folder / f"{file}.crt", self.folder / f"{file}.key")
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name(
            [
                *(x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups),
                x509.NameAttribute(NameOID.COMMON_NAME, common_name),
            ]
        )
        purpose = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = self._builder(subject, key.public_key()).add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        if hosts:
            builder = builder.add_extension(hosts, critical=False)
        pair.certificate.write_bytes(builder.sign(self.key, hashes.SHA256()).public_bytes(PEM))
        pair.key.write_bytes(traditional(key))
        return pair

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(minutes=5))
            .not_valid_after(now + LIVES)
        )


def traditional(key: ec.EllipticCurvePrivateKey) -> bytes:
    """As `BEGIN EC PRIVATE KEY`: the API server refuses PKCS#8 for the keys of service accounts."""
    return key.private_bytes(PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
