"""Where ids of kept state stand in OpenAI's Responses: what is asked, answered and streamed, made or fetched.

What is no kept state of an agent's stays as it is: a `call_id` and a `caller_id` tie a call to its output, and are the caller's as much as
the model's; safety checks are said back as they came; connectors are services. Prompts, skills, tunnels and vector stores are not made by
agents, and no request that names one passes (judges/openai_responses.py), so no answer has reason to.

Source: developers.openai.com/api/reference/responses, as openai-python 3.54 types it; a test walks its types.
"""

from typing import Final

from broker.ids.swapping import Places, Shape
from broker.sealing import Kind

_FILE: Final = Shape({"file_id": Kind.FILE})
_ANNOTATION: Final = Shape({"container_id": Kind.CONTAINER, "file_id": Kind.FILE})
_PART: Final = Shape({"file_id": Kind.FILE}, {"annotations": _ANNOTATION})
_CONTAINER: Final = Shape({"id": Kind.CONTAINER, "container_id": Kind.CONTAINER, "file_ids": Kind.FILE}, text=Kind.CONTAINER)
_TOOL: Final = Shape(below={"container": _CONTAINER, "environment": _CONTAINER, "input_image_mask": _FILE})
# An item of the input looks as one of the output does, since one becomes the other
_ITEM: Final = Shape(
    {"id": Kind.ITEM, "approval_request_id": Kind.ITEM, "container_id": Kind.CONTAINER, "file_id": Kind.FILE},
    {"content": _PART, "output": _PART, "results": _FILE, "environment": _CONTAINER, "tools": _TOOL},
)
_CONVERSATION: Final = Shape({"id": Kind.RESPONSE}, text=Kind.RESPONSE)
_RESPONSE: Final = Shape(
    {"id": Kind.RESPONSE, "previous_response_id": Kind.RESPONSE},
    {
        "output": _ITEM,
        "input": _ITEM,
        "instructions": _ITEM,
        "tools": _TOOL,
        "conversation": _CONVERSATION,
        "input_transformations": Shape({"id": Kind.ITEM}),
        "prompt_cache_options": Shape({"comparison_response_id": Kind.RESPONSE}),
    },
)

PLACES: Final = Places(
    request=Shape({"previous_response_id": Kind.RESPONSE}, {"input": _ITEM, "tools": _TOOL}),
    answer=Shape(
        {**_RESPONSE.ids, "first_id": Kind.ITEM, "last_id": Kind.ITEM},
        {**_RESPONSE.below, "data": _ITEM},
    ),
    event=Shape(
        {"response_id": Kind.RESPONSE, "item_id": Kind.ITEM},
        {"response": _RESPONSE, "item": _ITEM, "part": _PART, "annotation": _ANNOTATION},
    ),
    keeps=True,
)
