"""Which addresses a provider's name may lead to. Pure: the caller resolves, this judges, and the judged address is the one used.

A provider object is written by a tenant, so its endpoint is a way to make the broker call things inside the cluster (SSRF).
LiteLLM's issues 37053 and 24952 show what happens without. What is promised: SECURITY.md, "The way to the provider".
"""

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from broker.names import PORT_MAX

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
USUAL_DOMAIN: Final = "cluster.local"
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class HostList:
    """The operator's list of upstreams at loopback or private addresses: HOST[:PORT] and CIDR entries.

    hosts: (host, port); port 0 = any.
    """

    hosts: frozenset[tuple[str, int]] = frozenset()
    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()

    def names(self, host: str, port: int) -> bool:
        return (host, port) in self.hosts or (host, 0) in self.hosts

    def holds(self, address: IpAddress) -> bool:
        return any(address.version == network.version and address in network for network in self.networks)


def parse_hosts(entries: Iterable[str]) -> HostList:
    """Read HOST[:PORT] and CIDR entries; an IPv6 host stands in brackets.

    Raises:
        ValueError: an entry is none of them; the message names it.
    """
    hosts: set[tuple[str, int]] = set()
    networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
    for entry in entries:
        if "/" in entry:
            networks.append(ipaddress.ip_network(entry))
            continue
        host, colon, port = entry.rpartition(":") if not entry.endswith("]") else (entry, "", "")
        if not colon:
            host, port = entry, "0"
        host = host.strip("[]").lower().rstrip(".")
        if not host or " " in host or not port.isascii() or not port.isdigit() or int(port) > PORT_MAX:
            raise ValueError(f"{entry!r} is neither HOST[:PORT] nor a CIDR such as 10.0.0.0/8")
        hosts.add((host, int(port)))
    return HostList(frozenset(hosts), tuple(networks))


@dataclass(frozen=True, slots=True)
class Off:
    """What no provider object may lead to, whoever lists it: the API server, and the broker's own namespace.

    below: endings of host names, each with its leading dot.
    domains: what the names of this cluster's Services end in.
    """

    below: tuple[str, ...] = ()
    addresses: frozenset[IpAddress] = frozenset()
    domains: tuple[str, ...] = (USUAL_DOMAIN,)


def off_limits(namespace: str, environment: Mapping[str, str], resolver: str = "") -> Off:
    """In a cluster, what the broker must never be talked into calling. KUBERNETES_SERVICE_HOST is in every pod.

    resolver: what /etc/resolv.conf says; a pod's searches in NAMESPACE.svc.DOMAIN.
    """
    server = environment.get("KUBERNETES_SERVICE_HOST", "")
    known = frozenset((ipaddress.ip_address(server),)) if _is_address(server) else frozenset[IpAddress]()
    own = f"{namespace}.svc."
    searched = [word.rstrip(".").lower() for line in resolver.splitlines() if line.startswith("search") for word in line.split()[1:]]
    domains = tuple(dict.fromkeys((USUAL_DOMAIN, *(word.removeprefix(own) for word in searched if word.startswith(own)))))
    return Off((f".{namespace}.svc", *(f".{namespace}.svc.{domain}" for domain in domains)), known, domains)


def refusal(
    host: str, port: int, address: str, rules: tuple[HostList, Off], *, own_service: bool, canonical: str | None = None
) -> str | None:
    """Why this address must not be used for this host, or None when it may.

    rules: what the operator allows besides public addresses, and what is off limits for all that.
    own_service: the endpoint is a Service of its object's own namespace, so a private address is what one expects;
        loopback and link-local stay refused, since no Service lives there.
    canonical: the name that has the address, at the end of all aliases; None = nobody knows. Who may write a Service may make it an
        alias of any name (ExternalName): that is no Service of the namespace.
    """
    allowed, off = rules
    ip = _innermost(ipaddress.ip_address(address.partition("%")[0]))
    if ip in off.addresses or host.endswith(off.below) or (canonical or "").endswith(off.below):
        return f"{host} is part of the cluster's control plane or of the broker itself, which no provider may lead to"
    if allowed.names(host, port) or allowed.holds(ip):
        return None
    if own_service and not _is_itself(host, canonical, off.domains):
        return (
            f"{host} is an alias (ExternalName): name what it leads to as the endpoint; an operator who means it lists it in --allow-hosts"
        )
    if ip.is_global and not ip.is_multicast:
        return None
    if own_service and ip.is_private and not (ip.is_loopback or ip.is_link_local or ip.is_unspecified or ip.is_reserved):
        return None
    kind = "loopback" if ip.is_loopback else "link-local" if ip.is_link_local else "private or special"
    return f"{host} leads to a {kind} address; an operator who means it lists it in --allow-hosts"


def _is_itself(host: str, canonical: str | None, domains: Iterable[str]) -> bool:
    """Whether a Service's name leads to the Service, and not by an alias elsewhere."""
    whole = {f"{host}.{domain}" for domain in domains} if host.endswith(".svc") else set[str]()
    return canonical is not None and canonical.lower().rstrip(".") in {host, *whole}


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _innermost(ip: IpAddress) -> IpAddress:
    """IPv4 hidden in IPv6 (mapped, 6to4, Teredo, NAT64) is judged as the IPv4 address that is really reached."""
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return ip.ipv4_mapped
        if ip.sixtofour is not None:
            return ip.sixtofour
        if ip.teredo is not None:
            return ip.teredo[1]
        if ip in _NAT64:
            return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip
