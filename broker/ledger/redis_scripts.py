"""The Lua that counts: each question of the ledger is one call, which does all of it or nothing."""

from collections.abc import Iterable
from hashlib import sha1
from importlib.resources import files
from string import Template
from typing import Final, NamedTuple

from broker.ledger.holds import LATE_S, VOID_S
from broker.money import MOST_MICROUSD
from broker.quota import LEASE_S

SERVER_TIME: Final = "call('TIME')"
US: Final = 1_000_000
QUIET_S: Final = 2.0  # after another server took over nothing is held, so that every broker can say first what it knows

# Codes that answers begin with. Only with DONE the namespace remembers the time that stands beside it.
DONE: Final = 0
REFUSED: Final = 1
KNOWN_ID: Final = 2
OTHER_EPOCH: Final = 3
QUIET: Final = 4
LOST: Final = 5
OTHER_MINUTE: Final = 6
TOLD: Final = 7
OTHER_LAYOUT: Final = 8

LAYOUT: Final = 1  # of all that the scripts keep: another number for whatever an older broker would misread, or a newer one of its

_OPENING: Final = "opening"
_WRITING: Final = (_OPENING, "writing")
_ENDING: Final = (*_WRITING, "ending")


class Script(NamedTuple):
    """A Lua program and the name that Redis knows it by."""

    text: bytes
    sha: bytes


class Scripts:
    """All that a store asks of Redis.

    Args:
        time: the Lua expression that says what time it is: seconds and microseconds, since 1970.
    """

    def __init__(self, time: str = SERVER_TIME) -> None:
        folder = files("broker.ledger") / "lua"

        spans = {"LEASE": LEASE_S, "VOID": VOID_S, "LATE": LATE_S, "QUIET": QUIET_S}
        words = {"TIME": time, "LAYOUT": LAYOUT, "MOST_MICROUSD": MOST_MICROUSD}
        words |= {name: int(seconds * US) for name, seconds in spans.items()}

        def build(*parts: str) -> Script:
            text = Template("\n".join((folder / f"{part}.lua").read_text(encoding="ascii") for part in parts)).substitute(words)
            return Script(text.encode(), sha1(text.encode(), usedforsecurity=False).hexdigest().encode())

        self.hold: Final = build(_OPENING, "hold")
        self.settle: Final = build(*_ENDING, "tallying", "settle")
        self.void: Final = build(*_ENDING, "void")
        self.renew: Final = build(*_ENDING, "renew")
        self.deny: Final = build(*_WRITING, "tallying", "deny")
        self.expire: Final = build(*_ENDING, "tallying", "expire")
        self.register: Final = build(_OPENING, "register")
        self.adjust: Final = build(_OPENING, "adjust")
        self.enter: Final = build("enter")

    def all(self) -> Iterable[Script]:
        return self.hold, self.settle, self.void, self.renew, self.deny, self.expire, self.register, self.adjust, self.enter
