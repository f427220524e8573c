"""Files of objects: nothing that was written is ignored, no object stops the others, and a Deny goes on denying however it is mangled."""

from collections.abc import Iterable, Iterator, Mapping

import msgspec
import yaml
from support.worlds import AGENT, SETTINGS, access, documents, routing, who

from broker.errors import Forbidden
from broker.objects import AccessPolicy, Document, ProviderObject, RoutingPolicy, Stray, collect, read_document
from broker.objects.origin import Origin
from broker.objects.yamltext import InvalidYaml, read_yaml
from broker.policy import Snapshot, build, explain

WORDS = (
    *(
        "apiVersion: aiaccess.dev/v1alpha1\n",
        "kind: AIAccessPolicy\n",
        "kind: AIRoutingPolicy\n",
        "metadata: {name: a, namespace: team1}\n",
        "spec:\n",
    ),
    *(
        "---\n",
        "  subjects:\n",
        "  - {spiffeID: 'spiffe://example.org/ns/team1/sa/agent'}\n",
        "  - spiffeIDPrefix: spiffe://example.org/ns/team1/\n",
    ),
    *(
        "  models: [gpt]\n",
        "  models: ['*']\n",
        "  action: Deny\n",
        "  action: Allow\n",
        "  mode: Shadow\n",
        "  mtls: {trustDomain: example.org}\n",
        "null",
    ),
    *(
        "  quotas: [{name: a, tokens: 1, per: Hour}]\n",
        "  features: [Storage]\n",
        "&a ",
        "*a",
        "!!str ",
        "<<: ",
        "{",
        "}",
        "[",
        "]",
        "- ",
        ": ",
        "'",
        '"',
        "#",
    ),
    *(
        "  providers: [{name: p, schema: OpenAI}]\n",
        "  models: [{name: gpt, backends: [{provider: p, model: real}]}]\n",
        "\t",
        "|\n",
        "? ",
        "\ufeff",
        "%YAML 1.1\n",
    ),
)
OTHER = "spiffe://example.org/ns/team1/sa/other"
STRANGER = "spiffe://other.example/ns/team1/sa/agent"
WORLD = tuple(
    one for text in (routing(), access("all", spec="{mtls: {trustDomain: example.org}, models: [gpt]}")) for one in documents(text)
)

NOTHING = ("", "~", "null", "Null", "NULL")

Fields = Mapping[object, object]


def check(data: bytes) -> None:
    try:
        read = tuple(read_yaml(data))
    except InvalidYaml:
        return
    plain = plainly(data)
    given = [read_document(one.value, Origin("fuzzed.yaml", one.marks), {}, tuple(one.faults)) for one in read]
    for one, document in zip(read, given, strict=True):
        check_document(one.value, document)
    if plain is not None and not any(one.faults for one in read):
        assert containers(one.value for one in read) == containers(plain)
    snapshot = build(collect([*WORLD, *given]), SETTINGS)
    for identity in (AGENT, OTHER, STRANGER):
        reached = is_allowed(snapshot, identity)
        assert (explain(snapshot, who(identity), "team1/gpt").code != "forbidden") is reached
        if reached and plain is not None and len(plain) == len(given):
            check_nothing_denies(plain, given, identity)


def plainly(data: bytes) -> list[object] | None:
    """As an easy-going reader has it: of a key that stands twice the last one counts, aliases are followed, every scalar is text."""
    try:
        read = list(yaml.load_all(data.decode("utf-8-sig"), Loader=yaml.CBaseLoader))
    except (yaml.YAMLError, TypeError, ValueError, RecursionError):  # an undefined alias, an unhashable key: no such reading
        return None
    return [one for one in read if one not in NOTHING]


def containers(values: Iterable[object]) -> list[object]:
    """The documents that are more than a word."""
    return [shape(value) for value in values if isinstance(value, dict | list)]


def shape(value: object) -> object:
    """Names and places of everything, without what the scalars mean."""
    if isinstance(value, dict):
        return {str(name): shape(inner) for name, inner in value.items()}
    return [shape(inner) for inner in value] if isinstance(value, list) else "."


def check_document(raw: object, document: Document | Stray) -> None:
    """An accepted object says all that was written, value by value: a field that is overlooked may have been a restriction."""
    if isinstance(document, RoutingPolicy | ProviderObject | AccessPolicy) and document.about.accepted:
        assert isinstance(raw, dict)
        assert set(raw) <= {"apiVersion", "kind", "metadata", "spec", "status"}
        if document.spec is not None:
            missing = list(overlooked(raw["spec"], msgspec.to_builtins(document.spec), "spec"))
            assert missing == [], f"accepted, but not read: {missing}"


def overlooked(raw: object, known: object, path: str) -> Iterator[str]:
    if isinstance(raw, dict) and isinstance(known, dict):
        for name, value in raw.items():
            yield from overlooked(value, known[name], f"{path}.{name}") if name in known else (f"{path}.{name}",)
    elif isinstance(raw, list) and isinstance(known, list | tuple) and len(raw) == len(known):
        for index, value in enumerate(raw):
            yield from overlooked(value, known[index], f"{path}[{index}]")
    elif raw != known:
        yield path


def is_allowed(snapshot: Snapshot, identity: str) -> bool:
    try:
        snapshot.decide(who(identity), "team1/gpt")
    except Forbidden:
        return False
    return True


def check_nothing_denies(plain: list[object], given: list[Document | Stray], identity: str) -> None:
    """The identity reaches team1's gpt: then no document may say, however it is read, that it must not."""
    for one, document in zip(plain, given, strict=True):
        if not isinstance(document, Stray):  # one that is none of our kinds for certain is reported, and does nothing
            assert not denies(one, identity), f"an identity that is denied got a grant: {one}"


def denies(raw: object, identity: str) -> bool:
    """A Deny of the model gpt of team1 for this identity, in so many words. What is wrong beside them takes nothing back."""
    fields = mapping(raw)
    if fields.get("kind") != "AIAccessPolicy":
        return False
    metadata, spec = mapping(fields.get("metadata")), mapping(fields.get("spec"))
    if metadata.get("namespace") not in ("team1", SETTINGS.namespace) or spec.get("action") != "Deny" or spec.get("mode") == "Shadow":
        return False
    models = spec.get("models")
    if models is not None and not (isinstance(models, list) and {"gpt", "*"} & {str(model) for model in models}):
        return False
    domain = mapping(spec.get("mtls")).get("trustDomain", "example.org")
    if not identity.startswith(f"spiffe://{domain}/"):
        return False
    subjects = spec.get("subjects")
    return isinstance(subjects, list) and any(names(mapping(subject), identity) for subject in subjects)


def names(subject: Fields, identity: str) -> bool:
    prefix = subject.get("spiffeIDPrefix")
    return subject.get("spiffeID") == identity or (isinstance(prefix, str) and prefix.endswith("/") and identity.startswith(prefix))


def mapping(value: object) -> Fields:
    return value if isinstance(value, dict) else {}
