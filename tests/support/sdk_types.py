"""Values of the SDKs' own types with each of their members, and a marked id in each place of one: `filled(Response)`."""

import typing
from collections.abc import Iterator
from inspect import isclass
from types import UnionType

from pydantic import BaseModel

MARK = "rawid"
# What is no state of an agent's at the provider: see broker/ids/openai_responses.py and anthropic_messages.py
OTHERS = {"call_id", "caller_id", "connector_id", "skill_id", "tool_id", "tool_use_id", "tunnel_id", "vector_store_ids"}
OTHERS_OF = {
    *("PendingSafetyCheck", "AcknowledgedSafetyCheck", "ComputerCallOutputAcknowledgedSafetyCheck", "ResponsePrompt"),
    *("Message", "ToolUseBlock", "ServerToolUseBlock", "BetaMessage", "BetaToolUseBlock", "BetaServerToolUseBlock", "BetaMCPToolUseBlock"),
}


def is_id(model: type[BaseModel], name: str) -> bool:
    looks = name in ("id", "container") or name.endswith(("_id", "_ids"))
    return looks and name not in OTHERS and model.__name__ not in OTHERS_OF


def alternatives(kind: object, *, id_: bool, above: tuple[type, ...]) -> list[object]:  # noqa: PLR0911  one for each way to write a type
    """Values of a type, one for each member of its unions at least."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return alternatives(inner[0], id_=id_, above=above)
    if origin is typing.Literal:
        return [inner[0]]
    if origin in (typing.Union, UnionType):
        return [value for each in inner if each is not type(None) for value in alternatives(each, id_=id_, above=above)]
    if origin is list:
        return [alternatives(inner[0], id_=id_, above=above)]
    if origin is dict:
        return [{"key": value} for value in alternatives(inner[1], id_=False, above=above)[:1]]
    if isclass(kind) and issubclass(kind, BaseModel):
        return list(filled(kind, above))
    if kind is str and id_:
        return [f"x_{MARK}{len(above)}"]
    return [{str: "text", int: 1, float: 1.5, bool: True}.get(typing.cast("type", kind), "anything")]


def filled(model: type[BaseModel], above: tuple[type, ...] = ()) -> Iterator[dict[str, object]]:
    """Objects of a model with each of its members, as many as it takes for each alternative of each."""
    if above.count(model) > 1:
        return
    of = {
        field.alias or name: alternatives(field.annotation, id_=is_id(model, field.alias or name), above=(*above, model))
        for name, field in model.model_fields.items()
    }
    of = {name: values for name, values in of.items() if values}
    for number in range(max(map(len, of.values()))):
        yield {name: values[number % len(values)] for name, values in of.items()}


def models(kind: object) -> Iterator[type[BaseModel]]:
    if isclass(kind) and issubclass(kind, BaseModel):
        yield kind
    for each in typing.get_args(kind):
        yield from models(each)
