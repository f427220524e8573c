"""Where a key may go: the owner of a Secret says it in the annotation `aiaccess.dev/hosts`. Pure.

Asked when a snapshot is built, for the status, and again whenever a key is sent.

    aiaccess.dev/hosts: "api.openai.com, *.openai.azure.com, llm.internal:8443, http://ollama.team1.svc:11434"

`*.suffix` stands for one or more labels in front. The port is 443, or 80 behind `http://`. Without the annotation a key goes
to its schema's public host and nowhere else; with an empty one, nowhere.
"""

import ipaddress
import re
from functools import lru_cache
from typing import Final, Literal, NamedTuple

from broker.grant import Endpoint
from broker.providers import PROVIDERS

_LABEL: Final = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME: Final = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_PATH: Final = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:@-]+)*")
_URL: Final = re.compile(r"(https?)://(\[[0-9a-fA-F:.]+\]|[^/:?#@\[\]]+)(?::([0-9]{1,5}))?(/[^?#]*)?")
_ENTRIES: Final = 64
_NAME_CHARACTERS: Final = 253
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}")
_PORTS: Final = 65_535


class InvalidHost(ValueError):
    """The text names no host, or no endpoint. The message says what to write instead."""


class Entry(NamedTuple):
    """One entry of the annotation. `host` begins with a dot where it stands for everything below it."""

    scheme: Literal["https", "http"]
    host: str
    port: int

    def covers(self, endpoint: Endpoint) -> bool:
        if (endpoint.scheme, endpoint.port) != (self.scheme, self.port):
            return False
        return endpoint.host.endswith(self.host) if self.host.startswith(".") else endpoint.host == self.host


def allows(annotation: str | None, endpoint: Endpoint, kind: str) -> bool:
    """Whether a key may go there. An entry that cannot be read allows nothing.

    annotation: of the key's Secret; None = it has none.
    kind: the provider's schema.
    """
    if annotation is None:
        public = PROVIDERS[kind].endpoint if kind in PROVIDERS else None
        return public is not None and (public.scheme, public.host, public.port) == (endpoint.scheme, endpoint.host, endpoint.port)
    return any(entry.covers(endpoint) for entry in _read(annotation)[0])


def problems(annotation: str | None) -> tuple[str, ...]:
    """What is wrong in the annotation, one sentence for each entry that allows nothing because of it."""
    return () if annotation is None else _read(annotation)[1]


def parse_endpoint(text: str, kind: str) -> Endpoint:
    """Read a provider's endpoint. A missing path becomes the schema's usual one.

    Raises:
        InvalidHost: it is no URL that the broker would call, wherever that leads.
    """
    match = _URL.fullmatch(text)
    if match is None:
        raise InvalidHost("must be https://HOST[:PORT][/PATH], without user, query or fragment")
    scheme: Literal["https", "http"] = "https" if match[1] == "https" else "http"
    path = (match[4] or "").rstrip("/")
    if not _PATH.fullmatch(path) or {".", ".."} & set(path.split("/")):
        raise InvalidHost("has a path with empty, relative or escaped segments; write it plainly, such as /v1")
    usual = PROVIDERS[kind].endpoint.path if kind in PROVIDERS else ""
    return Endpoint(scheme, _host(match[2]), _port(match[3], scheme), path or usual)


@lru_cache(maxsize=1024)
def _read(annotation: str) -> tuple[tuple[Entry, ...], tuple[str, ...]]:
    entries: list[Entry] = []
    wrong: list[str] = []
    texts = [text.strip() for text in annotation.split(",")] if annotation.strip() else []
    for text in texts[:_ENTRIES]:
        try:
            entries.append(_entry(text))
        except InvalidHost as fault:
            wrong.append(f"{text[:256]!r} {fault}")
    if len(texts) > _ENTRIES:
        wrong.append(f"has {len(texts)} entries; those after the first {_ENTRIES} are not read")
    return tuple(entries), tuple(wrong)


def _entry(text: str) -> Entry:
    plain = text.startswith("http://")
    scheme: Literal["https", "http"] = "http" if plain else "https"
    host, port = _split(text.removeprefix("http://"))
    if host.startswith("*."):
        return Entry(scheme, "." + _host(host.removeprefix("*.")), _port(port, scheme))
    return Entry(scheme, _host(host), _port(port, scheme))


def _split(text: str) -> tuple[str, str | None]:
    if "/" in text:
        raise InvalidHost("is no host: write HOST[:PORT] without a path, with http:// in front only where TLS is not spoken")
    head, colon, tail = text.rpartition(":")
    return (head, tail) if colon and not text.endswith("]") else (text, None)


def _host(text: str) -> str:
    host = text.lower().removesuffix(".")
    if host.startswith("[") and host.endswith("]"):
        try:
            return str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError:
            raise InvalidHost("has no IPv6 address between its brackets") from None
    if len(host) > _NAME_CHARACTERS or not _NAME.fullmatch(host):
        raise InvalidHost("has no host's name: letters, digits, dashes and dots (a name with other letters in its xn-- form)")
    if host.rpartition(".")[2].isdigit() or host.startswith("0x"):
        return _ipv4(host)
    return host


def _ipv4(host: str) -> str:
    """A name that ends in a number is an address, and resolvers read odd ones (127.1, 0x7f.1) in their own way."""
    try:
        return str(ipaddress.IPv4Address(host))
    except ValueError:
        raise InvalidHost("has an address in an odd form; write all four decimal numbers") from None


def _port(text: str | None, scheme: str) -> int:
    if text is None:
        return 443 if scheme == "https" else 80
    if not _PORT.fullmatch(text) or int(text) > _PORTS:
        raise InvalidHost("has a port that is none: 1 to 65535")
    return int(text)
