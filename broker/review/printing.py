"""How the commands answer: as text, JSON or YAML, and with which exit codes."""

import json
from collections.abc import Callable, Mapping
from typing import Final, Literal, TextIO

import yaml

from broker.objects import Resources

Output = Literal["text", "table", "json", "yaml", "markdown"]
Read = Callable[[], Resources]  # raises files.Unreadable when there is no telling what the objects say

OK: Final = 0
WRONG: Final = 1
USAGE: Final = 2
REFUSED: Final = 3
GAINED: Final = 4


def write(report: Mapping[str, object], text: str, output: Output, stdout: TextIO) -> None:
    """The report for programs, or the text for eyes."""
    if output == "json":
        stdout.write(json.dumps(report, indent=2) + "\n")
    elif output == "yaml":
        yaml.safe_dump(report, stdout, sort_keys=False, allow_unicode=True, width=120)
    else:
        stdout.write(text + "\n")
