"""What there is to know about one kind of provider."""

from collections.abc import Mapping
from dataclasses import dataclass

from broker.chat import Header, Options
from broker.grant import Endpoint


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of provider.

    endpoint: the public one; its path is also the default path of endpoints that name none.
    paths: for each dialect that it speaks, the path below the endpoint's own.
    auth: the header that carries the credential, and what stands before the value.
    request_headers: those of the caller's headers that may go on.
    headers: sent where neither the caller nor the object names them.
    options: what the public endpoint understands.
    compatible: what servers at other endpoints of this kind are sure to understand.
    stated: those of its dialects that a server at another endpoint is asked for only where its object says that it speaks them.
    bills_cache_writes: at a price of their own, not as any other input.
    vocabularies: which one the public endpoint's models have, by how their names begin; the first that fits. A name that only ends
        where its family does ("gpt-4") begins as its dated ones do ("gpt-4-").
    """

    endpoint: Endpoint
    paths: Mapping[str, str]
    auth: tuple[bytes, bytes]
    options: Options
    compatible: Options
    request_headers: frozenset[bytes] = frozenset()
    headers: tuple[Header, ...] = ()
    vocabularies: tuple[tuple[str, str], ...] = ()
    bills_cache_writes: bool = False
    stated: frozenset[str] = frozenset()

    def options_at(self, host: str) -> Options:
        """What the server at this host understands. The vendor's regional hosts are below its public one."""
        return self.options if self._is_vendors(host) else self.compatible

    def spoken_at(self, host: str, *, responses: bool) -> frozenset[str]:
        """The dialects of the server at this host. `responses`: its object says that it speaks those besides."""
        spoken = frozenset(self.paths)
        return spoken if responses or self._is_vendors(host) else spoken - self.stated

    def vocabulary(self, host: str, model: str) -> str | None:
        """The vocabulary of a model there; None for one that nobody knows. Anybody else's server may call its models anything."""
        if not self._is_vendors(host):
            return None
        return next((name for begins, name in self.vocabularies if f"{model}-".startswith(begins)), None)

    def _is_vendors(self, host: str) -> bool:
        public = self.endpoint.host
        return host == public or host.endswith("." + public)
