"""A broker and the file of its sealing keys, from its start through rotations to what its operator sees of it."""

import asyncio
import base64
import os
import re
import stat
from pathlib import Path

import pytest
from support.fake_provider import FakeProvider
from support.objects_yaml import access, routing
from support.provider_words import CHAT
from support.stack import AGENT, stack

from broker import cli
from broker.config import ConfigError
from broker.sealing import Key, keeping

ONE, TWO = os.urandom(64), os.urandom(64)
ASK = {"model": "gpt", "messages": [{"role": "user", "content": "hi"}]}


def put(path: Path, *secrets: bytes) -> Path:
    """In one step, as the kubelet does."""
    unfinished = path.with_name("unfinished")
    unfinished.write_bytes(b"".join(base64.b64encode(secret) + b"\n" for secret in secrets))
    unfinished.chmod(0o400)
    unfinished.rename(path)
    return path


def shown(metrics: str) -> tuple[dict[str, float], float]:
    """The keys by their id, and whether they are stale."""
    keys = {key: float(value) for key, value in re.findall(r'^aiaccess_sealing_keys\{key="(\w+)"\} (\S+)$', metrics, re.MULTILINE)}
    (stale,) = re.findall(r"^aiaccess_sealing_keys_stale (\S+)$", metrics, re.MULTILINE)
    return keys, float(stale)


def ids(*secrets: bytes) -> list[str]:
    return [Key(secret).id.hex() for secret in secrets]


async def until_shown(it, expected) -> None:
    async with asyncio.timeout(20):
        while shown(await it.metrics()) != expected:
            await asyncio.sleep(0.05)


async def test_its_operator_sees_which_keys_it_has_and_when_their_file_is_broken(tmp_path, monkeypatch):
    monkeypatch.setattr(keeping.KeyFile.keep, "__defaults__", (0.05,))
    path = put(tmp_path / "keys", ONE)
    (one,), (two,) = ids(ONE), ids(TWO)
    async with stack(tmp_path, routing(1) + access(), [AGENT], sealing_keys=path) as it:
        assert shown(await it.metrics()) == ({one: 1.0}, 0.0)
        put(path, ONE, TWO)
        await until_shown(it, ({one: 1.0, two: 0.0}, 0.0))
        put(path, TWO, ONE)
        await until_shown(it, ({two: 1.0, one: 0.0}, 0.0))
        put(path)
        await until_shown(it, ({two: 1.0, one: 0.0}, 1.0))
        put(path, TWO)
        await until_shown(it, ({two: 1.0}, 0.0))


async def test_without_keys_it_serves_and_shows_none(tmp_path):
    async with FakeProvider(CHAT) as provider, stack(tmp_path, routing(provider.port) + access(), [AGENT]) as it:
        await it.openai(AGENT).chat.completions.create(**ASK)
        assert "sealing" not in await it.metrics()


async def test_a_broken_file_ends_the_start_with_what_to_do(tmp_path):
    path = put(tmp_path / "keys")
    with pytest.raises(ExceptionGroup) as caught:
        async with stack(tmp_path, routing(1) + access(), [AGENT], sealing_keys=path):
            pytest.fail("it started")
    (wrong,) = caught.value.exceptions
    assert isinstance(wrong, ConfigError)
    assert str(wrong).startswith(f"--sealing-keys {path}: there is no key in it; make one with: ")


async def test_no_key_is_in_what_it_logs_and_shows(tmp_path, caplog):
    caplog.set_level("DEBUG")
    path = put(tmp_path / "keys", ONE, TWO)
    async with stack(tmp_path, routing(1) + access(), [AGENT], sealing_keys=path) as it:
        told = await it.metrics() + str([vars(record) for record in caplog.records])
    assert ids(ONE)[0] in told
    for secret in (ONE, TWO):
        written = base64.b64encode(secret).decode()
        assert not any(written[at : at + 8] in told for at in range(0, 80, 4))


def test_broker_dev_makes_a_key_of_its_own_and_keeps_it(tmp_path, monkeypatch):
    made = []

    async def look(settings, stop, started=None) -> None:
        made.append(settings.sealing_keys.read_bytes())
        assert settings.sealing_keys.parent == tmp_path / "state"
        assert stat.S_IMODE(settings.sealing_keys.stat().st_mode) == 0o600
        keeping.KeyFile.open(settings.sealing_keys)
        raise ConfigError("seen")

    monkeypatch.setattr("broker.wiring.run", look)
    for _ in range(2):
        args = ["dev", "--state", str(tmp_path / "state"), "--workload", f"{AGENT}=0", "--resources", str(tmp_path)]
        assert cli.main(args) == 1
    assert made[0] == made[1]
