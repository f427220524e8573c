"""What the operator said on the command line and policy needs to know."""

from dataclasses import dataclass, field

from broker.addresses import HostList, Off
from broker.providers import PROVIDERS


@dataclass(frozen=True, slots=True)
class Settings:
    """The operator's part of every decision.

    namespace: the broker's own; a Deny that stands in it covers every namespace's models.
    trust_domain: the broker's own; only its identities have a namespace whose models go by their bare names. "" = none has.
    shared_namespaces: where a bare name is looked for next, in order.
    plain_http: hosts that may be called without TLS, besides Services of the object's own namespace.
    allowed: hosts at loopback or private addresses that may be called.
    off: what no provider may lead to, whoever lists it.
    seals: whether the broker has keys that seal ids of kept state; None = nobody here knows.
    kinds: the provider schemas that this broker can call; any other makes a provider NotSupported.
    """

    namespace: str = "inference-broker"
    trust_domain: str = ""
    shared_namespaces: tuple[str, ...] = ()
    allow_inline: bool = False
    plain_http: HostList = field(default_factory=HostList)
    allowed: HostList = field(default_factory=HostList)
    off: Off = field(default_factory=Off)
    seals: bool | None = None
    kinds: frozenset[str] = frozenset(PROVIDERS)
