"""Agents as they are, in the environment that the webhook gives them: do the vendors' own SDKs find the local gateway?"""

import asyncio
import json
import os
import sys

import pytest
from support.admission import a_pod, env_of, injected
from support.fake_provider import FakeProvider, json_answer

from broker.names import PLACEHOLDER_KEY

OPENAI_ANSWER = json.dumps(
    {
        "id": "c-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hello"}}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
).encode()
ANTHROPIC_ANSWER = json.dumps(
    {
        "id": "msg-1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [{"type": "text", "text": "hello"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }
).encode()
# Neither names a URL or a key
OPENAI_AGENT = """
import openai
answer = openai.OpenAI().chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
print(answer.choices[0].message.content)
"""
ANTHROPIC_AGENT = """
import anthropic
answer = anthropic.Anthropic().messages.create(model="m", max_tokens=5, messages=[{"role": "user", "content": "hi"}])
print(answer.content[0].text)
"""
DEAD_PROXY = "http://127.0.0.1:9"


async def run(agent, pod):
    """The agent's last words, in the environment of its container and nothing else."""
    environ = {"PATH": os.environ["PATH"], **env_of(pod, "agent")}
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", agent, env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        said, wrong = await child.communicate()
    assert child.returncode == 0, wrong.decode()
    return said.decode().strip()


@pytest.mark.parametrize(
    "env", [[], [{"name": name, "value": DEAD_PROXY} for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY")]], ids=["", "proxy"]
)
@pytest.mark.parametrize(
    ("agent", "answer", "target"),
    [(OPENAI_AGENT, OPENAI_ANSWER, "/v1/chat/completions"), (ANTHROPIC_AGENT, ANTHROPIC_ANSWER, "/v1/messages")],
    ids=["openai", "anthropic"],
)
async def test_an_unmodified_sdk_asks_the_local_gateway_with_the_placeholder_key_past_any_proxy(agent, answer, target, env):
    async with FakeProvider(json_answer(answer)) as gateway:
        pod = injected(a_pod({"name": "agent", "env": env}, annotations={"aiaccess.dev/gateway-port": str(gateway.port)}))
        assert await run(agent, pod) == "hello"
    seen = gateway.seen[0]
    sent = (seen.header(b"authorization") or b"").removeprefix(b"Bearer ") or seen.header(b"x-api-key")
    assert (seen.method, seen.target, sent) == ("POST", target, PLACEHOLDER_KEY.encode())


async def test_an_agent_with_an_auth_token_of_its_own_hears_no_complaint():
    async with FakeProvider(json_answer(ANTHROPIC_ANSWER)) as gateway:
        env = [{"name": "ANTHROPIC_AUTH_TOKEN", "value": "own"}]
        pod = injected(a_pod({"name": "agent", "env": env}, annotations={"aiaccess.dev/gateway-port": str(gateway.port)}))
        assert await run(f"import warnings; warnings.simplefilter('error')\n{ANTHROPIC_AGENT}", pod) == "hello"
    assert gateway.seen[0].header(b"authorization") == b"Bearer own"
