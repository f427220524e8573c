"""Who somebody is: SPIFFE IDs and the leaves of X509-SVIDs, in; Identity, or the rule that was broken, out. Pure.

Nothing here says that a certificate is *trusted*: the caller must verify its chain against the bundle of its own trust domain
(trust.py). Names are compared as bytes: what the SPIFFE ID specification lets parsers fold (upper case in the scheme and the
trust domain) is refused, so that one identity has one spelling.
"""

import re
from dataclasses import dataclass
from typing import Final, TypeVar

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

SCHEME: Final = "spiffe://"
ID_BYTES: Final = 2048
TRUST_DOMAIN_BYTES: Final = 255

# ASCII only, so that characters are bytes; always fullmatch: `$` would let a final newline through, and into headers and logs
_TRUST_DOMAIN: Final = re.compile(r"[a-z0-9._-]+")
_SEGMENT: Final = re.compile(r"[A-Za-z0-9._-]+")
_SERVICE_ACCOUNT: Final = re.compile(r"/ns/([^/]+)/sa/([^/]+)")


class InvalidSpiffeId(ValueError):
    """The text is no SPIFFE ID. The message names the rule that it breaks, never the text."""


class InvalidSvid(ValueError):
    """The certificate is no leaf of an X509-SVID. The message names the rule that it breaks, never what stands in it."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who somebody is.

    path: with its leading slash; "" for a trust domain alone.
    namespace, service_account: from a path that is exactly /ns/NAMESPACE/sa/NAME, else "".
    """

    spiffe_id: str
    trust_domain: str
    path: str
    namespace: str
    service_account: str


def parse_spiffe_id(text: str) -> Identity:
    """Read a SPIFFE ID, with a path or of a trust domain alone.

    Raises:
        InvalidSpiffeId: the text breaks a rule of the specification.

    Source: SPIFFE-ID §2.1 to §2.4.
    """
    if not text.startswith(SCHEME):
        raise InvalidSpiffeId("a SPIFFE ID starts with spiffe:// in lower case")
    if len(text) > ID_BYTES:
        raise InvalidSpiffeId(f"a SPIFFE ID has at most {ID_BYTES} bytes")
    trust_domain, slash, rest = text[len(SCHEME) :].partition("/")
    _check_trust_domain(trust_domain)
    if slash:
        _check_path(rest)
    match = _SERVICE_ACCOUNT.fullmatch(slash + rest)
    namespace, service_account = match.groups() if match else ("", "")
    return Identity(text, trust_domain, slash + rest, namespace, service_account)


def _check_trust_domain(name: str) -> None:
    if not name:
        raise InvalidSpiffeId("the trust domain is missing")
    if not _TRUST_DOMAIN.fullmatch(name):
        raise InvalidSpiffeId("a trust domain consists of lower-case letters, digits, dots, dashes and underscores")
    if len(name) > TRUST_DOMAIN_BYTES:
        raise InvalidSpiffeId(f"a trust domain has at most {TRUST_DOMAIN_BYTES} bytes")


def _check_path(rest: str) -> None:
    segments = rest.split("/")
    if not segments[-1]:
        raise InvalidSpiffeId("a path does not end with a slash")
    for segment in segments:
        if not segment:
            raise InvalidSpiffeId("a path has no empty segments")
        if segment in {".", ".."}:
            raise InvalidSpiffeId("a path has no relative segments (. or ..)")
        if not _SEGMENT.fullmatch(segment):
            raise InvalidSpiffeId("a path consists of letters, digits, dots, dashes, underscores and slashes")


def leaf_identity(leaf: x509.Certificate) -> Identity:
    """Name the workload that a leaf certificate stands for, if the leaf keeps the rules that path validation does not check.

    Raises:
        InvalidSvid: the leaf breaks one of them.

    Source: X509-SVID §2, §3.1, §4.1, §4.3, §4.4, §5.2.
    """
    try:
        extensions = leaf.extensions
        identity = _uri_identity(_value(extensions, x509.SubjectAlternativeName))
        constraints = _value(extensions, x509.BasicConstraints)
        usage = extensions.get_extension_for_class(x509.KeyUsage)
        purposes = _value(extensions, x509.ExtendedKeyUsage)
    except InvalidSpiffeId as broken:
        raise InvalidSvid(str(broken)) from broken
    except x509.ExtensionNotFound:
        raise InvalidSvid("the certificate has no key usage") from None
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        raise InvalidSvid("the certificate's extensions are not well-formed") from None  # no chain: the cause quotes its content
    if constraints is not None and constraints.ca:
        raise InvalidSvid("a signing certificate (CA:TRUE) authenticates nobody")
    _check_key_usage(usage)
    if purposes is not None and not {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH} <= set(purposes):
        raise InvalidSvid("the extended key usage lacks serverAuth or clientAuth")
    return identity


_Extension = TypeVar("_Extension", bound=x509.ExtensionType)


def _value(extensions: x509.Extensions, kind: type[_Extension]) -> _Extension | None:
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _uri_identity(names: x509.SubjectAlternativeName | None) -> Identity:
    uris = [] if names is None else names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise InvalidSpiffeId(f"an X509-SVID has exactly one URI name, this one has {len(uris)}")
    identity = parse_spiffe_id(uris[0])
    if not identity.path:
        raise InvalidSpiffeId("the SPIFFE ID of a workload has a path")
    return identity


def _check_key_usage(usage: x509.Extension[x509.KeyUsage]) -> None:
    if not usage.critical:
        raise InvalidSvid("the key usage is not critical")
    if not usage.value.digital_signature:
        raise InvalidSvid("the key usage lacks digitalSignature")
    if usage.value.key_cert_sign or usage.value.crl_sign:
        raise InvalidSvid("the key usage of a workload has no keyCertSign and no cRLSign")
