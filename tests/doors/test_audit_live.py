"""A running broker whose log is rotated: every exchange is in it once, and nothing is answered while it cannot be written."""

import asyncio
import json
from pathlib import Path

import httpx2 as httpx
from support.audit_logs import KEY
from support.fake_provider import FakeProvider
from support.objects_yaml import access, routing
from support.provider_words import CHAT
from support.stack import AGENT, stack

from broker import cli
from broker.measures import Kept

QUESTION = {"model": "gpt", "messages": [{"role": "user", "content": "hello"}]}


def answer(_seen):
    return CHAT


async def exchange(client: httpx.AsyncClient) -> tuple[int, str]:
    answered = await client.post("/v1/chat/completions", json=QUESTION)
    return answered.status_code, answered.headers["x-aiaccess-exchange"]


async def test_each_exchange_is_once_in_a_log_of_many_files_that_verifies_with_its_key(tmp_path: Path, capsys) -> None:
    key = tmp_path / "audit-key"
    key.write_bytes(KEY)
    rotating = {"audit_key_file": key, "audit_max_bytes": 2_000, "audit_keep": Kept(number=50)}
    async with FakeProvider(script=answer) as provider, stack(tmp_path, routing(provider.port) + access(), **rotating) as it:
        told = [exchange_id for status, exchange_id in [await exchange(it.http(AGENT)) for _ in range(12)] if status == 200]
    files = sorted(str(file) for file in it.state.glob("audit.jsonl*"))
    assert len(told) == 12
    assert len(files) > 3
    assert cli.main(["audit", "verify", "--key-file", str(key), *files]) == 0
    capsys.readouterr()
    assert cli.main(["audit", "show", "-o", "json", "--identity", AGENT, "--code", "answered", *files]) == 0
    assert [json.loads(line)["exchange"] for line in capsys.readouterr().out.splitlines()] == told


async def test_while_no_new_file_can_be_begun_nothing_is_answered_and_afterwards_everything_by_itself(tmp_path: Path) -> None:
    async with FakeProvider(script=answer) as provider, stack(tmp_path, routing(provider.port) + access(), audit_max_bytes=2_000) as it:
        client = it.http(AGENT)
        in_the_way = it.state / ".audit.jsonl.next"
        in_the_way.mkdir()
        statuses = [(await exchange(client))[0] for _ in range(12)]
        refused = statuses.index(503)
        assert set(statuses[:refused]) == {200}
        assert set(statuses[refused:]) == {503}
        assert len(provider.seen) == refused
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{it.admin_port}") as admin:
            assert "the audit log cannot be written (it is full and no new file can be begun" in (await admin.get("/readyz")).text
            in_the_way.rmdir()
            async with asyncio.timeout(10):
                while (await admin.get("/readyz")).status_code != 200:
                    await asyncio.sleep(0.02)
        assert (await exchange(client))[0] == 200
    assert cli.main(["audit", "verify", *(str(file) for file in it.state.glob("audit.jsonl*"))]) == 0
