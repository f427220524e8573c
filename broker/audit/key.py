"""The key of an audit log, as its operator keeps it."""

from pathlib import Path
from typing import Final

from broker.config import ConfigError

KEY_BYTES: Final = 32


def read_key(flag: str, file: Path) -> bytes:
    """The file as it is.

    Raises:
        ConfigError: it cannot be read, or is too short to be a secret.
    """
    try:
        key = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{flag} {file}: {error.strerror}") from error
    if len(key) < KEY_BYTES:
        raise ConfigError(f"{flag} {file}: has {len(key)} bytes; a key has at least {KEY_BYTES}")
    return key
