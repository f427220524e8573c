"""The provider's key, which prints itself to nobody, and the hosts that its owner lets it go to."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, NoReturn


class SecretRef(NamedTuple):
    """Which key of which Secret: a name, never a value."""

    namespace: str
    name: str
    key: str


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Credential:
    """One secret value. No repr, no equality, no pickle; `reveal` is called by upstream.py alone."""

    _value: str

    def reveal(self) -> str:
        return self._value

    def __reduce__(self) -> NoReturn:
        raise TypeError("a credential is not to be serialized")


Credentials = Mapping[SecretRef, Credential]
