"""What `broker diff` prints: for eyes, for programs, and for the comment of a pull request."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from broker.review.access import Without
from broker.review.comparing import Change, Effect, Kind

SHOWN: Final = 8  # classes that are left out of a row; programs get all of them
_SIGNS: Final = {Kind.GAINS: "+", Kind.LOSES: "-", Kind.CHANGES: "~"}
_MARKS: Final = {Effect.MORE: "(more) ", Effect.LESS: "(less) ", Effect.OTHER: ""}
_BAR: Final = "\\|"
_MEANT: Final = {"&": "&amp;", "<": "&lt;", "@": "&#64;", **{sign: f"\\{sign}" for sign in "\\|`*_[]#~"}}
_HEADS: Final = {Kind.GAINS: "Gained", Kind.LOSES: "Lost", Kind.CHANGES: "Changed"}


def told(changes: Sequence[Change]) -> dict[str, object]:
    """For programs."""
    return {
        "gains": any(one.gives_more for one in changes),
        "changes": [
            {
                "kind": str(one.kind),
                "givesMore": one.gives_more,
                "class": one.identities.name,
                "identities": str(one.identities),
                "except": [who.told() for who in one.without],
                "model": one.model,
                "askedForAs": list(one.names) or [one.model],
                "details": [{"effect": str(detail.effect), "text": detail.text} for detail in one.details],
                "policies": list(one.by),
            }
            for one in changes
        ],
    }


def text(changes: Sequence[Change]) -> str:
    """For a terminal. Without a line end."""
    return "\n".join([*_lines(changes), summary(changes)])


def summary(changes: Sequence[Change]) -> str:
    """The verdict."""
    if not changes:
        return "no decision changes for anybody"
    count = {kind: sum(one.kind is kind for one in changes) for kind in Kind}
    more = "somebody gains" if any(one.gives_more for one in changes) else "nobody gains"
    return f"{more}: {count[Kind.GAINS]} gained, {count[Kind.LOSES]} lost, {count[Kind.CHANGES]} changed"


def markdown(changes: Sequence[Change], errors: Sequence[str]) -> str:
    """A comment for a pull request. Without a line end."""
    more = any(one.gives_more for one in changes)
    verdict = "objects that are not accepted" if errors else summary(changes)
    return "\n".join([f"### Access policy review: {'⚠️ ' if more or errors else ''}{verdict}", *_parts(changes, errors)])


def _lines(changes: Sequence[Change]) -> Iterator[str]:
    for one in changes:
        yield f"{_SIGNS[one.kind]} {one.identities} {one.kind} {_asked(one)}{_by(one)}"
        yield from (f"    {_MARKS[detail.effect]}{detail.text}" for detail in one.details)
        yield from (f"    except {who}" for who in _few(one.without))


def _parts(changes: Sequence[Change], errors: Sequence[str]) -> Iterator[str]:
    if errors:
        yield from ("", "**To be mended first**", "", *(f"- {_cell(error)}" for error in errors))
    for kind, head in _HEADS.items():
        rows = [one for one in changes if one.kind is kind]
        if rows:
            yield from ("", f"**{head}**", "", "| who | model | what |", "|---|---|---|")
            yield from (f"| {_who(one)} | {_code(_asked(one))} | {_what(one)} |" for one in rows)


def _who(one: Change) -> str:
    shown = f"**{_cell(str(one.identities))}**" if one.identities.trust_domain else _code(str(one.identities))
    return shown + "".join(f"<br>except {_cell(who)}" for who in _few(one.without))


def _what(one: Change) -> str:
    granting = _cell(", ".join(one.by))
    if one.kind is Kind.CHANGES:
        return "<br>".join(f"{_MARKS[detail.effect]}{_cell(detail.text)}" for detail in one.details)
    return f"granted by {granting}" if one.kind is Kind.GAINS else f"was granted by {granting}"


def _asked(one: Change) -> str:
    return f"{one.model} (asked for as {', '.join(one.names)})" if one.names else one.model


def _by(one: Change) -> str:
    verbs: Mapping[Kind, str] = {Kind.GAINS: ", granted by", Kind.LOSES: ", was granted by", Kind.CHANGES: ":"}
    return f"{verbs[one.kind]} AIAccessPolicy {', '.join(one.by)}" if one.kind is not Kind.CHANGES else ":"


def _few(who: Sequence[Without]) -> Iterator[str]:
    yield from (str(one) for one in who[:SHOWN])
    if len(who) > SHOWN:
        yield f"{len(who) - SHOWN} more"


def _plain(shown: str) -> str:
    return "".join(sign if sign.isprintable() else " " for sign in shown)


def _code(shown: str) -> str:
    """As code, where nothing but a backtick and a table's bar mean anything."""
    return f"`{_plain(shown).replace('`', chr(39)).replace('|', _BAR)}`"


def _cell(shown: str) -> str:
    """As Markdown that stays what it is: names come from objects that somebody else wrote."""
    return "".join(_MEANT.get(sign, sign) for sign in _plain(shown))
