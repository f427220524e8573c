"""What was sealed yesterday is opened by what holds today: policies, provider objects and keys change between two requests."""

import asyncio
import json

import pytest
from support.fake_provider import FakeProvider
from support.processes import deployment
from support.raw_http import send
from support.shared_account import NEIGHBOUR, OWNER, SECRET, THIEF, both_teams, require_no_raw_id, team, thieves, write_keys
from support.stack import CANARY
from support.stateful_provider import Account

USES = (
    ("GET", "/v1/responses/{}", b""),
    ("GET", "/v1/responses/{}?stream=true", b""),
    ("GET", "/v1/responses/{}/input_items", b""),
    ("POST", "/v1/responses/{}/cancel", b""),
    ("DELETE", "/v1/responses/{}", b""),
    ("POST", "/v1/responses", b'{"model":"thinker","input":"x","previous_response_id":"{}"}'),
    ("POST", "/v1/responses", b'{"model":"thinker","input":"x","store":true,"previous_response_id":"{}"}'),
    ("POST", "/v1/responses", b'{"model":"thinker","input":"x","store":true,"stream":true,"previous_response_id":"{}"}'),
)


async def require_lost(it, id_, agent=OWNER):
    """Nothing leads there any more."""
    for method, path, body in USES:
        await it.refused(agent, method, path.format(id_), body.replace(b"{}", id_.encode()))


def without(port, **more):
    return team("team1", port, (OWNER, THIEF), **more) + team("team2", port, (NEIGHBOUR, OWNER))


CHANGES = {
    "the policy lost its features": lambda port: without(port, features="[]"),
    "the policy lost Storage": lambda port: without(port, features="[HostedTools, Files, RemoteMedia]"),
    "the policy names others": lambda port: team("team1", port, (THIEF,)) + team("team2", port, (NEIGHBOUR, OWNER)),
    "the policy is gone": lambda port: without(port).replace("kind: AIAccessPolicy\nmetadata: {name: agents, namespace: team1}", "kind: Gone\nmetadata: {name: agents}"),
    "the model is gone": lambda port: without(port, models="second, elsewhere"),
    "the model is not granted": lambda port: without(port, granted="[second, elsewhere]"),
    "the provider has another name": lambda port: without(port, provider="renamed"),
    "the provider is elsewhere": lambda port: without(port).replace(f"http://127.0.0.1:{port}/v1", f"http://127.0.0.1:{port}/v2"),
    "a policy denies": lambda port: without(port)
    + f'---\napiVersion: aiaccess.dev/v1alpha1\nkind: AIAccessPolicy\nmetadata: {{name: stop, namespace: team1}}\nspec: {{subjects: [{{spiffeID: "{OWNER}"}}], models: [thinker], action: Deny}}\n',
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
async def test_an_id_is_worth_nothing_once_its_ground_is_gone_and_something_again_when_it_is_back(tmp_path, change):
    async with thieves(tmp_path) as it:
        kept = await it.it.openai(OWNER).responses.create(model="thinker", input=SECRET, background=True, store=True)
        before = it.it.resources.read_text()
        await it.rewrite(CHANGES[change](it.provider.port))
        await require_lost(it, kept.id)
        await it.rewrite(before)
        assert (await it.ask(OWNER, "GET", f"/v1/responses/{kept.id}"))[0] == 200


async def test_an_id_does_not_follow_its_provider_object_to_another_account(tmp_path):
    """Whoever may edit the object cannot have the ids of one account tried at another."""
    other = Account(CANARY)
    async with thieves(tmp_path) as it, FakeProvider(script=other.answer) as elsewhere:
        kept = await it.it.openai(OWNER).responses.create(model="thinker", input=SECRET, background=True, store=True)
        await it.rewrite(without(elsewhere.port))
        await require_lost(it, kept.id)
        assert elsewhere.seen == []


async def test_who_is_granted_the_model_later_does_not_get_what_was_made_before(tmp_path):
    async with thieves(tmp_path) as it:
        kept = await it.it.openai(OWNER).responses.create(model="thinker", input=SECRET, background=True, store=True)
        await it.rewrite(team("team1", it.provider.port, (THIEF,)) + team("team2", it.provider.port, (NEIGHBOUR,)))
        await require_lost(it, kept.id, THIEF)


async def test_without_background_in_the_policy_nothing_is_begun_there(tmp_path):
    async with thieves(tmp_path, team("team1", 0, (OWNER, THIEF), features="[Storage]").replace("127.0.0.1:0", "127.0.0.1:{port}")) as it:
        told = await it.refused(OWNER, "POST", "/v1/responses", {"model": "thinker", "input": "x", "background": True, "store": True})
        assert told.code == "feature_not_granted"
        assert "Background" in told.message


# Keys, with brokers as processes of their own


class Brokers:
    """Asks as an agent through its gateway."""

    def __init__(self, it, provider, account):
        self.it, self.provider, self.account = it, provider, account

    async def tell(self, agent, method, target, value=None, port=0):
        port = port or self.it.gateway_ports[agent]
        body = b"" if value is None else json.dumps(value).encode()
        head = f"{method} {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        async with asyncio.timeout(15):
            while True:
                got = await send(port, head.encode() + body, timeout_s=15)
                first, _, rest = got.partition(b"\r\n")
                status, told = int(first.split(b" ")[1]), json.loads(rest.partition(b"\r\n\r\n")[2])
                if status != 503 or told["error"]["code"] != "no_svid":  # a gateway listens before it has its SVID
                    return status, told
                await asyncio.sleep(0.05)

    async def make(self, agent=OWNER, port=0):
        status, told = await self.tell(agent, "POST", "/v1/responses", {"model": "thinker", "input": SECRET, "store": True}, port)
        assert status == 200, told
        require_no_raw_id(json.dumps(told).encode())
        return told["id"]

    async def reads(self, id_, agent=OWNER, port=0):
        """Whether this agent gets it; that a refusal is one of the broker's own is seen to here."""
        seen = len(self.provider.seen)
        status, told = await self.tell(agent, "GET", f"/v1/responses/{id_}", port=port)
        if status == 200:
            assert told["id"] == id_
            return True
        assert (status, told["error"]["code"], len(self.provider.seen)) == (400, "feature_not_granted", seen)
        return False

    async def until(self, id_, *, readable):
        async with asyncio.timeout(20):
            while await self.reads(id_) is not readable:
                await asyncio.sleep(0.05)


@pytest.fixture
async def brokers(tmp_path):
    account = Account(CANARY)
    async with FakeProvider(script=account.answer) as provider, deployment(tmp_path, both_teams(provider.port), {"KEY": CANARY}) as it:
        yield Brokers(it, provider, account)


async def test_brokers_of_the_same_keys_open_each_others_ids_and_look_alike(brokers, tmp_path):
    keys = str(write_keys(tmp_path / "keys", 1))
    await brokers.it.serve("--sealing-keys", keys)
    _, second = await brokers.it.serve_another("--sealing-keys", keys)
    await brokers.it.gateway(OWNER)
    first = brokers.it.gateway_ports[OWNER]
    await brokers.it.gateway(OWNER, brokers=[second])
    other = brokers.it.gateway_ports[OWNER]
    await brokers.it.gateway(THIEF, brokers=[second])
    made = await brokers.make(port=first)
    assert await brokers.reads(made, port=other)
    assert not await brokers.reads(made, THIEF)
    assert await brokers.reads(await brokers.make(port=other), port=first)


async def test_keys_are_turned_with_overlap_and_no_id_is_lost_until_its_key_is(brokers, tmp_path):
    file = write_keys(tmp_path / "keys", 1)
    await brokers.it.serve("--sealing-keys", str(file))
    await brokers.it.gateway(OWNER)
    await brokers.it.gateway(THIEF)
    old = await brokers.make()
    write_keys(file, 2, 1)
    async with asyncio.timeout(20):
        while (new := await brokers.make()).split("_")[1][:6] == old.split("_")[1][:6]:
            await asyncio.sleep(0.05)
    status, told = await brokers.tell(OWNER, "GET", f"/v1/responses/{old}")
    assert status == 200
    assert await brokers.reads(told["id"])  # a new name of the same thing, or the old one: both are its owner's
    assert await brokers.reads(new)
    assert not await brokers.reads(old, THIEF)
    assert not await brokers.reads(new, THIEF)
    write_keys(file, 2)
    await brokers.until(old, readable=False)
    assert await brokers.reads(new)
    asked = {"model": "thinker", "input": "x", "store": True, "previous_response_id": old}
    seen = len(brokers.provider.seen)
    assert (await brokers.tell(OWNER, "POST", "/v1/responses", asked))[1]["error"]["code"] == "feature_not_granted"
    assert len(brokers.provider.seen) == seen


async def test_a_broken_file_of_keys_takes_nothing_away_and_gives_nothing(brokers, tmp_path):
    file = write_keys(tmp_path / "keys", 1)
    broker = await brokers.it.serve("--sealing-keys", str(file))
    await brokers.it.gateway(OWNER)
    await brokers.it.gateway(THIEF)
    made = await brokers.make()
    file.write_text("AAAA\n")
    async with asyncio.timeout(20):
        while "sealing_keys_unusable" not in broker.output():
            await asyncio.sleep(0.05)
    assert await brokers.reads(made)
    assert not await brokers.reads(made, THIEF)
    assert not await brokers.reads(next(iter(brokers.account.responses)))


WITHOUT_KEYS = {
    "store": {"store": True},
    "background": {"background": True},
    "a raw previous_response_id": {"previous_response_id": "raw"},
    "a raw reference": {"input": [{"type": "item_reference", "id": "raw"}]},
    "a raw reference without a type": {"input": [{"id": "raw"}]},
    "a raw container": {"tools": [{"type": "code_interpreter", "container": "raw"}]},
}


async def test_a_broker_without_keys_keeps_nothing_and_opens_nothing(brokers):
    await brokers.it.serve()
    await brokers.it.gateway(OWNER)
    status, _ = await brokers.tell(OWNER, "POST", "/v1/responses", {"model": "thinker", "input": "x"})
    assert status == 200
    assert json.loads(brokers.provider.seen[-1].body)["store"] is False
    for name, more in WITHOUT_KEYS.items():
        status, told = await brokers.tell(OWNER, "POST", "/v1/responses", {"model": "thinker", "input": "x", **more})
        assert (status, told["error"]["code"]) == (400, "feature_not_granted"), name
    assert (
        "--sealing-keys"
        in (await brokers.tell(OWNER, "POST", "/v1/responses", {"model": "thinker", "input": "x", "store": True}))[1]["error"]["message"]
    )
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items")):
        status, told = await brokers.tell(OWNER, method, f"/v1/responses/resp_1{path}")
        assert 400 <= status < 500, told
    assert len(brokers.provider.seen) == 1
