"""docs/webhook.md says what is so."""

import re
from pathlib import Path

from support.admission import GATEWAY

from broker import names, sdk_env
from webhook import config, sidecar

TEXT = (Path(__file__).parent.parent.parent / "docs" / "webhook.md").read_text(encoding="utf-8")


def row(switch):
    default = "required" if switch.default is None and not switch.optional else f"`{switch.default}`" if switch.default else "none"
    return f"| `{switch.flag} {switch.metavar}` | `{switch.variable}` | {default} | {switch.help} |"


def test_every_switch_is_documented_as_it_is():
    assert [line for line in TEXT.splitlines() if line.startswith("| `--")] == [row(switch) for switch in config.SWITCHES]


def test_every_variable_of_every_dialect_is_documented_with_its_value():
    expected = [
        (dialect, name, value)
        for dialect in sdk_env.BY_DIALECT
        for name, value in sdk_env.of_dialect(dialect, names.GATEWAY_PORT, names.PLACEHOLDER_KEY).items()
    ]
    assert re.findall(r"^\| `(\w+)` \| `(\w+)` \| `([^`]+)` \|$", TEXT, re.MULTILINE) == expected


def test_every_name_that_others_rely_on_is_documented():
    ours = (names.INJECT, names.DIALECTS_ANNOTATION, names.PORT_ANNOTATION, names.INJECTED_ANNOTATION, names.GATEWAY_CONTAINER)
    assert [name for name in (*ours, sidecar.NO_TOKEN_VOLUME, GATEWAY.spiffe_csi_driver) if f"`{name}`" not in TEXT] == []
