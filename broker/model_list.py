"""GET /v1/models and /v1/models/{id}: what one identity may call now, in its own dialect. Pure."""

from urllib.parse import unquote

from broker import providers
from broker.dialects import Words
from broker.errors import Forbidden, UnknownRoute
from broker.identity import Identity
from broker.names import MODELS_PATH
from broker.policy import Snapshot


def body(path: str, dialect: Words, identity: Identity, snapshot: Snapshot) -> bytes:
    """The granted, ready models that have a backend of this dialect; or the one that the path names.

    Raises:
        Forbidden: no policy names this identity.
        UnknownRoute: the model that is asked for is not one of them, whether it exists or not.
    """
    if not snapshot.names_identity(identity):
        raise Forbidden("no policy names this identity; ask the owner of the models that you need for an AIAccessPolicy")
    models = snapshot.visible_models(identity)
    names = tuple(model.name for model in models if any(providers.speaks(kind, dialect.NAME) for kind in model.kinds))
    if path == MODELS_PATH:
        return dialect.models(names)
    wanted = unquote(path[len(MODELS_PATH) + 1 :])
    if wanted not in names:
        raise UnknownRoute("no model of this name is granted to this identity and ready; GET /v1/models lists those that are")
    return dialect.one_model(wanted)
