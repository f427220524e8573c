"""OpenTelemetry's variables about the way to the collector. Its exporters read them; here they are judged before anything is sent.

Left to themselves the exporters would start with any of these, and send nothing. Values are never repeated: they may hold a token.
"""

import os
import re
from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import urlsplit

from broker.config import ConfigError

ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
RESOURCE: Final = "OTEL_RESOURCE_ATTRIBUTES"
PORTS: Final = {"http": 80, "https": 443}
LONGEST_S: Final = 600.0
_COMPRESSIONS: Final = ("none", "gzip", "deflate")
FILES: Final = ("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY")
_PAIR: Final = re.compile(r"\s*[!#$%&'*+.^_`|~0-9A-Za-z-]+\s*=").match


def of(environ: Mapping[str, str], signal: str, name: str) -> tuple[str, str]:
    """A variable of one signal, else of all, and what it says; "" where neither is set."""
    for variable in (f"OTEL_EXPORTER_OTLP_{signal}_{name}", f"OTEL_EXPORTER_OTLP_{name}"):
        if text := environ.get(variable, "").strip():
            return variable, text
    return "", ""


def address(environ: Mapping[str, str], signal: str) -> tuple[str, int]:
    """Where the collector of this signal listens.

    Raises:
        ConfigError: that is no endpoint.
    """
    variable, text = of(environ, signal, "ENDPOINT")
    try:
        found = urlsplit(text)
        host, port = found.hostname, found.port
    except ValueError:
        host, port = None, None
        found = urlsplit("")
    if found.scheme not in PORTS or not host:
        raise ConfigError(f"{variable} is no URL such as http://collector.example:4318")
    return host, port or PORTS[found.scheme]


def check(environ: Mapping[str, str], signal: str) -> None:
    """Everything that the exporter of this signal would stumble over.

    Raises:
        ConfigError: a variable cannot be used.
    """
    address(environ, signal)
    for fault in (*_faults(environ, signal), *_in_pairs(RESOURCE, environ.get(RESOURCE, ""))):
        raise ConfigError(fault)


def _faults(environ: Mapping[str, str], signal: str) -> Iterator[str]:
    variable, text = of(environ, signal, "COMPRESSION")
    if text and text.lower() not in _COMPRESSIONS:
        yield f"{variable} is none of {', '.join(_COMPRESSIONS)}"
    variable, text = of(environ, signal, "TIMEOUT")
    if text and not _is_timeout(text):
        yield f"{variable} is no time from 0 to {LONGEST_S:g} in seconds"
    for name in FILES:
        variable, path = of(environ, signal, name)
        if path and not os.access(path, os.R_OK):
            yield f"{variable} names a file that is not there, or that this user may not read"
    variable, text = of(environ, signal, "CLIENT_KEY")
    if text and not of(environ, signal, "CLIENT_CERTIFICATE")[1]:
        yield f"{variable} needs OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE too"
    yield from _in_pairs(*of(environ, signal, "HEADERS"))


def _in_pairs(variable: str, text: str) -> Iterator[str]:
    if not all(_PAIR(entry) for entry in text.split(",") if entry.strip()):
        yield f"{variable} has an entry that is not NAME=VALUE; a comma in a value is written %2C"


def _is_timeout(text: str) -> bool:
    try:
        return 0 < float(text) <= LONGEST_S
    except ValueError:
        return False
