"""A folder of YAML as the source of objects: what is read, what is refused, what a change does."""

import asyncio
import logging
import os
from pathlib import Path

import pytest
from support.worlds import access, files, routing, secret

from broker.credentials import SecretRef
from broker.files import Folder, Unreadable
from broker.objects import Resources


def read(folder: Path, environment: dict[str, str] | None = None) -> Resources:
    return Folder(folder, environment or {}).read()


def names(resources: Resources) -> list[str]:
    return [policy.about.name for policy in resources.access]


def test_every_yaml_file_below_the_folder_is_read_and_no_other(tmp_path: Path):
    files(
        tmp_path,
        {
            "a.yaml": access("a"),
            "deep/er/b.yml": access("b") + access("c"),
            "notes.txt": "no: [yaml",
            ".hidden.yaml": access("hidden"),
            "..data/d.yaml": access("twice"),
            "empty.yaml": "# nothing\n",
        },
    )
    assert names(read(tmp_path)) == ["a", "b", "c"]


def test_a_single_file_is_read_too(tmp_path: Path):
    files(tmp_path, {"a.yaml": access("a"), "b.yaml": access("b")})
    assert names(read(tmp_path / "b.yaml")) == ["b"]


def test_files_that_are_links_as_in_a_mounted_configmap_are_read(tmp_path: Path):
    files(tmp_path, {"..2026/a.yaml": access("a")})
    (tmp_path / "..data").symlink_to("..2026")
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")
    assert names(read(tmp_path)) == ["a"]


def test_the_namespace_is_default_unless_said(tmp_path: Path):
    files(tmp_path, {"a.yaml": access().replace(", namespace: team1", "")})
    assert read(tmp_path).access[0].about.namespace == "default"


def test_secrets_read_the_environment_that_is_handed_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AMBIENT", "sk-ambient")
    files(tmp_path, {"s.yaml": secret(data='{a: "${env:GIVEN}", b: "${env:AMBIENT}"}')})
    found = read(tmp_path, {"GIVEN": "sk-1"})
    assert found.secrets[0].keys == {"a"}
    assert found.credentials[SecretRef("team1", "keys", "a")].reveal() == "sk-1"
    (fault,) = found.secrets[0].about.faults
    assert (fault.path, "AMBIENT" in fault.message) == ("stringData.b", True)
    assert found.secrets[0].about.place(fault.path) == f"{tmp_path}/s.yaml:5:33"


def test_the_same_object_in_two_files_is_an_error_of_both(tmp_path: Path):
    files(tmp_path, {"a.yaml": access(), "b.yaml": access()})
    assert [str(policy.about.faults[0]) for policy in read(tmp_path).access] == [
        f"AIAccessPolicy team1/access is also at {tmp_path}/b.yaml:2:1; an object is there once",
        f"AIAccessPolicy team1/access is also at {tmp_path}/a.yaml:2:1; an object is there once",
    ]


def test_a_start_fails_on_a_file_that_is_no_yaml_and_names_each(tmp_path: Path):
    files(tmp_path, {"a.yaml": "a: [", "b.yaml": access(), "c.yaml": "x: y: z\n"})
    with pytest.raises(Unreadable) as raised:
        read(tmp_path)
    assert [problem.rpartition(": is no")[0].rpartition("/")[2] for problem in raised.value.problems] == ["a.yaml:2:1", "c.yaml:1:5"]


def test_a_start_fails_on_a_folder_that_is_not_there(tmp_path: Path):
    with pytest.raises(Unreadable, match="neither a folder nor a file"):
        read(tmp_path / "absent")


def test_a_start_fails_on_what_cannot_be_opened_as_a_file(tmp_path: Path):
    for name, told in (
        ("loop.yaml", "cannot be read"),
        ("gone.yaml", "a link to a file that is not there"),
        ("pipe.yaml", "no regular file"),
    ):
        place = tmp_path / name
        if name == "pipe.yaml":
            os.mkfifo(place)
        else:
            place.symlink_to("loop.yaml" if name == "loop.yaml" else "nowhere")
        with pytest.raises(Unreadable, match=told):
            read(tmp_path)
        place.unlink()


def test_the_bounds_of_files_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("broker.files.FILE_BYTES", 100)
    files(tmp_path, {"a.yaml": "# " + "x" * 200})
    with pytest.raises(Unreadable, match="more than 100 bytes"):
        read(tmp_path)
    monkeypatch.setattr("broker.files.FILES", 0)
    with pytest.raises(Unreadable, match="more than 0 YAML files"):
        read(tmp_path)


def test_nothing_is_reread_while_nothing_changes(tmp_path: Path):
    files(tmp_path, {"a.yaml": access("a")})
    folder = Folder(tmp_path, {})
    folder.read()
    assert [folder.reread() for _ in range(20)] == [None] * 20


def test_a_changed_added_or_removed_file_is_reread(tmp_path: Path):
    files(tmp_path, {"a.yaml": access("a")})
    folder = Folder(tmp_path, {})
    folder.read()
    seen = []
    for change in ({"a.yaml": access("changed")}, {"sub/b.yaml": access("b")}):
        files(tmp_path, change)
        again = folder.reread()
        assert again is not None
        seen.append(names(again))
    (tmp_path / "a.yaml").unlink()
    last = folder.reread()
    assert last is not None
    assert [*seen, names(last)] == [["changed"], ["b", "changed"], ["b"]]


def test_a_file_that_is_written_again_with_the_same_content_changes_nothing(tmp_path: Path):
    files(tmp_path, {"a.yaml": access("a")})
    folder = Folder(tmp_path, {})
    folder.read()
    os.utime(tmp_path / "a.yaml", ns=(1, 1))
    assert folder.reread() is None


def test_an_edit_that_leaves_length_and_time_alone_is_seen_soon_after_another(tmp_path: Path):
    files(tmp_path, {"a.yaml": access("a")})
    folder = Folder(tmp_path, {})
    folder.read()
    files(tmp_path, {"a.yaml": access("b")})
    assert folder.reread() is not None
    was = (tmp_path / "a.yaml").stat()
    files(tmp_path, {"a.yaml": access("c")})
    os.utime(tmp_path / "a.yaml", ns=(was.st_atime_ns, was.st_mtime_ns))
    again = folder.reread()
    assert again is not None
    assert names(again) == ["c"]


def test_a_file_that_becomes_no_yaml_is_told_once_and_read_when_it_is_mended(tmp_path: Path):
    files(tmp_path, {"a.yaml": access("a")})
    folder = Folder(tmp_path, {})
    folder.read()
    files(tmp_path, {"a.yaml": "a: ["})
    with pytest.raises(Unreadable):
        folder.reread()
    assert folder.reread() is None
    files(tmp_path, {"a.yaml": access("mended")})
    again = folder.reread()
    assert again is not None
    assert names(again) == ["mended"]


def test_a_folder_that_goes_is_told_once_and_read_when_it_comes_back(tmp_path: Path):
    folder_path = files(tmp_path / "objects", {"a.yaml": access("a")})
    folder = Folder(folder_path, {})
    folder.read()
    folder_path.rename(tmp_path / "moved")
    with pytest.raises(Unreadable):
        folder.reread()
    assert folder.reread() is None
    (tmp_path / "moved").rename(folder_path)
    again = folder.reread()
    assert again is not None
    assert names(again) == ["a"]


async def test_changes_yields_each_change_and_says_loudly_what_it_cannot_read(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.ERROR, "broker.files")
    files(tmp_path, {"a.yaml": access("a")})
    folder = Folder(tmp_path, {})
    folder.read()
    changes = folder.changes(poll_s=0.001)

    async def following() -> Resources:
        return await anext(changes)

    files(tmp_path, {"a.yaml": access("changed")})
    assert names(await following()) == ["changed"]
    files(tmp_path, {"b.yaml": "secret: [sk-canary"})
    waiting = asyncio.ensure_future(following())
    async with asyncio.timeout(30):
        while not caplog.records:
            await asyncio.sleep(0.001)
    assert not waiting.done()
    assert caplog.records[0].getMessage() == "resources_unreadable"
    assert "b.yaml" in caplog.records[0].problems[0]
    assert "sk-canary" not in str(vars(caplog.records[0]))
    files(tmp_path, {"b.yaml": routing()})
    assert len((await waiting).routing) == 1
    await changes.aclose()


DENY = """apiVersion: aiaccess.dev/v1alpha1
kind: AIAccessPolicy
metadata: {name: stop, namespace: team1}
spec: {action: Deny, subjects: [{spiffeID: 'spiffe://example.org/ns/team1/sa/agent'}]}
"""


@pytest.mark.parametrize(
    "text",
    [
        DENY.replace("kind:", "kind: AIProvider\nkind:"),
        DENY.replace("kind: ", "kind: !!str "),
        "--- &a\n" + DENY,
        "--- !!map\n" + DENY,
        "apiVersion: v1\nkind: List\nitems:\n- " + DENY.replace("\n", "\n  "),
    ],
    ids=["kind twice", "tagged kind", "anchor", "tagged document", "list"],
)
def test_what_may_be_a_deny_and_cannot_be_told_makes_its_file_unreadable(tmp_path: Path, text: str):
    files(tmp_path, {"a.yaml": access("a"), "b.yaml": text})
    with pytest.raises(Unreadable, match=r"b\.yaml:\d+:\d+: .*may be an AIAccessPolicy that denies"):
        read(tmp_path)
