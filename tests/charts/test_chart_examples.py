"""What examples/02-kubernetes gives to Helm and kubectl fits together, and the Redis of it is one that the broker takes."""

from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from support.asks import ask
from support.chart import container, render
from support.pod_security import breaches
from support.redis_server import LEAST_RIGHTS, redis_server

from broker.grant import Budget, Per, Unit
from broker.ledger.redis import RedisLedger

FOLDER = Path(__file__).parents[2] / "examples" / "02-kubernetes"
VALUES = yaml.safe_load((FOLDER / "values.yaml").read_text())
REDIS = {(made["kind"], made["metadata"]["name"]): made for made in yaml.safe_load_all((FOLDER / "redis.yaml").read_text())}
TEAMS: list[Any] = [made for file in FOLDER.glob("team*/*.yaml") for made in yaml.safe_load_all(file.read_text()) if made]

COUNTER = "{team1}/AIAccessPolicy/weather-agents/hourly/tokens/Hour/identity/spiffe://example.org/ns/team1/sa/weather-agent"


def test_the_values_render_and_name_the_namespaces_and_secrets_of_the_teams():
    assert container(render(VALUES))["args"]
    assert set(VALUES["namespaces"]) == {made["metadata"]["name"] for made in TEAMS if made["kind"] == "Namespace"}
    named = [(namespace, name) for namespace, names in VALUES["secrets"].items() for name in names]
    assert sorted(named) == sorted((made["metadata"]["namespace"], made["metadata"]["name"]) for made in TEAMS if made["kind"] == "Secret")


def test_the_quota_store_is_the_secret_beside_it():
    (variable,) = container(render(VALUES))["env"]
    reference = variable["valueFrom"]["secretKeyRef"]
    secret = REDIS["Secret", reference["name"]]
    assert secret["metadata"]["namespace"] == "inference-broker"
    assert secret["stringData"][reference["key"]].startswith("redis://broker:change-this@redis.inference-broker.svc:6379/")


def test_its_redis_runs_in_a_restricted_namespace():
    assert list(breaches(REDIS["StatefulSet", "redis"]["spec"]["template"]["spec"])) == []
    for made in REDIS.values():
        kubernetes_validate.validate(made, "1.36", strict=True)


async def test_its_redis_is_one_that_the_broker_counts_in(tmp_path: Path):
    """With the lines of its configuration, and the URL of the Secret but for the host."""
    conf: str = REDIS["Secret", "redis"]["stringData"]["redis.conf"]
    assert LEAST_RIGHTS in conf
    lines = [line.split() for line in conf.splitlines() if not line.startswith("dir ")]
    url: str = REDIS["Secret", "quota-store"]["stringData"]["url"]
    with redis_server(tmp_path, *(word for first, *rest in lines for word in (f"--{first}", *rest))) as server:
        here = url.replace("redis.inference-broker.svc:6379", f"127.0.0.1:{server.port}")
        ledger = await RedisLedger.open(here, allow_insecure=VALUES["quotaStore"]["allowInsecure"])
        try:
            assert await ledger.hold(ask(Budget(COUNTER, Unit.TOTAL_TOKENS, 1000, Per.HOUR)))
            assert await ledger.open_holds() == 1
        finally:
            await ledger.close()
