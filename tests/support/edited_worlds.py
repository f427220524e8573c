"""Objects before and after a few edits, and whom to ask about them: what `broker diff` and `broker who-can` are tested with."""

import re
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from support.worlds import SETTINGS, access, documents, routing, who

from broker.errors import Forbidden
from broker.objects import collect
from broker.policy import Settings, Snapshot, build

DOMAINS = ("a.org", "example.org")
SEGMENTS = ("ns", "team1", "team2", "sa", "agent", "x")
MODELS = ("gpt", "other", "team1/gpt")
NAMESPACES = ("team1", "team2", "shared", "broker-system")

domains = st.sampled_from(DOMAINS)
paths = st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=5).map("/".join) | st.sampled_from(
    ["ns/team1/sa/agent", "ns/team1/sa/x", "ns/team2/sa/agent", "ns/team1/sa", "ns/team1", "ns/team1/sa/agent/x"]
)
PATHS = (
    *("ns/team1/sa/agent", "ns/team1/sa/x", "ns/team2/sa/agent", "ns/team2/sa/x", "ns/x/sa/agent", "ns/team1/sa", "ns/team1/x"),
    *("ns/team1/sa/agent/x", "x", "x/agent", "sa", "sa/x/x", "team1", "team1/ns/x", "agent", "ns/ns", "new", "ns/team1/sa/new"),
)
IDENTITIES = tuple(f"spiffe://{domain}/{path}" for domain in (*DOMAINS, "c.org") for path in PATHS)
NAMES = (
    *("gpt", "other", "team1/gpt", "team2/gpt", "shared/gpt", "broker-system/gpt", "team1/other", "team2/other"),
    *("shared/other", "shared/team1/gpt", "team1/team1/gpt", "nothing"),
)


@st.composite
def policies(draw: st.DrawFn) -> tuple[str, str]:
    """Of any action, in any mode, right or wrong, with its name."""
    action = draw(st.sampled_from(["Allow", "Allow", "Allow", "Deny", "Limit"]))
    subject = st.one_of(
        st.builds("{{spiffeID: 'spiffe://{}/{}'}}".format, domains, paths),
        st.builds("{{spiffeIDPrefix: 'spiffe://{}/{}/'}}".format, domains, paths),
        st.builds("{{spiffeIDPrefix: 'spiffe://{}/'}}".format, domains),
        st.builds(
            "{{serviceAccount: {{name: agent, namespace: {}, trustDomain: {}}}}}".format, st.sampled_from(["team1", "team2"]), domains
        ),
    )
    subjects = draw(st.lists(subject, min_size=1, max_size=3) | st.none())
    listed = draw(st.lists(st.sampled_from(["gpt", "other", "'*'"]), min_size=1, max_size=2, unique=True))
    fields = [f"action: {action}", f"models: [{', '.join(listed)}]"]
    fields.append(f"mode: {draw(st.sampled_from(['Enforce', 'Enforce', 'Shadow']))}")
    if subjects:
        fields.append(f"subjects: [{', '.join(subjects)}]")
    if not subjects and (action != "Limit" or draw(st.booleans())):
        fields.append(f"mtls: {{trustDomain: {draw(domains)}}}")
    if action == "Limit" or draw(st.booleans()):
        limit = draw(st.sampled_from(["tokens: 5", "tokens: 9", "usd: '1'"]))
        rest = f"overridable: {str(draw(st.booleans())).lower()}, scope: {draw(st.sampled_from(['Identity', 'Policy']))}"
        fields.append(f"quotas: [{{name: day, {limit}, per: Day, {rest}}}]")
    if action == "Allow" and draw(st.booleans()):
        fields.append("features: [Storage]")
    if draw(st.integers(0, 9)) == 0:
        fields.append("unknown: 1")
    name, namespace = draw(st.sampled_from(["p", "q", "r"])), draw(st.sampled_from(NAMESPACES))
    return f"{namespace}/{name}", access(name, namespace, f"{{{', '.join(fields)}}}")


@st.composite
def routings(draw: st.DrawFn) -> tuple[str, str]:
    namespace = draw(st.sampled_from(NAMESPACES))
    text = routing(namespace=namespace, models=draw(st.lists(st.sampled_from(MODELS), min_size=1, max_size=3, unique=True)))
    text = text.replace("model: real", f"model: {draw(st.sampled_from(['real', 'real', 'unreal']))}")
    if draw(st.booleans()):
        text = text.replace("model: real}]", "model: real}], price: {inputPerMillionTokens: '1', outputPerMillionTokens: '2'}")
    return namespace, text


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[str], list[str]]:
    """Objects, and the same after a few edits."""
    old = {f"routing/{name}": routing(namespace=name, models=("gpt", "other")) for name in ("team1", "team2", "shared")}
    old |= {f"routing/{name}": text for name, text in draw(st.lists(routings(), max_size=2))}
    old |= dict(draw(st.lists(policies(), min_size=1, max_size=6)))
    new = dict(old)
    for name in draw(st.lists(st.sampled_from(sorted(old)), max_size=1)):
        new.pop(name, None)
    new |= dict(draw(st.lists(policies(), min_size=1, max_size=2)))
    new |= {f"routing/{name}": text for name, text in draw(st.lists(routings(), max_size=1))}
    return list(old.values()), list(new.values())


def world(texts: list[str], settings: Settings) -> Snapshot:
    return build(collect(document for text in texts for document in documents(text)), settings)


def decided(snapshot: Snapshot, spiffe_id: str, name: str) -> Any:
    """All that a decision says, but for the names and versions of the objects that led to it."""
    identity = who(spiffe_id)
    if not snapshot.settings.trust_domain:
        own = replace(snapshot.settings, trust_domain=identity.trust_domain)
        snapshot = Snapshot(own, snapshot.offers, snapshot.rules)
    try:
        grant = snapshot.decide(identity, name)
    except Forbidden:
        return None
    return replace(grant, policies=(), granting=(), budgets=tuple(sorted(grant.budgets, key=lambda one: one.counter)))


def within(spiffe_id: str, name: str) -> bool:
    if name.endswith("/sa/*"):
        return re.fullmatch(re.escape(name[:-1]) + "[^/]+", spiffe_id) is not None
    return spiffe_id.startswith(name) if not name or name.endswith("/") else spiffe_id == name


settings = st.sampled_from([SETTINGS, replace(SETTINGS, trust_domain=""), replace(SETTINGS, shared_namespaces=())])
