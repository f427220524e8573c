"""Where the id of a kept chat completion stands: in the answer, and in each chunk of a stream. No request names one."""

from typing import Final

from broker.grant import Feature
from broker.ids.swapping import Places, Shape
from broker.sealing import Kind

_ANSWER: Final = Shape({"id": Kind.RESPONSE})

PLACES: Final = Places(request=Shape(), answer=_ANSWER, event=_ANSWER, only_with=frozenset({Feature.STORAGE}))
