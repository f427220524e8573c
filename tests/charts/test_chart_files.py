"""What a broker keeps in files, or reads from them: audit lines, and the keys that seal ids."""

import re
from pathlib import Path
from typing import Any

import pytest
from support.chart import LEAST, Object, Values, container, files, one, render

from broker import cli, config
from broker.audit import Rotation
from broker.sealing import keeping

MIB = 1 << 20


def settings(values: Values) -> dict[str, Any]:
    """What `broker serve` makes of its arguments."""
    args = vars(cli.build_parser()[0].parse_args(["serve", *container(render(values))["args"]]))
    return {switch.name: switch.value(args[switch.name], {"BROKER_QUOTA_STORE": "memory:"}) for switch in config.SERVE}


def volume(values: Values, name: str) -> Object | None:
    spec = one(render(values), "Deployment")["spec"]["template"]["spec"]
    found = [each for each in spec["volumes"] if each["name"] == name]
    mounts = [each for each in spec["containers"][0]["volumeMounts"] if each["name"] == name]
    assert len(found) == len(mounts) <= 1
    return {**found[0], "at": mounts[0]} if found else None


def file(**values: object) -> Values:
    return LEAST | {"broker": {"auditFile": {"enabled": True, **values}}}


def test_audit_lines_go_to_the_standard_output_unless_somebody_wants_a_file():
    assert settings(LEAST)["audit"] == "-"
    assert volume(LEAST, "audit") is None
    assert volume(file(), "audit")["at"] == {"name": "audit", "mountPath": "/var/log/inference-broker"}


def test_each_pod_writes_a_file_of_its_own():
    """Kubernetes puts the variable in; two brokers in one file would be one too many."""
    made = container(render(file()))
    (audit,) = [argument for argument in made["args"] if argument.startswith("--audit=")]
    assert audit == "--audit=/var/log/inference-broker/$(POD_NAME).jsonl"
    (variable,) = [each for each in made["env"] if each["name"] == "POD_NAME"]
    assert variable["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}


@pytest.mark.parametrize(("most", "keep"), [(64, 8), (1, 1), (4096, 9999)])
def test_a_volume_of_the_pods_own_holds_what_is_kept_and_the_pod_is_never_evicted(most, keep):
    values = file(maxMiB=most, keep=str(keep))
    told = settings(values)
    assert (told["audit_max_bytes"], told["audit_keep"].number) == (most * MIB, keep)
    (limit,) = re.fullmatch(r"(\d+)Mi", volume(values, "audit")["emptyDir"]["sizeLimit"]).groups()
    assert int(limit) * MIB == told["audit_max_bytes"] * (keep + 2)


@pytest.mark.parametrize(
    ("values", "kept"),
    [({}, (8, None)), ({"keep": "90d"}, (None, 90 * 86400)), ({"keep": "36h", "maxAge": "7d"}, (None, 36 * 3600)), ({"keep": ""}, None)],
    ids=str,
)
def test_on_a_claim_files_are_kept_by_number_by_age_or_for_ever(values, kept):
    told = settings(file(claimName="audit", **values))
    assert volume(file(claimName="audit"), "audit")["persistentVolumeClaim"] == {"claimName": "audit"}
    assert (kept and (told["audit_keep"].number, told["audit_keep"].age_s)) == kept
    Rotation(told["audit_max_bytes"], told["audit_max_age"], told["audit_keep"])  # takes them together


def test_the_notes_say_what_is_lost_with_a_pod():
    assert "gone with the Pod" in files(file())["NOTES.txt"]
    assert "gone with the Pod" not in files(file(claimName="audit"))["NOTES.txt"] + files(LEAST)["NOTES.txt"]


SEALED = LEAST | {"sealing": {"secretName": "sealing", "secretKey": "ids"}}


def test_sealing_keys_are_mounted_as_a_folder_so_that_a_rotation_arrives():
    made = volume(SEALED, "sealing-keys")
    assert made["secret"] == {"secretName": "sealing", "defaultMode": 0o440, "items": [{"key": "ids", "path": "ids"}]}
    assert made["at"] == {"name": "sealing-keys", "mountPath": "/etc/sealing-keys", "readOnly": True}
    assert settings(SEALED)["sealing_keys"] == Path("/etc/sealing-keys/ids")


def test_the_mode_of_the_mounted_file_is_one_that_a_broker_takes(tmp_path):
    keeping.make_file(tmp_path / "keys")
    (tmp_path / "keys").chmod(volume(SEALED, "sealing-keys")["secret"]["defaultMode"])
    assert len(keeping.KeyFile.open(tmp_path / "keys").ids) == 1


def test_without_a_secret_there_are_no_keys_and_the_notes_and_statuses_say_so():
    assert settings(LEAST)["sealing_keys"] is None
    assert volume(LEAST, "sealing-keys") is None
    assert "no sealing keys" in files(LEAST)["NOTES.txt"]
    assert "sealing" not in files(SEALED)["NOTES.txt"]
    told = [container(render(values), "inference-broker-controller")["args"] for values in (LEAST, SEALED)]
    assert ["--brokers-seal=false" in args for args in told] == [True, False]
    assert ["--brokers-seal=true" in args for args in told] == [False, True]


def test_no_account_may_read_the_secret_of_the_sealing_keys():
    """The kubelet brings it; an account that read it could make ids of any agent's."""
    named = [rule for made in render(SEALED) if "Role" in made["kind"] for rule in made.get("rules", ()) if "sealing" in str(rule)]
    assert named == []
