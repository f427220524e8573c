"""Objects as people write them, read and built as the broker does it."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from broker.identity import Identity, parse_spiffe_id
from broker.objects import Document, Resources, Stray, collect, read_document
from broker.objects.origin import Origin
from broker.objects.yamltext import read_yaml
from broker.policy import Settings, Snapshot, build
from broker.policy.status import Condition, ObjectStatus

AGENT = "spiffe://example.org/ns/team1/sa/agent"
SETTINGS = Settings(namespace="broker-system", trust_domain="example.org", shared_namespaces=("shared",))


def who(spiffe_id: str = AGENT) -> Identity:
    return parse_spiffe_id(spiffe_id)


def documents(text: str, file: str = "x.yaml", environment: Mapping[str, str] | None = None) -> list[Document | Stray]:
    return [read_document(one.value, Origin(file, one.marks), environment or {}, tuple(one.faults)) for one in read_yaml(text.encode())]


def resources(*texts: str) -> Resources:
    return collect(one for number, text in enumerate(texts) for one in documents(text, f"{number}.yaml"))


def world(*texts: str, settings: Settings = SETTINGS) -> Snapshot:
    return build(resources(*texts), settings)


def files(folder: Path, texts: Mapping[str, str]) -> Path:
    for name, text in texts.items():
        folder.joinpath(name).parent.mkdir(parents=True, exist_ok=True)
        folder.joinpath(name).write_text(text)
    return folder


def status(snapshot: Snapshot, name: str, kind: str = "") -> ObjectStatus:
    (found,) = [one for one in snapshot.statuses if one.about.name == name and kind in ("", one.about.kind)]
    return found


def condition(snapshot: Snapshot, name: str, kind: str) -> Condition:
    (found,) = [one for one in status(snapshot, name).conditions if one.type == kind]
    return found


def routing(name: str = "routing", namespace: str = "team1", models: Iterable[str] = ("gpt",), extra: str = "") -> str:
    """A routing object whose models all go to one provider that needs no credential."""
    listed = "".join(f"\n  - {{name: '{model}', backends: [{{provider: p, model: real}}]}}" for model in models)
    return f"""---
apiVersion: aiaccess.dev/v1alpha1
kind: AIRoutingPolicy
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  providers: [{{name: p, schema: OpenAI}}]
  models:{listed or " []"}
{extra}
"""


def access(name: str = "access", namespace: str = "team1", spec: str = "") -> str:
    return f"""---
apiVersion: aiaccess.dev/v1alpha1
kind: AIAccessPolicy
metadata: {{name: {name}, namespace: {namespace}}}
spec: {spec or "{subjects: [{spiffeID: '" + AGENT + "'}], models: ['*']}"}
"""


def secret(name: str = "keys", namespace: str = "team1", hosts: str | None = None, data: str = "{api-key: sk-canary}") -> str:
    annotations = "" if hosts is None else f", annotations: {{aiaccess.dev/hosts: '{hosts}'}}"
    return f"""---
apiVersion: v1
kind: Secret
metadata: {{name: {name}, namespace: {namespace}{annotations}}}
stringData: {data}
"""
