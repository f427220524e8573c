"""Takes out of a text what looks like a credential, and what says who somebody is or how to reach or pay him. By its shape alone. Pure.

What has no shape stays: names, addresses, what was said. So this makes an accident smaller; it does not make prompts harmless.
Every pattern reads a text once: none has an open repetition inside another.
"""

import re
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

KEY: Final = "[key]"
EMAIL: Final = "[e-mail]"
CARD: Final = "[card]"
PHONE: Final = "[phone]"
SHORTEST_SECRET: Final = 6  # as in logs.py: taking out shorter ones would shred every text and hide little
_CARD_DIGITS: Final = range(13, 20)
_TEN: Final = 10

# what many services let their keys begin with, in small letters; and each with what follows it
_PREFIXES: Final = (
    *(f"{kind}{mark}" for kind in ("sk", "pk", "rk", "ak") for mark in "-_"), *(f"gh{kind}_" for kind in "opsur"), "github_pat_", "glpat-",
    "xox", "xapp-", "akia", "asia", "aiza", "ya29.", "hf_", "npm_", "pypi-", "eyj", "sg.", "hvs.", "hvb.", "hvr.",
)  # fmt: skip
_PREFIXED: Final = (
    r"(?:sk|pk|rk|ak)[-_][\w-]{8,}", r"gh[opsur]_\w{16,}", r"github_pat_\w{16,}", r"glpat-[\w-]{12,}", r"xox[a-z]-[\w-]{8,}",
    r"xapp-[\w-]{8,}", r"A[KS]IA[0-9A-Z]{12,}", r"AIza[\w-]{20,}", r"ya29\.[\w-]{8,}", r"hf_\w{12,}", r"npm_\w{16,}", r"pypi-[\w-]{16,}",
    r"eyJ[\w-]{4,}(?:\.[\w-]*){1,4}", r"SG\.[\w-]{8,}\.[\w-]{8,}", r"hv[sbr]\.[\w-]{20,}",
)  # fmt: skip
_KIND: Final = r"(?:api|access|auth|secret|private|signing|encryption)"
_WORDS: Final = rf"{_KIND}[ _-]?(?:key|token|secret)|secret|token|password|passwd|passphrase|pwd|credentials?"
_SAID: Final = r"\"[^\"\n]{1,400}\"?|'[^'\n]{1,400}'?|[^\s,;\"']{4,}"  # the closing quote may be cut off
_PEM: Final = re.compile(r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,40}PRIVATE KEY-----|\Z)", re.DOTALL)
_SCHEMES: Final = ("bearer", "basic", "token", "apikey", "digest")
_SCHEME: Final = re.compile(rf"\b({'|'.join(_SCHEMES)}) +[\w.~+/=:-]{{6,}}", re.IGNORECASE)
_USERINFO: Final = re.compile(r"(://)[^\s/@:]{1,200}:[^\s/@]{1,200}@")
_NAMED: Final = re.compile(rf"({_WORDS})(\"|')?(\s{{0,3}}(?:[:=]|=>|is)\s{{0,3}})({_SAID})", re.IGNORECASE)
_BEGINS: Final = r"(?:(?<![A-Za-z0-9])|(?<=\\[nrtbf])|(?<=\\u[0-9A-Fa-f]{4}))"  # also after what JSON in a text escapes
_PREFIXED_KEY: Final = re.compile(rf"{_BEGINS}(?:{'|'.join(_PREFIXED)})")
_LONG: Final = re.compile(r"[\w+=-]{24,}", re.ASCII)
_LONG_PATH: Final = re.compile(r"[A-Za-z0-9+/]{40,}={0,2}")
_EMAIL: Final = re.compile(r"[\w.%+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")
_DIGITS: Final = re.compile(r"(?<![\w.])\+?\(?\d(?:[ ().-]{0,2}\d){6,18}(?![\w])")

Clean = Callable[[str], str]


def cleaner(secrets: Callable[[], Iterable[str]]) -> Clean:
    """What takes it all out of a text.

    secrets: the credentials that live now, which are taken out whatever they look like; asked for each text.
    """

    def clean(text: str) -> str:
        for secret in secrets():
            if len(secret) >= SHORTEST_SECRET:
                text = text.replace(secret, KEY)
        return redact(text)

    return clean


def redact(text: str) -> str:
    """The text without anything of a shape that this file knows."""
    folded = text.lower()
    for rule in _RULES:
        if not rule.hints or any(hint in folded for hint in rule.hints):
            text = rule.shape.sub(rule.put, text)
    return text


def _if_drawn(found: re.Match[str]) -> str:
    """Long words are words; with digits among their letters they are keys more often than not."""
    text = found[0]
    drawn = any(letter.isdigit() for letter in text) and any(letter.isalpha() for letter in text)
    return KEY if drawn else text


def _numbers(found: re.Match[str]) -> str:
    text = found[0]
    digits = [int(letter) for letter in text if letter.isdigit()]
    if len(digits) in _CARD_DIGITS and _passes_luhn(digits):
        return CARD
    parted = text.startswith("+") or any(mark in text for mark in " ()-")
    return PHONE if parted and len(digits) <= 15 and not _is_date(text) else text  # noqa: PLR2004  E.164


def _is_date(text: str) -> bool:
    return re.fullmatch(r"\d{4}-\d\d-\d\d(?: \d\d)?", text) is not None


def _passes_luhn(digits: list[int]) -> bool:
    """The check digit that every payment card ends with (ISO/IEC 7812-1)."""
    doubled = (digit * 2 if place % 2 else digit for place, digit in enumerate(reversed(digits)))
    return sum(digit - 9 if digit >= _TEN else digit for digit in doubled) % _TEN == 0


class _Rule(NamedTuple):
    """What is put in place of a shape. hints: the text has one of them, in small letters, wherever it has the shape; () = look anyway."""

    shape: re.Pattern[str]
    put: str | Callable[[re.Match[str]], str]
    hints: tuple[str, ...] = ()


_RULES: Final = (
    _Rule(_PEM, KEY, ("-----begin",)),
    _Rule(_USERINFO, rf"\1{KEY}@", ("@",)),
    _Rule(_SCHEME, rf"\1 {KEY}", tuple(f"{scheme} " for scheme in _SCHEMES)),
    _Rule(_NAMED, rf"\1\2\3{KEY}", ("key", "token", "secret", "passw", "passphrase", "pwd", "credential")),
    _Rule(_PREFIXED_KEY, KEY, _PREFIXES),
    _Rule(_EMAIL, EMAIL, ("@",)),
    _Rule(_LONG, _if_drawn),
    _Rule(_LONG_PATH, _if_drawn),
    _Rule(_DIGITS, _numbers),
)
