"""The chart as Helm renders it, in process."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import helm_python
import yaml

CHART = Path(__file__).parents[2] / "charts" / "inference-broker"
NAME = "inference-broker"
NAMESPACE = "inference-broker"

Object = dict[str, Any]
Values = Mapping[str, Any]

# As little as the chart demands, and everything that it can do
LEAST: Values = {"trustDomain": "example.org", "namespaces": ["team1", "team2"], "quotaStore": {"secretName": "quota-store"}}
MOST: Values = LEAST | {
    "image": {"digest": f"sha256:{'0' * 64}", "pullSecrets": ["registry"]},
    "sharedModelNamespaces": ["shared"],
    "secrets": {"team1": ["openai"], NAMESPACE: ["own-provider"]},
    "trustBundleConfigMaps": {"partner.example": "spire-system/partner-bundle"},
    "quotaStore": {
        "url": "rediss://broker@redis.example:6379/0?password-file=/etc/quota-store/password",
        "filesSecretName": "redis-files",
        "prefix": "prod/",
        "deadline": "500ms",
        "allowInsecure": True,
    },
    "sealing": {"secretName": "sealing"},
    "upstreams": {"allowHosts": ["10.0.0.0/8"], "plainHttpHosts": ["ollama.example:11434"], "allowInlineCredentials": True},
    "broker": {
        "autoscaling": {"enabled": True},
        "maxStaleness": "10m",
        "readOnAfterHangup": "30s",
        "auditKey": {"secretName": "audit"},
        "auditFile": {"enabled": True, "claimName": "audit", "maxAge": "24h", "keep": "90d"},
        "usage": {"socket": True, "mtlsPort": 9444, "identities": ["spiffe://example.org/ns/ops/sa/admin"]},
        "service": {"annotations": {"example.org/a": "b"}},
        "priorityClassName": "system-cluster-critical",
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "a", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "podAnnotations": {"example.org/a": "b"},
        "podLabels": {"example.org/a": "b"},
    },
    "webhook": {"certificate": {"mode": "cert-manager"}, "injection": {"excludedNamespaces": ["legacy"]}},
    "gateway": {"passthrough": True, "brokers": ["a.example:8443", "b.example:8443"]},
    "networkPolicy": {"metricsFrom": [{"namespaceSelector": {}}], "agentsFrom": [{"namespaceSelector": {}}], "egress": [{}]},
    "agentNetworkPolicy": {"namespaces": ["team1"], "extraEgress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "telemetry": {
        "otlp": {
            "endpoint": "http://collector.example:4318",
            "headersSecretName": "collector",
            "sampler": "traceidratio",
            "samplerRatio": "0.01",
            "content": True,
        }
    },
    "dashboard": {"enabled": True, "annotations": {"grafana_folder": "AI"}},
    "commonLabels": {"example.org/team": "platform"},
}


def render(values: Values = LEAST, name: str = NAME, namespace: str = NAMESPACE) -> list[Object]:
    """The objects of a release, those of hooks included.

    Raises:
        helm_python.HelmError: the values are wrong; the message says which.
    """
    texts = files(values, name, namespace)
    return [made for file, text in texts.items() if file.endswith(".yaml") for made in yaml.safe_load_all(text) if made]


def files(values: Values = LEAST, name: str = NAME, namespace: str = NAMESPACE) -> dict[str, str]:
    """What each template becomes, by its path within the chart."""
    with helm_python.Chart.load(str(CHART)) as chart:
        chart.validate_schema(dict(values))
        made = chart.render(dict(values), name=name, namespace=namespace)
    return {file.partition("/templates/")[2]: text for file, text in made.items()}


def one(objects: list[Object], kind: str, name: str = NAME) -> Object:
    (found,) = (made for made in objects if made["kind"] == kind and made["metadata"]["name"] == name)
    return found


def container(objects: list[Object], deployment: str = NAME) -> Object:
    """The only container of its Pods."""
    (found,) = one(objects, "Deployment", deployment)["spec"]["template"]["spec"]["containers"]
    return found


def pods(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """Who makes it, and its spec."""
    for made in objects:
        if made["kind"] == "Pod":
            yield made["metadata"]["name"], made["spec"]
        elif "template" in made.get("spec", {}):
            yield made["metadata"]["name"], made["spec"]["template"]["spec"]


class Right(NamedTuple):
    """What one service account of ours may do, where; `names` empty = to all of them."""

    account: str
    where: str
    what: str
    names: tuple[str, ...]
    verbs: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.account} | {self.where} | {self.what} | {', '.join(self.names) or 'all'} | {', '.join(self.verbs)}"


def rights(objects: list[Object]) -> list[Right]:
    """What the bindings give, one line a resource."""
    found = []
    for binding in objects:
        if not binding["kind"].endswith("RoleBinding"):
            continue
        where = binding["metadata"].get("namespace", "everywhere")
        role = next(
            made
            for made in objects
            if (made["kind"], made["metadata"]["name"]) == (binding["roleRef"]["kind"], binding["roleRef"]["name"])
            and made["metadata"].get("namespace", "everywhere") == where
        )
        for subject in binding["subjects"]:
            for rule in role["rules"]:
                for group in rule["apiGroups"]:
                    for resource in rule["resources"]:
                        what = f"{resource}.{group}" if group else resource
                        names, verbs = tuple(rule.get("resourceNames", ())), tuple(rule["verbs"])
                        found.append(Right(subject["name"], where, what, names, verbs))
    return sorted(found)
