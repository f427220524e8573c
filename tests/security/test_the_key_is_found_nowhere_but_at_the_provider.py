"""A canary planted as credential, the product as separate processes, and every place where it could turn up."""

import asyncio
from pathlib import Path

import anthropic
import httpx2 as httpx
import openai
from support.fake_provider import FakeProvider, json_answer
from support.objects_yaml import access, routing
from support.processes import deployment
from support.stack import AGENT, CANARY

ANSWER = json_answer(b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}', headers=[(b"set-cookie", b"a=b")])
ECHO = json_answer(b'{"error":{"message":"bad key ' + CANARY.encode() + b'"}}', 400, [(b"x-request-id", CANARY.encode())])
# a defect whose text holds the key, in the middle of an exchange: the worst that a traceback can say
BROKEN = ("-c", (f"import broker.routing as r\ndef choose(*_):\n raise RuntimeError('boom ' + 'sk-canary' + {CANARY.removeprefix('sk-canary')!r})\n"
          "r.choose = choose\nimport sys\nfrom broker.cli import main\nsys.exit(main())"))  # fmt: skip


def places_of(pid: int) -> dict[str, bytes]:
    """What `ps` and a neighbour with the same user would see of a process."""
    return {name: Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ", "comm", "status")}


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.is_symlink()}


async def calls(url: str) -> list[str]:
    """Everything that an agent gets to see, from every kind of answer."""
    seen = []
    chat = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="aiaccess-placeholder", max_retries=0)
    messages = anthropic.AsyncAnthropic(base_url=url, api_key="aiaccess-placeholder", max_retries=0)
    ask = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 20}
    for sdk, call in ((chat, chat.chat.completions), (messages, messages.messages)):
        for stream in (False, True):
            for model in ("gpt", "claude", "ungranted", "secretless", "unreachable"):
                try:
                    got = await call.with_raw_response.create(model=model, stream=stream, **ask)
                    seen.append(f"{got.headers} {got.text if isinstance(got.text, str) else ''}")
                except (openai.APIError, anthropic.APIError) as error:
                    response = getattr(error, "response", None)
                    seen.append(f"{error!r} {error} {error.body} {response.headers if response is not None else ''}")
        await sdk.close()
    async with httpx.AsyncClient(base_url=url) as plain:
        for path in ("/v1/models", "/v1/models/gpt", "/metrics", "/"):
            got = await plain.get(path)
            seen.append(f"{got.headers} {got.text}")
    return seen


async def test_the_canary_is_nowhere(tmp_path):
    provider = FakeProvider(ANSWER, ECHO, ANSWER, ECHO)
    async with provider, deployment(tmp_path, routing(provider.port) + access(), {"KEY": CANARY}) as it:
        broker = await it.serve()
        gateway = await it.gateway(AGENT)
        seen = await calls(it.url(AGENT))
        assert len(seen) == 24
        async with httpx.AsyncClient() as admin:
            for path in ("/metrics", "/readyz", "/healthz", "/"):
                seen.append((await admin.get(f"http://127.0.0.1:{it.admin_port}{path}")).text)
        of_the_gateway = places_of(gateway.pid)
        of_the_broker = places_of(broker.pid)
        await broker.stop()

        crashing = await it.serve(program=BROKEN)
        seen += await calls(it.url(AGENT))
        assert "exchange_failed" in crashing.output()
        await crashing.stop()

    assert any(CANARY.encode() in (one.header(b"authorization") or b"") for one in provider.seen), "the provider itself must have it"
    assert any(CANARY.encode() in (one.header(b"x-api-key") or b"") for one in provider.seen)
    assert not any(CANARY.encode() in one.body for one in provider.seen)
    of_the_broker.pop("environ")  # where this deployment, for lack of a Secret store, took it from
    places = {
        **files_below(tmp_path),
        **{f"gateway {k}": v for k, v in of_the_gateway.items()},
        **{f"broker {k}": v for k, v in of_the_broker.items()},
    }
    assert len(places) > 8
    assert [name for name, content in places.items() if CANARY.encode() in content] == []
    assert [text for text in seen if CANARY in text] == []


async def test_a_gateway_started_without_the_key_never_learns_it(tmp_path):
    """Memory, too: what the gateway's process can read of itself."""
    async with FakeProvider(ANSWER) as provider, deployment(tmp_path, routing(provider.port) + access(), {"KEY": CANARY}) as it:
        await it.serve()
        gateway = await it.gateway(AGENT)
        await calls(it.url(AGENT))
        found = await asyncio.to_thread(memory_has, gateway.pid, CANARY.encode())
        assert found is False
        assert await asyncio.to_thread(memory_has, gateway.pid, b"aiaccess-placeholder"), "the search itself must work"


def memory_has(pid: int, needle: bytes) -> bool:
    with Path(f"/proc/{pid}/maps").open() as maps, Path(f"/proc/{pid}/mem").open("rb", 0) as memory:
        for line in maps:
            span, access_rights, *_ = line.split()
            if not access_rights.startswith("rw"):
                continue
            start, end = (int(edge, 16) for edge in span.split("-"))
            try:
                memory.seek(start)
                if needle in memory.read(end - start):
                    return True
            except (OSError, ValueError):
                continue
    return False
