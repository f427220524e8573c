"""Where ids of state that a provider keeps stand in a dialect's requests, answers and events, and how they are swapped there. Pure.

swapping.py         JSON in, the same JSON with other ids out
sealed.py           those of one exchange: opened as they come in, sealed as they go out
openai_responses.py, openai_chat.py, anthropic_messages.py   the places
"""

from collections.abc import Mapping
from typing import Final

from broker.ids import anthropic_messages, openai_chat, openai_responses
from broker.ids.sealed import Ids
from broker.ids.swapping import Places, Swap

__all__ = ["PLACES", "Ids", "Places", "Swap"]

# By dialect; those that are not here keep nothing
PLACES: Final[Mapping[str, Places]] = {
    "anthropic_count_tokens": anthropic_messages.PLACES,
    "anthropic_messages": anthropic_messages.PLACES,
    "openai_chat": openai_chat.PLACES,
    "openai_responses": openai_responses.PLACES,
    "openai_stored_responses": openai_responses.PLACES,
}
