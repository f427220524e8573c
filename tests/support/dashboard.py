"""The dashboard of the chart: its queries, and what of our metrics they name."""

import json
import re
from collections.abc import Iterator
from typing import Any

from support.chart import CHART

FILE = CHART / "dashboards" / "inference-broker.json"
VARIABLES = {"$__rate_interval": "1m", "$namespace": ".*", "$model": ".*"}
SELECTOR = re.compile(r"\b((?:aiaccess|process)_\w+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
GROUPING = re.compile(r"\b(?:by|on|group_left|without|ignoring)\s*\(([^)]*)\)")
OF_THE_SCRAPE = {"instance", "job", "le"}  # le: of the buckets of a histogram


def panels() -> Iterator[dict[str, Any]]:
    for panel in json.loads(FILE.read_text())["panels"]:
        if panel["type"] != "row":
            yield panel


def queries() -> list[str]:
    """Every query as it stands."""
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def asked(query: str) -> str:
    """As Grafana would send it, everything chosen."""
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    return query


def metrics_of(query: str) -> set[str]:
    return {name for name, _ in SELECTOR.findall(query)}


def labels_of(query: str) -> set[str]:
    """Every label that the query names, but those that Prometheus adds."""
    named = {label for _, matchers in SELECTOR.findall(query) for label in MATCHER.findall(matchers)}
    for group in GROUPING.findall(query):
        named |= {label.strip() for label in group.split(",") if label.strip()}
    return named - OF_THE_SCRAPE
