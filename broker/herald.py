"""What the brokers tell people with kubectl: who was refused what, which quota is nearly used up, and what to do about it. Pure.

It stands beside the policy that names the identity, else beside the namespace of whoever asked. Texts are made of names that stand
in objects and of SPIFFE IDs, never of what a caller wrote: a model is named when an object offers it, and only where it is offered or to
everybody. Else an agent would ask for names of another team's, and its own team would read in its Events which of them exist.
"""

from collections.abc import Callable, Mapping
from typing import Final

from broker.errors import Unavailable
from broker.grant import PolicyRef
from broker.identity import Identity
from broker.kube.events import Happening, Regarding
from broker.kube.source import Scope
from broker.names import API_VERSION
from broker.policy import Snapshot
from broker.policy.offers import Offer
from broker.policy.rules import Rule
from broker.quota import reset_text
from broker.usage.quotas import Named, parse
from broker.usage.tables import amount
from broker.usage.watch import Warned

_ID_CHARS: Final = 200
_WHOLE: Final = 100

# Refusals that somebody with kubectl can mend, and how. The others are the caller's own mistakes, or pass by themselves.
REFUSALS: Final[Mapping[str, str]] = {
    "forbidden": (
        "no policy grants it, or one denies it. `kubectl aiaccess explain SPIFFE_ID MODEL` says which; if it shall have it, name it in "
        "subjects and models of an AIAccessPolicy"
    ),
    "feature_not_granted": (
        "the request uses something that agents of one provider account share. If it shall have that, name it in spec.features of the "
        "AIAccessPolicy"
    ),
    "exceeds_quota": (
        "one request alone needs more than a quota ever allows. Ask for less output or with a shorter prompt, or raise spec.quotas; sound "
        "and pictures pass no quota of tokens, so limit their models by `requests`"
    ),
    "quota_exhausted": (
        "a quota is used up. `kubectl aiaccess usage` says which and until when; wait, raise spec.quotas, or let it have more in this "
        "window with `broker usage grant`"
    ),
    "concurrency_full": (
        "as many of its requests are running as the quota `concurrent` allows. Ask with fewer at a time, or raise it in spec.quotas"
    ),
    "untranslatable": "no provider of the model speaks the dialect of the agent's SDK. Use another SDK, or add a backend that speaks it",
    "no_backend": "no provider of the model is ready. `kubectl describe airoutingpolicy` says why",
    "provider_auth": "the provider refused the credential. Put a valid one into the Secret of the AIRoutingPolicy or AIProvider",
}


class Herald:
    """Makes happenings of refusals and warnings.

    Args:
        tell: takes them, and does not wait.
        snapshot: the one in force.
        scope: the namespaces that are read: nothing is said in others.
    """

    def __init__(self, tell: Callable[[Happening], None], snapshot: Callable[[], Snapshot], scope: Scope) -> None:
        self._tell = tell
        self._snapshot = snapshot
        self._scope = scope

    def refused(self, identity: Identity, code: str, model: str) -> None:
        """This identity asked for this model, and was refused.

        model: as the caller wrote it; "" when it was not read.
        """
        advice = REFUSALS.get(code)
        if advice is None:
            return
        snapshot = self._snapshot()
        offer = _offer(snapshot, identity, model)
        rule = _concerned(snapshot, identity, offer, code)
        regarding = _policy(rule.ref) if rule else self._namespace_of(identity, snapshot)
        is_known_there = offer is not None and offer.namespace in (regarding.namespace, *snapshot.settings.shared_namespaces)
        what = f"the model {offer.namespace}/{offer.name}" if offer and is_known_there else "a model"
        self._tell(
            Happening(
                regarding=regarding,
                reason="".join(word.capitalize() for word in code.split("_")),
                about=identity.spiffe_id,
                note=f"{_short(identity.spiffe_id)} was refused {what}: {advice}. The audit log has each request.",
                action="Refuse",
            )
        )

    def warned(self, warned: Warned) -> None:
        """A quota reached so much of its limit."""
        named = parse(warned.budget.counter)
        about = _owner(self._snapshot(), named) if named else None
        if named is None or about is None:
            return
        self._tell(
            Happening(
                regarding=about,
                reason="QuotaUsedUp" if warned.percent == _WHOLE else "QuotaNearlyUsedUp",
                about=f"{warned.budget.counter}/{warned.balance.window}",
                note=_warning(warned, named),
                action="Count",
                once=True,
            )
        )

    def _namespace_of(self, identity: Identity, snapshot: Snapshot) -> Regarding:
        """The caller's own, which another trust domain's namespace of that name is not; else the broker's."""
        scope, namespace = self._scope, identity.namespace
        is_ours = bool(namespace) and identity.trust_domain == snapshot.settings.trust_domain
        if not is_ours or (scope.namespaces is not None and namespace not in scope.namespaces):
            namespace = scope.own
        return Regarding("v1", "Namespace", namespace, namespace)


def _offer(snapshot: Snapshot, identity: Identity, model: str) -> Offer | None:
    try:
        return snapshot.find(identity, model) if model else None
    except Unavailable:
        return None


def _concerned(snapshot: Snapshot, identity: Identity, offer: Offer | None, code: str) -> Rule | None:
    """The rule that people should look at: of those about the model, else of all that name the identity, the one that says no."""
    naming = snapshot.rules.naming(identity)
    about = [rule for rule in naming if offer is not None and rule.covers(offer.namespace, offer.name)]
    among = about or [rule for rule in naming if rule.action != "Limit"]  # a Limit may name strangers from everywhere

    def rank(rule: Rule) -> tuple[bool, bool, bool]:
        is_the_no = rule.refuses if code == "forbidden" else bool(rule.ceilings) and not rule.shadow
        return not is_the_no, rule.shadow, rule.namespace != identity.namespace

    return min((rule for rule in among if rule.ref.namespace), key=rank, default=None)


def _policy(ref: PolicyRef, kind: str = "AIAccessPolicy") -> Regarding:
    return Regarding(API_VERSION, kind, ref.namespace, ref.name, ref.version.rpartition("/")[0])


def _owner(snapshot: Snapshot, named: Named) -> Regarding | None:
    """The object whose quota it is; None when it has gone."""
    if named.kind == "AIRoutingPolicy":
        refs = (offer.ref for offer in snapshot.offers.values())
    else:
        refs = (rule.ref for rule in snapshot.rules.all)
    ref = next((one for one in refs if (one.namespace, one.name) == (named.namespace, named.policy)), None)
    return _policy(ref, named.kind) if ref else None


def _warning(warned: Warned, named: Named) -> str:
    budget, balance = warned.budget, warned.balance
    who = _short(named.identity) if named.identity else "All callers together"
    unit = "US dollars" if named.unit == "usd" else str(named.unit).replace("_", " ")
    used, limit = amount(warned.used, named.unit), amount(budget.limit + balance.credit, named.unit)
    return (
        f"{who} used {used} of {limit} {unit} of the quota {named.quota} in the {budget.per} {balance.window} (UTC), which ends in "
        f"{reset_text(balance.reset_s)}. Raise it in {'spec.models' if named.kind == 'AIRoutingPolicy' else 'spec.quotas'}, or let it have "
        f"more in this window alone with `broker usage grant`."
    )


def _short(spiffe_id: str) -> str:
    """Enough to find it. It is printable: a SPIFFE ID has few signs."""
    return spiffe_id if len(spiffe_id) <= _ID_CHARS else f"{spiffe_id[:_ID_CHARS]}…"
