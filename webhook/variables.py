"""The base URLs and placeholder keys of one container: what to add to its environment, and what its author keeps. Pure.

Nothing that the author set is overwritten. Who sets a base URL of a dialect himself has chosen another way to models of that
dialect, so none of its variables are added: half of a program's SDKs would go here and the other half there.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from broker import sdk_env
from broker.names import PLACEHOLDER_KEY
from webhook.pod import EnvVar


@dataclass(frozen=True, slots=True)
class Environment:
    """What becomes of one container's `env`.

    added: names and values, to be put at the end.
    changed: indexes and new values: NO_PROXY alone.
    injected: names that hold our value, now or since an earlier time.
    kept: names of ours that hold the author's.
    elsewhere: base URLs that lead elsewhere.
    keys: keys that the author gives, which no local gateway hands on.
    """

    added: tuple[tuple[str, str], ...]
    changed: tuple[tuple[int, str], ...]
    injected: tuple[str, ...]
    kept: tuple[str, ...]
    elsewhere: tuple[str, ...]
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Given:
    """What a container has already: of a name that is there twice the last one counts, as in Kubernetes.

    values: None = it comes from a Secret, a ConfigMap or a field, and cannot be seen.
    """

    values: Mapping[str, str | None]
    places: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Share:
    """What one dialect has in a container."""

    wanted: Mapping[str, str]
    kept: tuple[str, ...]
    elsewhere: tuple[str, ...]
    keys: tuple[str, ...]


def plan(env: Sequence[EnvVar], dialects: Sequence[str], port: int) -> Environment:
    """The same again on its own result changes nothing."""
    values = {one.name: None if one.value_from is not None else one.value or "" for one in env}
    given = _Given(values, {one.name: place for place, one in enumerate(env)})
    shares = [_share(dialect, port, given) for dialect in dialects]
    proxies = dict(_no_proxy(given)) if dialects else {}
    unmerged = [name for name in sdk_env.NO_PROXY if dialects and values.get(name, "") is None]
    wanted = {name: value for share in shares for name, value in share.wanted.items()} | proxies
    return Environment(
        added=tuple((name, value) for name, value in wanted.items() if name not in values),
        changed=tuple((given.places[name], value) for name, value in proxies.items() if values.get(name, value) != value),
        injected=tuple(sorted(wanted)),
        kept=tuple(sorted({*unmerged, *(name for share in shares for name in share.kept)})),
        elsewhere=tuple(name for share in shares for name in share.elsewhere),
        keys=tuple(name for share in shares for name in share.keys),
    )


def _share(dialect: str, port: int, given: _Given) -> _Share:
    ours = sdk_env.of_dialect(dialect, port, PLACEHOLDER_KEY)
    kept = tuple(name for name, value in ours.items() if given.values.get(name, value) != value)
    elsewhere = tuple(name for name in kept if name not in sdk_env.keys(dialect))
    needless = {name: sdk_env.INSTEAD[name] for name in ours if sdk_env.INSTEAD.get(name) in given.values}
    left_out = {*kept, *needless, *(ours if elsewhere else ())}
    wanted = {name: value for name, value in ours.items() if name not in left_out or given.values.get(name) == value}
    keys = () if elsewhere else (*kept, *needless.values())
    return _Share(wanted, kept, elsewhere, keys)


def _no_proxy(given: _Given) -> Iterator[tuple[str, str]]:
    """Both spellings with loopback in them. One that cannot be seen stays; then the other is not added either, since it would hide it."""
    values = {name: given.values[name] for name in sdk_env.NO_PROXY if name in given.values}
    seen = {name: value for name, value in values.items() if value is not None}
    for name in sdk_env.NO_PROXY:
        if name in seen:
            yield name, _with_loopback(seen[name])
        elif name not in values and len(seen) == len(values):
            yield name, _with_loopback(next(iter(seen.values()), ""))


def _with_loopback(text: str) -> str:
    entries = [entry.strip() for entry in text.split(",")]
    if "*" in entries:
        return text
    missing = [host for host in sdk_env.LOOPBACK if host not in entries]
    return ",".join((text.rstrip(", "), *missing)).lstrip(",") if missing else text
