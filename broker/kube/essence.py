"""What of an object matters to us. Pure."""

from collections.abc import Mapping
from typing import Final

from broker.names import GROUP
from broker.objects.reading import as_mapping

_ABOUT: Final = ("name", "namespace", "uid", "generation", "creationTimestamp")


def essence(raw: Mapping[str, object]) -> Mapping[str, object]:
    """All that its owner wrote, and which object it is.

    Not its status, its resourceVersion or who manages which field. Of the annotations ours alone: kubectl keeps a copy of the
    whole object in one, which in a Secret is the key.
    """
    metadata = as_mapping(raw.get("metadata")) or {}
    annotations = as_mapping(metadata.get("annotations")) or {}
    kept: dict[str, object] = {name: metadata[name] for name in _ABOUT if name in metadata}
    if ours := {name: text for name, text in annotations.items() if name.startswith(f"{GROUP}/")}:
        kept["annotations"] = ours
    return {**{name: value for name, value in raw.items() if name != "status"}, "metadata": kept}
