"""How a request says no to what agents of one provider account would share (design.md, "One key, many agents"). Pure.

What a policy can grant is a Feature; the pipeline compares. What nobody can grant is refused here: ids of state at the
provider pass only when they are sealed to the identity that made them, and as long as nothing seals ids, every id is raw.
So a granted Storage lets an agent say `store: true`, and a granted Files does nothing yet: both open further with sealing.
"""

from broker.errors import FeatureNotGranted
from broker.grant import Feature

MEANING = {
    Feature.STORAGE: "answers kept at the provider",
    Feature.FILES: "files kept at the provider",
    Feature.HOSTED_TOOLS: "tools that the provider runs, such as web search, code execution and remote MCP",
    Feature.REMOTE_MEDIA: "images and files that the provider fetches by URL",
    Feature.BACKGROUND: "answers made in the background",
}


def require(asked: frozenset[Feature], granted: frozenset[Feature]) -> None:
    """Let a request pass whose features were all granted.

    Raises:
        FeatureNotGranted: names the first that is missing, and who can change it.
    """
    missing = sorted(asked - granted)
    if missing:
        raise FeatureNotGranted(
            f"this request needs {MEANING[missing[0]]}, which your policy does not grant: leave it out, "
            f"or ask the owner of the AIAccessPolicy to add `features: [{', '.join(missing)}]`"
        )


def refuse_id(param: str) -> FeatureNotGranted:
    """The refusal of a raw id. No feature opens it before ids are sealed to the identity that made them."""
    return FeatureNotGranted(
        f"{param} names state kept at the provider's account, which other agents share; send the content itself instead "
        "(no policy can grant this: the broker does not seal ids to identities yet)",
        param=param,
    )


def refuse_unknown(kind: str, param: str) -> FeatureNotGranted:
    """The refusal of a kind of part or tool that nobody here has judged. `kind` is the caller's own word, shortened."""
    return FeatureNotGranted(
        f"{kind[:64]!r} is not a kind that this broker knows, so it cannot say what it reaches or costs: use another, "
        "or upgrade the broker (no policy can grant it)",
        param=param,
    )
