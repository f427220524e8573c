"""Reading what one has kept costs no tokens, so it must not be a way to take a model from others."""

import json
from dataclasses import replace

from support.fake_provider import FakeProvider, json_answer
from support.shared_account import NEIGHBOUR, OWNER, THIEF, ask, both_teams, write_keys
from support.stack import CANARY, stack
from support.stateful_provider import Account

MAKE = {"model": "thinker", "input": "x", "store": True}


async def test_a_model_does_not_rest_for_all_because_one_agent_reads_what_the_server_does_not_give(tmp_path):
    """Some compatible servers keep responses and do not stream them again; or limit how often they are read."""
    account = Account(CANARY)
    refusal = json_answer(b"{}", 429, [(b"retry-after", b"600")])

    def script(seen):
        if seen.target.endswith("/input_items"):
            return refusal
        return account.answer(replace(seen, target=seen.target.removesuffix("?stream=true")))

    keys = write_keys(tmp_path / "sealing-keys", 1)
    async with (
        FakeProvider(script=script) as provider,
        stack(tmp_path, both_teams(provider.port), (OWNER, THIEF, NEIGHBOUR), sealing_keys=keys) as it,
    ):
        own = json.loads((await ask(it, THIEF, "POST", "/v1/responses", MAKE))[1])["id"]
        for _ in range(8):
            assert (await ask(it, THIEF, "GET", f"/v1/responses/{own}?stream=true"))[0] == 502
        assert (await ask(it, THIEF, "GET", f"/v1/responses/{own}/input_items"))[0] == 429
        assert (await ask(it, OWNER, "POST", "/v1/responses", MAKE))[0] == 200
