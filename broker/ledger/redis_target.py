"""Which Redis, as whom and how safely: the URL that the operator gave. Nothing here prints a password."""

import ssl
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from broker.ledger.database import CannotOpen

_PORT: Final = 6379
_PORT_MAX: Final = 65535
_FILES: Final = ("password-file", "ca-file", "cert-file", "key-file")
_FORM: Final = "rediss://USER:PASSWORD@HOST:PORT[,HOST:PORT…]/DB, redis://… without TLS, or redis+unix:///PATH"


class Address(NamedTuple):
    """Of one node. Without a port, `host` is the path of a Unix socket."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" if self.port else self.host


@dataclass(frozen=True, slots=True)
class Target:
    """What a URL says.

    seeds: where to ask first; a cluster names its other nodes itself.
    user, password: empty = none. A password file is read at each connection, so that it may be replaced; so are the files of TLS.
    """

    seeds: tuple[Address, ...]
    tls: bool
    database: int = 0
    user: str = ""
    password: str = field(default="", repr=False)
    password_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    def __str__(self) -> str:
        """As the URL, without what is secret."""
        if not self.seeds[0].port:
            return f"redis+unix://{self.seeds[0]}"
        user = f"{self.user}@" if self.user else ""
        return f"redis{'s' if self.tls else ''}://{user}{','.join(map(str, self.seeds))}/{self.database}"

    @property
    def danger(self) -> str:
        """Why an operator must say explicitly that he wants it so, or nothing."""
        if not self.seeds[0].port:
            return ""  # whom it lets in, its permissions say
        if not self.tls:
            return "without TLS (redis://) whoever is on the way reads and writes what was spent"
        if not (self.user and (self.password or self.password_file)):
            return "without a user of its own (rediss://USER:PASSWORD@…) whoever reaches it writes what was spent"
        return ""

    def read_password(self) -> str:
        """Raises CannotOpen."""
        if self.password_file is None:
            return self.password
        try:
            return self.password_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as problem:
            raise CannotOpen(
                f"The password file {self.password_file} of the quota store cannot be read: check that it is there."
            ) from problem

    def tls_context(self) -> ssl.SSLContext | None:
        """Raises CannotOpen."""
        if not self.tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if self.cert_file is not None:
                context.load_cert_chain(self.cert_file, self.key_file)
        except (OSError, ssl.SSLError) as problem:
            raise CannotOpen(
                f"The TLS files of the quota store {self} cannot be used: {problem}. Check ca-file, cert-file, key-file."
            ) from None
        return context


def parse_target(url: str) -> Target:
    """Read the URL of a Redis, strictly: what is not understood may have been meant as a safeguard.

    Raises:
        CannotOpen: it is none. The message does not repeat it, since it may hold a password.
    """
    try:
        parts = urlsplit(url)
        options = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise CannotOpen(f"The URL of the quota store cannot be read: write {_FORM}.") from None
    if parts.scheme == "redis+unix":
        target = Target((Address(_socket_path(parts.netloc, parts.path), 0),), tls=False)
    elif parts.scheme in ("redis", "rediss"):
        target = _on_the_network(parts.netloc, parts.path, tls=parts.scheme == "rediss")
    else:
        raise CannotOpen(f"The URL of the quota store is of no kind of Redis: write {_FORM}.")
    if parts.fragment:
        raise CannotOpen("The URL of the quota store has a #: write it as %23 where it belongs to the password.")
    for name, value in options:
        if name not in _FILES or not value or (name != "password-file" and not target.tls):
            known = ", ".join(_FILES)
            raise CannotOpen(f"The URL of the quota store may end in ?OPTION=PATH&… with {known} (all but the first with rediss:// alone).")
        target = _with_file(target, name, Path(value))
    if target.password and target.password_file:
        raise CannotOpen("The quota store has a password in its URL and in a file: give one of them.")
    return target


def _with_file(target: Target, name: str, path: Path) -> Target:
    match name:
        case "password-file":
            return replace(target, password_file=path)
        case "ca-file":
            return replace(target, ca_file=path)
        case "cert-file":
            return replace(target, cert_file=path)
        case _:
            return replace(target, key_file=path)


def _socket_path(netloc: str, path: str) -> str:
    if netloc or not path.startswith("/") or path == "/":
        raise CannotOpen(f"The URL of the quota store names no socket: write {_FORM}.")
    return unquote(path)


def _on_the_network(netloc: str, path: str, *, tls: bool) -> Target:
    credentials, _, hosts = netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    database = path.removeprefix("/") or "0"
    if not database.isascii() or not database.isdigit():
        raise CannotOpen(f"The URL of the quota store ends in no database number: write {_FORM}.")
    return Target(tuple(map(_address, hosts.split(","))), tls, int(database), unquote(user), unquote(password))


def _address(text: str) -> Address:
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, str(_PORT)
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) <= _PORT_MAX:
        raise CannotOpen(f"The URL of the quota store has a wrong HOST:PORT: write {_FORM}.")
    return Address(host.removeprefix("[").removesuffix("]"), int(port))
