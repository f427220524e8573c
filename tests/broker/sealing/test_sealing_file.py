"""The file of the keys: what ends a start, and what happens to a broker that runs when it changes."""

import asyncio
import base64
import logging
import os
import stat
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from broker.config import ConfigError
from broker.sealing import Home, Key, Kind, NotYours
from broker.sealing.keeping import FILE_BYTES, KeyFile, make_file

OWNER = "spiffe://example.org/ns/team1/sa/agent"
HOME = Home("team1", "gpt-4o", "team1/openai", "https://api.openai.com:443/v1", "gpt-4o")
ONE, TWO, THREE = os.urandom(64), os.urandom(64), os.urandom(64)
POLL_S = 0.01
DEADLINE_S = 10.0


def text_of(*secrets: bytes) -> bytes:
    return b"".join(base64.b64encode(secret) + b"\n" for secret in secrets)


def ids_of(*secrets: bytes) -> list[str]:
    return [Key(secret).id.hex() for secret in secrets]


def put(file: Path, text: bytes, mode: int = 0o600) -> None:
    """In one step: a reader sees the old file or the new one."""
    unfinished = file.with_name("unfinished")
    unfinished.write_bytes(text)
    unfinished.chmod(mode)
    unfinished.rename(file)


@pytest.fixture
def path(tmp_path) -> Path:
    file = tmp_path / "sealing-keys"
    put(file, text_of(ONE))
    return file


@asynccontextmanager
async def kept(file: KeyFile):
    task = asyncio.get_running_loop().create_task(file.keep(POLL_S))
    yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def until(true) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not true():
            await asyncio.sleep(POLL_S)


def said(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        KeyFile.open(path)
    return str(caught.value)


def test_a_file_that_is_not_there_ends_the_start(tmp_path):
    assert said(tmp_path / "no") == f"--sealing-keys {tmp_path}/no: No such file or directory: give a file of keys that this user may read"


def test_a_link_to_nothing_ends_the_start(tmp_path):
    (tmp_path / "keys").symlink_to("..data/keys")
    assert "No such file" in said(tmp_path / "keys")


def test_a_file_that_may_not_be_read_ends_the_start(monkeypatch, path):
    """Root may read every file, so the system's answer is the test's."""

    def refuse(*_args: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    assert said(path) == f"--sealing-keys {path}: Permission denied: give a file of keys that this user may read"


def test_a_folder_ends_the_start(tmp_path):
    assert said(tmp_path) == f"--sealing-keys {tmp_path}: Is a directory: give a file of keys that this user may read"


@pytest.mark.timeout(20)
def test_a_pipe_ends_the_start_and_nobody_waits_for_it(tmp_path):
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert said(tmp_path / "pipe") == f"--sealing-keys {tmp_path}/pipe: is no file: give one with a key a line"


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666, 0o660])
def test_a_file_that_others_may_write_ends_the_start(path, mode):
    path.chmod(mode)
    assert said(path) == f"--sealing-keys {path}: has mode {mode:04o}, so that others could put a key of theirs in: chmod it to 0400"


@pytest.mark.parametrize("mode", [0o400, 0o440, 0o444, 0o600])
def test_a_file_as_the_kubelet_mounts_it_is_taken(path, mode):
    path.chmod(mode)
    assert KeyFile.open(path).ids == ids_of(ONE)


def test_a_file_that_is_much_too_long_ends_the_start(path):
    path.write_bytes(b"#" * (FILE_BYTES + 1))
    assert said(path) == f"--sealing-keys {path}: has more than {FILE_BYTES} bytes: give one with keys alone"


@pytest.mark.parametrize(("text", "says"), [(b"", "there is no key in it"), (b"\nxyz\n", "line 2 is not base64")])
def test_a_file_of_other_things_ends_the_start(path, text, says):
    path.write_bytes(text)
    assert said(path).startswith(f"--sealing-keys {path}: {says}; make ")


async def test_a_changed_file_is_in_force_without_a_restart(path):
    file = KeyFile.open(path)
    before = file.seals.seal(OWNER, Kind.RESPONSE, HOME, "resp_1")
    async with kept(file):
        put(path, text_of(TWO, ONE))
        await until(lambda: file.ids == ids_of(TWO, ONE))
    after = file.seals.seal(OWNER, Kind.RESPONSE, HOME, "resp_1")
    assert after != before
    assert file.seals.open(OWNER, Kind.RESPONSE, before) == file.seals.open(OWNER, Kind.RESPONSE, after) == (HOME, "resp_1")


def mounted(folder: Path, name: str, text: bytes) -> None:
    """As the kubelet writes a Secret: the file is a link into ..data, which is a link that is replaced by one rename."""
    (folder / name).mkdir()
    (folder / name / "keys").touch(mode=0o400)
    (folder / name / "keys").write_bytes(text)
    (folder / "..data_tmp").symlink_to(name)
    (folder / "..data_tmp").rename(folder / "..data")


async def test_a_mounted_secret_that_changes_is_in_force_and_its_old_folder_is_not_missed(tmp_path):
    mounted(tmp_path, "..2026_01", text_of(ONE))
    (tmp_path / "keys").symlink_to("..data/keys")
    file = KeyFile.open(tmp_path / "keys")
    async with kept(file):
        for name, secrets in (("..2026_02", (ONE, TWO)), ("..2026_03", (TWO, ONE)), ("..2026_04", (TWO,))):
            old = (tmp_path / "..data").readlink()
            mounted(tmp_path, name, text_of(*secrets))
            (tmp_path / old / "keys").unlink()
            (tmp_path / old).rmdir()
            await until(lambda secrets=secrets: file.ids == ids_of(*secrets))
    assert file.wrong == ""


@pytest.mark.parametrize("broken", [b"", b"rubbish\n", text_of(ONE, ONE), None], ids=["empty", "rubbish", "twice", "gone"])
async def test_a_broken_new_file_leaves_the_keys_as_they_are_and_says_so_once(path, caplog, broken):
    file = KeyFile.open(path)
    before = file.seals.seal(OWNER, Kind.RESPONSE, HOME, "resp_1")
    async with kept(file):
        if broken is None:
            path.unlink()
        else:
            put(path, broken)
        await until(lambda: file.wrong)
        await asyncio.sleep(5 * POLL_S)
        assert file.seals.open(OWNER, Kind.RESPONSE, before) == (HOME, "resp_1")
        assert file.seals.seal(OWNER, Kind.RESPONSE, HOME, "resp_1") == before
        errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
        assert [(one.message, one.reason) for one in errors] == [("sealing_keys_unusable", file.wrong)]
        assert file.wrong.startswith(f"--sealing-keys {path}: ")
        put(path, text_of(ONE, TWO))
        await until(lambda: file.ids == ids_of(ONE, TWO))
    assert file.wrong == ""


async def test_a_file_that_is_mended_to_what_it_was_is_well_again(path):
    file = KeyFile.open(path)
    async with kept(file):
        put(path, b"rubbish\n")
        await until(lambda: file.wrong)
        put(path, text_of(ONE))
        await until(lambda: not file.wrong)
    assert file.ids == ids_of(ONE)


async def test_a_file_that_others_may_write_from_now_on_is_not_read_any_more(path):
    file = KeyFile.open(path)
    async with kept(file):
        put(path, text_of(TWO), 0o666)
        await until(lambda: file.wrong)
    assert file.ids == ids_of(ONE)
    assert "has mode 0666" in file.wrong


@pytest.mark.parametrize(
    ("text", "event"),
    [
        (text_of(TWO), "sealing_keys_without_overlap"),
        (text_of(TWO, ONE), "sealing_key_before_its_time"),
        (text_of(ONE, TWO), None),
    ],
    ids=["all others", "a new one first", "a new one last"],
)
def test_a_rotation_that_skips_a_step_is_warned_of(path, caplog, text, event):
    file = KeyFile.open(path)
    file.take(text)
    assert [one.message for one in caplog.records if one.levelno == logging.WARNING] == ([event] if event else [])


def test_the_log_says_which_keys_and_no_key(path, caplog):
    caplog.set_level(logging.DEBUG)
    file = KeyFile.open(path)
    file.take(text_of(TWO, THREE))
    with suppress(ConfigError):
        file.take(text_of(THREE, THREE))
    lines = [str(vars(record)) for record in caplog.records]
    assert str(ids_of(TWO, THREE)) in "".join(lines)
    for secret in (ONE, TWO, THREE):
        written = base64.b64encode(secret).decode()
        assert not any(written[i : i + 8] in text or secret.hex()[i : i + 16] in text for text in lines for i in range(0, 80, 4))


def test_a_stranger_with_another_file_opens_nothing(path, tmp_path):
    other = tmp_path / "other"
    put(other, text_of(TWO))
    sealed = KeyFile.open(path).seals.seal(OWNER, Kind.RESPONSE, HOME, "resp_1")
    with pytest.raises(NotYours):
        KeyFile.open(other).seals.open(OWNER, Kind.RESPONSE, sealed)


def test_a_made_file_is_private_can_be_read_and_is_kept(tmp_path):
    file = tmp_path / "keys"
    make_file(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    ids, text = KeyFile.open(file).ids, file.read_bytes()
    make_file(file)
    assert file.read_bytes() == text
    assert len(ids) == 1
    assert list(tmp_path.iterdir()) == [file]


def test_a_making_that_was_cut_off_is_begun_anew(tmp_path):
    (tmp_path / "keys.new").write_bytes(b"half a k")
    make_file(tmp_path / "keys")
    assert len(KeyFile.open(tmp_path / "keys").ids) == 1
    assert list(tmp_path.iterdir()) == [tmp_path / "keys"]
