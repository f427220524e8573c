"""What one model's grant opens does not come to another model's requests by way of what is kept."""

import json

from support.shared_account import OWNER, team, thieves

SEARCH = {"type": "web_search"}
ANYTHING = {"type": "mcp", "server_label": "x", "server_url": "https://x.example/sse", "require_approval": "never"}
STORAGE_ALONE = f"""---
apiVersion: aiaccess.dev/v1alpha1
kind: AIAccessPolicy
metadata: {{name: plain, namespace: team1}}
spec: {{subjects: [{{spiffeID: "{OWNER}"}}], models: [second], features: [Storage]}}
"""


async def test_hosted_tools_do_not_come_with_kept_items_to_a_model_that_is_granted_without_them(tmp_path):
    """A request that goes on from such items names no tool, so nothing would hold it for what they cost, or bound their calls."""
    async with thieves(tmp_path) as it:
        await it.rewrite(team("team1", it.provider.port, (OWNER,), granted="[thinker]") + STORAGE_ALONE)
        told = await it.refused(OWNER, "POST", "/v1/responses", {"model": "second", "input": "x", "tools": [SEARCH]})
        assert told.code == "feature_not_granted"
        added = {"type": "additional_tools", "role": "developer", "tools": [SEARCH, ANYTHING]}
        asked = {"model": "thinker", "input": [added, {"role": "user", "content": "hi"}]}
        for kept in ({}, {"store": True}, {"background": True}):
            told = await it.refused(OWNER, "POST", "/v1/responses", {**asked, **kept})
            assert (told.status, told.code) == (400, "bad_request")
        status, _ = await it.ask(OWNER, "POST", "/v1/responses", {**asked, "store": False})
        assert status == 200
        assert json.loads(it.provider.seen[-1].body)["max_tool_calls"] == 9
        assert it.account.responses == {}
