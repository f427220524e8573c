"""Where the servers of these tests come from: a folder that is named, the cache, or one long build that says how far it is."""

from pathlib import Path

import pytest
from support.cluster import binaries
from support.cluster.binaries import PROGRAMS, NotBuilt, Program, build, find, place

LAMP = Program("lamp", "example.org/lamp", "lamps", "LAMP_BIN")
# A compiler that names two packages and makes a program; the first call fails as if the proxy had a bad moment, if there is a file "bad"
GO = """#!/bin/sh
if [ -e bad ]; then rm bad; echo "go: example.org/lamp: 502 Bad Gateway"; exit 1; fi
echo example.org/bulb; echo example.org/lamp
while [ "$1" != -o ]; do shift; done
printf '#!/bin/sh\\n' > "$2"; chmod +x "$2"; mkdir -p "$GOCACHE"
"""


@pytest.fixture
def tools(tmp_path, monkeypatch) -> Path:
    """A module with one program, an empty cache, and a Go that is quick."""
    module = tmp_path / "tools" / "lamps"
    module.mkdir(parents=True)
    (module / "go.mod").write_text("module lamps\n")
    (module / "go.sum").write_text("")
    go = tmp_path / "go"
    go.write_text(GO)
    go.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("LAMP_BIN", raising=False)
    monkeypatch.setattr(binaries, "TOOLS", module.parent)
    monkeypatch.setattr(binaries, "PROGRAMS", {"lamp": LAMP})
    monkeypatch.setattr(binaries, "_go", lambda: str(go))
    return module


def test_what_is_not_there_is_not_built_by_a_test(tools):
    with pytest.raises(NotBuilt, match="lamp is not on this machine: make test-cluster builds it, or LAMP_BIN names a folder with it"):
        find("lamp")


def test_a_build_says_what_it_makes_and_leaves_the_programs_alone(tools, tmp_path):
    said: list[str] = []
    build(said.append)
    assert said[0].startswith("building lamp into ")
    assert said[1].startswith("lamp: 0 MB after 0 min")
    assert find("lamp") == place(LAMP)
    left = sorted(path.name for path in (tmp_path / "cache" / "inference-broker" / "servers").iterdir())
    assert left == sorted(["lock", place(LAMP).parent.name])


def test_what_is_there_is_not_built_again(tools):
    build(lambda _: None)
    said: list[str] = []
    build(said.append)
    assert said == []


def test_other_versions_are_other_programs(tools):
    before = place(LAMP)
    (tools / "go.sum").write_text("example.org/bulb v2.0.0 h1:x=\n")
    assert place(LAMP) != before


def test_a_bad_moment_of_the_proxy_is_survived(tools):
    (tools / "bad").touch()
    build(lambda _: None)
    assert find("lamp").exists()


def test_a_build_that_fails_says_what_the_compiler_said(tools, monkeypatch):
    monkeypatch.setattr(binaries, "ATTEMPTS", 1)
    (tools / "bad").touch()
    with pytest.raises(NotBuilt, match="502 Bad Gateway"):
        build(lambda _: None)
    assert binaries.found(LAMP) is None


def test_a_named_folder_comes_first_and_the_cache_fills_the_gaps(tools, tmp_path, monkeypatch):
    build(lambda _: None)
    monkeypatch.setenv("LAMP_BIN", str(tmp_path / "mine"))
    assert find("lamp") == place(LAMP)
    mine = tmp_path / "mine" / "lamp"
    mine.parent.mkdir()
    mine.touch(mode=0o755)
    assert find("lamp") == mine


def test_the_environment_of_others_names_their_folders():
    assert {program.folder_variable for program in PROGRAMS.values()} == {"KUBEBUILDER_ASSETS", "SPIRE_BIN"}
    assert all((binaries.TOOLS / program.module / "go.sum").exists() for program in PROGRAMS.values())


def test_the_api_server_says_the_version_that_its_module_pins():
    flags = binaries._link_flags(PROGRAMS["kube-apiserver"])
    assert "version.gitVersion=v1.36." in flags
    assert "version.gitMinor=36" in flags
