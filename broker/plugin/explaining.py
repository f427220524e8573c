"""The objects that decide a question, as far as whoever asks may read them; what they may not read is told apart from what is not there."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from broker import policy
from broker.config import ConfigError
from broker.identity import InvalidSpiffeId, parse_spiffe_id
from broker.kube.connection import NoCluster
from broker.kube.once import read_once
from broker.kube.source import Scope
from broker.objects import Resources
from broker.review.assuming import Name, assumed
from broker.review.explaining import Question


@dataclass(frozen=True, slots=True)
class Seen:
    """What was read.

    own_unread: the broker's own namespace could not be.
    unread: Secrets that could not be, with what that means; the resources have them as if all was well with them.
    """

    resources: Resources
    own_unread: bool
    unread: Mapping[Name, str]


def read(question: Question, settings: policy.Settings, kubeconfig: str | None, environ: Mapping[str, str]) -> Seen:
    """Read the namespaces where the model is looked for, and the broker's own.

    Raises:
        ConfigError: the identity is none, there is no cluster, or a namespace may not be read; the message says what to do.
    """
    try:
        namespaces = _namespaces(question, settings)
    except InvalidSpiffeId as wrong:
        raise ConfigError(f"SPIFFE_ID: {wrong}") from wrong
    return read_namespaces(namespaces, settings, kubeconfig, environ)


def read_namespaces(namespaces: frozenset[str], settings: policy.Settings, kubeconfig: str | None, environ: Mapping[str, str]) -> Seen:
    """Read these namespaces, and the broker's own.

    Raises:
        ConfigError: there is no cluster, or a namespace may not be read; the message says what to do.
    """
    scope = Scope(settings.namespace, namespaces - {settings.namespace})
    try:
        resources = read_once(kubeconfig, environ, scope)
    except NoCluster as wrong:
        raise ConfigError(str(wrong)) from wrong
    if blind := sorted(resources.unreadable - {settings.namespace}):
        raise ConfigError(
            f"you may not list the objects of namespace {', '.join(blind)}, where the model is looked for; its administrator gives you the "
            f"role view there"
        )
    resources, unread = assumed(resources)
    return Seen(replace(resources, unreadable=frozenset()), bool(scope.own in resources.unreadable), unread)


def _namespaces(question: Question, settings: policy.Settings) -> frozenset[str]:
    identity = parse_spiffe_id(question.spiffe_id)
    prefix, slash, _ = question.model.partition("/")
    return frozenset(one for one in (identity.namespace, *settings.shared_namespaces, prefix if slash else "") if one)
