"""Paths without a route: each is explained, and none of them hides one that is served."""

import io

import pytest
from support.fake_provider import FakeProvider, json_answer
from support.objects_yaml import access, routing
from support.stack import AGENT, stack

from broker.dialects import METHODS
from broker.names import MODELS_PATH
from broker.unserved import INSTEAD, explain

PATHS = [path for path, _, _ in INSTEAD]


@pytest.mark.parametrize("path", PATHS)
def test_a_path_and_all_below_it_are_explained_by_the_nearest_entry(path):
    (entry,) = [entry for entry in INSTEAD if entry[0] == path]
    assert explain(path) == explain(f"{path}/id-1") == f"{entry[1]}; {entry[2]}"
    assert explain(f"{path}x") != explain(path)


def test_no_path_is_listed_twice():
    assert len(PATHS) == len(set(PATHS))


def test_a_path_that_nobody_knows_is_not_explained():
    assert explain("/v1/nothing") is None
    assert explain("/") is None


@pytest.mark.parametrize("path", [*METHODS, MODELS_PATH])
def test_the_text_for_what_is_below_a_route_does_not_send_people_back_to_it_alone(path):
    said = explain(f"{path}/id-1")
    assert said is None or not said.endswith(path)


async def test_the_sdks_hear_what_to_do_instead(tmp_path):
    import anthropic
    import openai

    objects = routing(1) + access()
    async with FakeProvider(json_answer(b"{}")) as provider, stack(tmp_path, objects) as it:
        client, other = it.openai(AGENT), it.anthropic(AGENT)
        asked = {
            "batches": lambda: client.batches.create(input_file_id="file-1", endpoint="/v1/chat/completions", completion_window="24h"),
            "files": lambda: client.files.create(file=io.BytesIO(b"x"), purpose="batch"),
            "fine-tuning": lambda: client.fine_tuning.jobs.create(model="gpt", training_file="file-1"),
            "vector stores": lambda: client.vector_stores.create(name="x"),
            "conversations": client.conversations.create,
            "realtime": client.realtime.client_secrets.create,
            "made speech": lambda: client.audio.speech.create(model="gpt", input="x", voice="alloy"),
            "edited images": lambda: client.images.edit(model="gpt", prompt="x", image=io.BytesIO(b"x")),
            "moderation": lambda: client.moderations.create(input="x"),
        }
        for what, asking in asked.items():
            with pytest.raises(openai.NotFoundError, match=what) as caught:
                await asking()
            assert caught.value.code == "unknown_route"
        with pytest.raises(anthropic.NotFoundError, match="batches are not offered"):
            await other.messages.batches.create(requests=[])
        assert {line["code"] for line in await it.audited(len(asked) + 1)} == {"unknown_route"}
        assert provider.seen == []
