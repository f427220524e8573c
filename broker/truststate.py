"""One moment of trust: our X509-SVID and the bundle of every trust domain that we believe; and what follows from it for a chain.

A chain is held against the bundle *of its own trust domain* and no other (SPIFFE Federation §4.2: bundles are never merged).
No clock, no files: the moment to judge at is an argument. Every doubt is a no.
"""

import base64
import binascii
import datetime as dt
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from broker.errors import Unidentified
from broker.identity import Identity, InvalidSpiffeId, InvalidSvid, leaf_identity, parse_spiffe_id
from broker.svids import BadUpdate, Update, X509Svid

log = logging.getLogger(__name__)

CHAIN_DEPTH: Final = 5  # intermediates between a workload and its root: SPIRE servers nested deeper than this are unheard of

Bundle = tuple[x509.Certificate, ...]


@dataclass(frozen=True, slots=True)
class Peer:
    """Who stands at the other end of a connection, as verified.

    not_before, not_after: epoch seconds between which every certificate of the verified path is valid, both included.
    chain: DER, leaf first, as the peer sent it.
    """

    identity: Identity
    not_before: int
    not_after: int
    chain: tuple[bytes, ...]


class TrustState:
    """One moment of trust: our SVID, and the bundle of every trust domain that we believe. Immutable.

    Our own chain is not held against our own bundle: an update whose bundle has dropped our issuer must come into force, or a
    withdrawn authority would live on with us. (Peers refuse us then, until a new SVID comes.)

    Raises:
        BadUpdate: the SVID is not one, or its key is another's.
    """

    __slots__ = ("_stores", "bundles", "identity", "not_after", "not_before", "svid")

    def __init__(self, svid: X509Svid, bundles: Mapping[str, Bundle]) -> None:
        try:
            chain = _load(svid.chain)
            self.identity: Final = leaf_identity(chain[0])
        except InvalidSvid as broken:
            raise BadUpdate(f"our SVID is not one: {broken}") from broken
        _check_own(svid, self.identity, chain[0])
        self.not_before, self.not_after = _validity(chain)
        self.svid: Final = svid
        self.bundles: Final = MappingProxyType(dict(bundles))
        self._stores: Final = {domain: Store(list(anchors)) for domain, anchors in bundles.items() if anchors}

    def verify(self, chain_der: Sequence[bytes], now: float) -> Peer:
        """Say whose chain this is.

        Raises:
            Unidentified: it is no X509-SVID, or not one that the bundle of its own trust domain vouches for, now.

        Source: X509-SVID §5; Workload API §4.6.
        """
        try:
            chain = _load(chain_der)
            identity = leaf_identity(chain[0])
        except InvalidSvid as broken:
            raise Unidentified(f"the certificate presented is no X509-SVID: {broken}") from broken
        store = self._stores.get(identity.trust_domain)
        if store is None:
            raise Unidentified(f"no trust bundle is held for the trust domain {identity.trust_domain}: its operator and ours can federate")
        not_before, not_after = _validity(_path(store, chain, now))
        if not not_before <= now <= not_after:
            raise Unidentified("the X509-SVID presented is not valid now: connect again with a renewed one")
        return Peer(identity, not_before, not_after, tuple(chain_der))


def _path(store: Store, chain: Sequence[x509.Certificate], now: float) -> list[x509.Certificate]:
    """The verified path, leaf to anchor: webpki rules of `cryptography`; SPIFFE's own are leaf_identity's.

    The client verifier serves both directions: the server one wants a DNS name, and the leaf of an SVID bears both purposes.
    """
    moment = dt.datetime.fromtimestamp(now, dt.UTC).replace(tzinfo=None)  # the API wants naive UTC
    verifier = PolicyBuilder().store(store).time(moment).max_chain_depth(CHAIN_DEPTH).build_client_verifier()
    try:
        return verifier.verify(chain[0], list(chain[1:])).chain
    except (VerificationError, ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as failed:
        raise Unidentified(
            "the X509-SVID presented is not vouched for by its trust domain's bundle, or not valid now: connect again with a renewed one"
        ) from failed


def _validity(chain: Sequence[x509.Certificate]) -> tuple[int, int]:
    begins = max(int(cert.not_valid_before_utc.timestamp()) for cert in chain)
    ends = min(int(cert.not_valid_after_utc.timestamp()) for cert in chain)
    return begins, ends


def _load(chain_der: Sequence[bytes]) -> list[x509.Certificate]:
    try:
        chain = [x509.load_der_x509_certificate(der) for der in chain_der]
    except (ValueError, x509.InvalidVersion):
        raise InvalidSvid("a certificate cannot be read") from None
    if not chain:
        raise InvalidSvid("there is none")
    return chain


def _check_own(svid: X509Svid, identity: Identity, leaf: x509.Certificate) -> None:
    if identity.spiffe_id != svid.spiffe_id:
        raise BadUpdate("our SVID's certificate bears another SPIFFE ID than was announced")
    try:
        key = serialization.load_der_private_key(svid.key, None)
        fits = key.public_key() == leaf.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise BadUpdate("the private key of our SVID cannot be read") from None
    if not fits:
        raise BadUpdate("the private key does not belong to our SVID")


def bundles_of(update: Update, static: Mapping[str, Bundle]) -> dict[str, Bundle]:
    """Every trust domain's own bundle. What the Workload API says of a trust domain wins over the operator's file.

    A federated bundle that cannot be read costs its own trust domain, not our rotation: it is left empty, which trusts nobody.

    Raises:
        BadUpdate: the bundle of our own trust domain cannot be read.
    """
    bundles = dict(static)
    for name, anchors in update.federated.items():
        try:
            domain = parse_spiffe_id(name).trust_domain
            bundles[domain] = ()
            bundles[domain] = tuple(_load(anchors)) if anchors else ()
        except (InvalidSpiffeId, InvalidSvid):
            log.warning("federated_bundle_unreadable", extra={"trust_domain": ascii(name[:300])})
    for svid in reversed(update.svids):  # the first is the default identity: it has the last word
        try:
            bundles[parse_spiffe_id(svid.spiffe_id).trust_domain] = tuple(_load(svid.bundle))
        except (InvalidSpiffeId, InvalidSvid):
            raise BadUpdate("the trust bundle of our own trust domain cannot be read") from None
    return bundles


class _Key(msgspec.Struct):
    use: str = ""
    x5c: tuple[str, ...] = ()


class _KeySet(msgspec.Struct):
    keys: tuple[_Key, ...]


def read_bundle(data: bytes) -> Bundle:
    """Read a bundle that an operator names, as certificates_in does.

    Raises:
        ValueError: it cannot be read, or holds no certificate.
    """
    found = certificates_in(data)
    if not found:
        raise ValueError("the bundle's certificates: there is none")
    return found


def certificates_in(data: bytes) -> Bundle:
    """The CA certificates of a bundle: PEM, or the SPIFFE form (a JWK set, of which `use: x509-svid` counts). There may be none.

    Raises:
        ValueError: it is neither.

    Source: SPIFFE Trust Domain and Bundle §4; X509-SVID §6.
    """
    if not data.lstrip().startswith(b"{"):
        return tuple(x509.load_pem_x509_certificates(data))
    try:
        keys = msgspec.json.decode(data, type=_KeySet).keys
        found = [base64.b64decode(cert, validate=True) for key in keys if key.use == "x509-svid" for cert in key.x5c[:1]]
    except (msgspec.DecodeError, binascii.Error, RecursionError) as broken:
        raise ValueError("the bundle is neither PEM nor a SPIFFE bundle") from broken
    try:
        return tuple(_load(found)) if found else ()
    except InvalidSvid as broken:
        raise ValueError(f"the bundle's certificates: {broken}") from broken
