"""Objects as the API server hands them out: with a uid, a generation, and no file."""

from collections.abc import Iterable
from typing import Any

import yaml

from broker.objects import Resources, collect, read_document
from broker.policy import Settings, Snapshot, build

from .worlds import SETTINGS


def stored(*texts: str, generation: int = 1) -> list[dict[str, Any]]:
    """What was applied, with what the API server adds."""
    objects = [one for text in texts for one in yaml.safe_load_all(text) if one]
    for number, one in enumerate(objects):
        added = {"uid": f"uid-{number}", "generation": generation, "creationTimestamp": f"2026-11-17T12:00:{number:02}Z"}
        one["metadata"] = {"namespace": "default", **added, **one["metadata"]}
    return objects


def resources_of(objects: Iterable[dict[str, Any]]) -> Resources:
    return collect(read_document(one) for one in objects)


def snapshot_of(*texts: str, generation: int = 1, settings: Settings = SETTINGS) -> Snapshot:
    return build(resources_of(stored(*texts, generation=generation)), settings)
