"""SPIFFE IDs: what is accepted is exactly what the specification allows in its one spelling, and three readers read the same."""

from urllib.parse import urlsplit

from spiffe import SpiffeId

from broker.identity import Identity, InvalidSpiffeId, parse_spiffe_id

WORDS = (
    "spiffe://",
    "example.org",
    "/ns/",
    "/sa/",
    "/..",
    "/.",
    "//",
    "%2F",
    "?q",
    "#f",
    "@",
    ":8443",
    "SPIFFE://",
    "Example",
    "\n",
    "\0",
    "é",
    "a" * 255,
)


def check(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    try:
        identity = parse_spiffe_id(text)
    except InvalidSpiffeId:
        identity = None
    assert (identity is not None) is is_allowed(text), "accepted what the specification does not allow, or refused what it does"
    if identity is None:
        return
    assert text == identity.spiffe_id == f"spiffe://{identity.trust_domain}{identity.path}"
    assert parse_spiffe_id(identity.spiffe_id) == identity
    check_service_account(identity)
    check_other_readers(identity)


def is_allowed(text: str) -> bool:
    """SPIFFE-ID §2.1 to §2.4 letter by letter; what parsers may fold to lower case counts as not allowed."""
    if text[:9] != "spiffe://" or len(text.encode("utf-8", "surrogateescape")) > 2048:
        return False
    lower, digits = "abcdefghijklmnopqrstuvwxyz", "0123456789"
    end = next((at for at in range(9, len(text)) if text[at] == "/"), len(text))
    name = text[9:end]
    if not 1 <= len(name) <= 255 or any(letter not in lower + digits + ".-_" for letter in name):
        return False
    if end == len(text):
        return True
    segments = text[end + 1 :].split("/")
    letters = lower + lower.upper() + digits + ".-_"
    return all(segment not in ("", ".", "..") and all(letter in letters for letter in segment) for segment in segments)


def check_service_account(identity: Identity) -> None:
    """Only the whole shape /ns/NAMESPACE/sa/NAME gives a namespace: it decides whose models a bare name means."""
    parts = identity.path.split("/")
    shaped = len(parts) == 5 and parts[1] == "ns" and parts[3] == "sa"
    assert (identity.namespace, identity.service_account) == ((parts[2], parts[4]) if shaped else ("", ""))


def check_other_readers(identity: Identity) -> None:
    url = urlsplit(identity.spiffe_id)
    assert (url.scheme, url.netloc, url.path, url.query, url.fragment) == ("spiffe", identity.trust_domain, identity.path, "", "")
    other = SpiffeId(identity.spiffe_id)
    assert (str(other), other.trust_domain.name, other.path) == (identity.spiffe_id, identity.trust_domain, identity.path)
