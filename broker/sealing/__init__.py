"""Ids of state at a provider, sealed to the identity that made it, so that agents of one provider account do not reach each other's.

seals.py   what an id becomes, and what it opens to
keys.py    the keys, and the text of their file
keeping.py that file: read at the start, and again when it changes
"""

from broker.sealing.keys import BadKeys, Key, parse_keys
from broker.sealing.seals import RAW_ID_CHARS, SEALED_CHARS, Home, Kind, NotYours, Seals, Unsealable

__all__ = ["RAW_ID_CHARS", "SEALED_CHARS", "BadKeys", "Home", "Key", "Kind", "NotYours", "Seals", "Unsealable", "parse_keys"]
