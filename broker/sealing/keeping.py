"""The file of the sealing keys: read at the start, and again when it changes."""

import asyncio
import hashlib
import logging
import os
import secrets
from base64 import b64encode
from pathlib import Path
from stat import S_IMODE, S_ISREG, S_IWGRP, S_IWOTH
from typing import Final, Self

from broker.config import ConfigError
from broker.sealing.keys import KEY_BYTES, BadKeys, Key, parse_keys
from broker.sealing.seals import Seals

log = logging.getLogger(__name__)

FLAG: Final = "--sealing-keys"
POLL_S: Final = 2.0  # the kubelet itself takes up to a minute to bring a changed Secret
FILE_BYTES: Final = 16 << 10
_OTHERS_WRITE: Final = S_IWGRP | S_IWOTH
_OF_DEV: Final = "# Seals the ids of what `broker dev` lets agents keep at providers. Without this file they open no more.\n"


class KeyFile:
    """The file, and the seals of its keys. A changed file is in force within POLL_S; one that is broken leaves the keys as they are.

    wrong: what keeps the file, as it is now, from being used; "" when nothing does.
    """

    def __init__(self, path: Path, text: bytes, keys: tuple[Key, ...]) -> None:
        self._path = path
        self._digest: bytes = _digest(text)
        self._keys: tuple[Key, ...] = keys
        self.seals = Seals(keys)
        self.wrong = ""
        log.info("sealing_keys_read", extra={"keys": self.ids})

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read it for the first time.

        Raises:
            ConfigError: it cannot be used; says why, and what to do.
        """
        text = read_file(path)
        return cls(path, text, parse(path, text))

    @property
    def ids(self) -> list[str]:
        """Which keys these are, the one that seals first; each sealed id shows the same, and says nothing of the key."""
        return [key.id.hex() for key in self._keys]

    async def keep(self, poll_s: float = POLL_S) -> None:
        """Follow the file for ever."""
        while True:
            await asyncio.sleep(poll_s)
            try:
                text = await asyncio.to_thread(read_file, self._path)
                self.take(text)
            except ConfigError as wrong:
                self._note(str(wrong))

    def take(self, text: bytes) -> None:
        """Use what the file says now.

        Raises:
            ConfigError: it cannot be used; the keys are those of before.
        """
        digest = _digest(text)
        if digest != self._digest:
            keys = parse(self._path, text)
            before = set(self.ids)
            self.seals.replace(keys)
            self._keys, self._digest = keys, digest
            log.info("sealing_keys_read", extra={"keys": self.ids})
            self._warn_of_a_leap(before)
        self.wrong = ""

    def _warn_of_a_leap(self, before: set[str]) -> None:
        if not before & set(self.ids):
            log.warning("sealing_keys_without_overlap", extra={"reason": "no key of before is left: what agents kept opens no more"})
        elif self.ids[0] not in before:
            reason = "the key that seals is new: a replica that has not read it yet refuses its ids; next time put a new key last first"
            log.warning("sealing_key_before_its_time", extra={"reason": reason})

    def _note(self, wrong: str) -> None:
        if wrong != self.wrong:
            log.error("sealing_keys_unusable", extra={"reason": wrong, "in_force": "the keys that were read before"})
        self.wrong = wrong


def read_file(path: Path) -> bytes:
    """What stands in it. A link is followed: a mounted Secret is one.

    Raises:
        ConfigError: it cannot be read, is no file, is much too long, or others may write it.
    """
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            status = os.fstat(file.fileno())
            if not S_ISREG(status.st_mode):
                raise ConfigError(f"{FLAG} {path}: is no file: give one with a key a line")
            if status.st_mode & _OTHERS_WRITE:
                mode = f"{S_IMODE(status.st_mode):04o}"
                raise ConfigError(f"{FLAG} {path}: has mode {mode}, so that others could put a key of theirs in: chmod it to 0400")
            text = file.read(FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{FLAG} {path}: {error.strerror}: give a file of keys that this user may read") from error
    if len(text) > FILE_BYTES:
        raise ConfigError(f"{FLAG} {path}: has more than {FILE_BYTES} bytes: give one with keys alone")
    return text


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe would wait for somebody who writes


def parse(path: Path, text: bytes) -> tuple[Key, ...]:
    """The keys of the file.

    Raises:
        ConfigError: they cannot be used; says which, why, and what to do.
    """
    try:
        return parse_keys(text)
    except BadKeys as wrong:
        raise ConfigError(f"{FLAG} {path}: {wrong}") from None


def make_file(path: Path) -> None:
    """Make a file of one new key, for its user alone, unless there is one.

    Raises:
        OSError: it cannot be written.
    """
    if path.exists():
        return
    unfinished = path.with_name(f"{path.name}.new")
    unfinished.unlink(missing_ok=True)
    with open(os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:  # noqa: PTH123  opened with its mode
        file.write(_OF_DEV.encode() + b64encode(secrets.token_bytes(KEY_BYTES)) + b"\n")
    unfinished.rename(path)


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text).digest()
