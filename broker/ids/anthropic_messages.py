"""Where ids of kept state stand in Anthropic's messages: the container that code ran in, and files that it left there.

Ids of messages, tool uses and their results tie what is said together, and nothing is fetched by them. Skills are not made by agents.

Source: platform.claude.com/docs/en/api/messages, as anthropic-python 0.116 types it; a test walks its types.
"""

from typing import Final

from broker.grant import Feature
from broker.ids.swapping import Places, Shape
from broker.sealing import Kind

_FILE: Final = Shape({"file_id": Kind.FILE})
_CONTAINER: Final = Shape({"id": Kind.CONTAINER}, text=Kind.CONTAINER)
_RESULT: Final = Shape({"file_id": Kind.FILE}, {"content": _FILE, "citations": _FILE})
_BLOCK: Final = Shape({"file_id": Kind.FILE}, {"content": _RESULT, "citations": _FILE})
_MESSAGE: Final = Shape(below={"container": _CONTAINER, "content": _BLOCK})

PLACES: Final = Places(
    request=Shape(below={"container": _CONTAINER, "messages": Shape(below={"content": _BLOCK})}),
    answer=_MESSAGE,
    event=Shape(
        below={"message": _MESSAGE, "content_block": _BLOCK, "delta": Shape(below={"container": _CONTAINER, "citation": _FILE})},
    ),
    only_with=frozenset({Feature.HOSTED_TOOLS}),
)
