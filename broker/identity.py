"""SPIFFE IDs: text in, Identity or InvalidSpiffeId out. Pure."""

from dataclasses import dataclass


class InvalidSpiffeId(ValueError):
    """The text is no SPIFFE ID. The message names the rule that it breaks, never the text."""


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
