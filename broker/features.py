"""How a request says no to what agents of one provider account would share (docs/objects.md, `features`). Pure.

What a policy can grant is a Feature; the pipeline compares. An id of state at the provider passes only as it was sealed to the identity
that made that state (broker/ids, broker/sealing); ids of what no route here makes are refused whatever a policy grants.
"""

from collections.abc import Iterable
from typing import Final

from broker.errors import FeatureNotGranted
from broker.grant import Feature, KeptId

MEANING: Final = {
    Feature.STORAGE: "answers kept at the provider",
    Feature.FILES: "files kept at the provider",
    Feature.HOSTED_TOOLS: "tools that the provider runs, such as web search, code execution and remote MCP",
    Feature.REMOTE_MEDIA: "images and files that the provider fetches by URL",
    Feature.BACKGROUND: "answers made in the background",
}
# Where one of these is granted, ids are sealed; without keys to seal with, nothing that needs one of them passes
KEEPING: Final = frozenset({Feature.STORAGE, Feature.BACKGROUND, Feature.FILES})


def require(asked: frozenset[Feature], granted: frozenset[Feature], named: Iterable[KeptId] = ()) -> None:
    """Let a request pass whose features were all granted. Background includes Storage: what is made there is kept.

    named: where the request names kept state.

    Raises:
        FeatureNotGranted: names the first that is missing, and who can change it.
    """
    if asked <= granted:
        return
    missing = sorted(asked - granted - ({Feature.STORAGE} if Feature.BACKGROUND in granted else frozenset()))
    if missing:
        ask = f"or ask the owner of the AIAccessPolicy to add `features: [{', '.join(missing)}]`"
        for place in named:
            if place.feature in missing:
                text = f"{place.param} names state kept at the provider's account, which other agents share: {place.instead}, {ask}"
                raise FeatureNotGranted(text, param=place.param)
        raise FeatureNotGranted(f"this request needs {MEANING[missing[0]]}, which your policy does not grant: leave it out, {ask}")


def refuse_id(param: str) -> FeatureNotGranted:
    """The refusal of an id of something that no agent makes through this broker."""
    return FeatureNotGranted(
        f"{param} names state kept at the provider's account, which other agents share; send the content itself instead "
        "(no policy can grant this: the broker seals no ids of this kind to identities)",
        param=param,
    )


def refuse_seal(param: str) -> FeatureNotGranted:
    """The one refusal of an id that is not the caller's own, here and now. It never says what is wrong with it: whose ids there are."""
    return FeatureNotGranted(
        f"{param} is no id that this broker gave you for what you ask here: send one as it came, to a model of the namespace and of the "
        "provider that it came from; or send the content itself",
        param=param,
    )


def refuse_keyless() -> FeatureNotGranted:
    """The refusal of whatever would be kept, or is, where nothing can be sealed."""
    return FeatureNotGranted(
        "nothing is kept at the provider through this broker, since its operator has not given it keys to seal ids with (--sealing-keys): "
        "leave out what keeps an answer or names a kept one, or ask the operator"
    )


def refuse_unknown(kind: str, param: str) -> FeatureNotGranted:
    """The refusal of a kind of part or tool that nobody here has judged. `kind` is the caller's own word, shortened."""
    return FeatureNotGranted(
        f"{kind[:64]!r} is not a kind that this broker knows, so it cannot say what it reaches or costs: use another, "
        "or upgrade the broker (no policy can grant it)",
        param=param,
    )
