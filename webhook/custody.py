"""Our own serving certificate: in one Secret that all replicas share, with its authority in the webhook configurations.

There is no leader. Each replica looks again and again, and takes whatever step is due; the Secret and the configurations are written
only as they were read (resourceVersion), so that of two who take the same step one does, and the other looks again.

Two orders make it safe. A certificate is served only after its authority stands in both configurations. And a configuration is read
before the Secret: if it can still be written then, nobody has published what is newer than that Secret.
"""

import asyncio
import base64
import datetime as dt
import logging
import random
import ssl
from collections.abc import Callable, Sequence
from typing import Any, Final
from urllib.parse import quote

from broker.keyfile import open_briefly
from broker.kube.connection import Away, Refused
from broker.kube.writing import CONFLICT, Fields, Writing
from broker.names import GROUP
from broker.objects.reading import as_list, as_mapping
from webhook import rotation
from webhook.config import Kept
from webhook.review import FORBIDDEN
from webhook.rotation import Holding

log = logging.getLogger(__name__)

LOOK_S: Final = 10.0
SOON_S: Final = 0.5  # after a look that found nothing to serve, or was crossed by another replica's
SECRET_TYPE: Final = f"{GROUP}/webhook-authority"  # a Secret of another type is somebody else's, and left alone
_CONFIGURATIONS: Final = "/apis/admissionregistration.k8s.io/v1"
KINDS: Final = ("mutatingwebhookconfigurations", "validatingwebhookconfigurations")


class Unusable(Exception):
    """The Secret of that name is somebody else's, or is not there and may not be created. The message says what to do."""


class Custody:
    """`clock` says the time of day, with its offset."""

    def __init__(self, writing: Writing, place: Kept, context: ssl.SSLContext, clock: Callable[[], dt.datetime]) -> None:
        self._writing = writing
        self._place = place
        self._context = context
        self._clock = clock
        self._collection = f"/api/v1/namespaces/{quote(place.namespace, '')}/secrets"
        self._path = f"{self._collection}/{quote(place.secret, '')}"
        self._serving: Holding | None = None
        self._trouble = "the API server was not asked yet"

    @property
    def ends(self) -> float:
        """When the certificate that is served ends, as a Unix timestamp; 0 before there is one."""
        return self._serving.leaf.ends.timestamp() if self._serving else 0.0

    def why_not_ready(self, now: float) -> list[str]:
        if self.ends > now:
            return []
        what = "the serving certificate has ended" if self._serving else "there is no serving certificate yet"
        return [f"{what}: {self._trouble}" if self._trouble else what]

    async def watch(self, look_s: float = LOOK_S) -> None:
        """Look, for ever. What goes wrong is said once, and tried again."""
        while True:
            pause_s = look_s
            try:
                await self.look()
            except (Refused, Away, Unusable) as why:
                crossed = isinstance(why, Refused) and why.status == CONFLICT
                self._tell("" if crossed else str(why))
                if crossed or self._serving is None:
                    pause_s = SOON_S
            else:
                self._tell("")
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311  so that replicas do not look in step

    def _tell(self, trouble: str) -> None:
        if trouble and trouble != self._trouble:
            log.warning("certificate_not_looked_after", extra={"why": trouble})
        self._trouble = trouble

    async def look(self) -> None:
        """Take the step that is due, if one is, and serve what may be served.

        Raises:
            Refused: by the API server; with status 409 another replica was quicker.
            Away: it did not answer.
            Unusable: the Secret is somebody else's, or not there.
        """
        paths = [f"{_CONFIGURATIONS}/{kind}/{quote(self._place.configuration, '')}" for kind in KINDS]
        found = [(path, await self._writing.read(path)) for path in paths]  # before the Secret: see above
        holding = await self._holding([one for _, one in found if one is not None])
        for path, configuration in found:
            if configuration is not None:
                await self._publish(path, configuration, holding.published)
        if self._serving is None or self._serving.leaf != holding.leaf:
            self._load(holding)
        self._serving = holding

    async def _holding(self, configurations: Sequence[Fields]) -> Holding:
        """What the Secret holds, after the step that was due. configurations: as they stood before the Secret was read."""
        secret, now = await self._writing.read(self._path), self._clock()
        if secret is not None and secret.get("type") != SECRET_TYPE:
            raise Unusable(f"the Secret {self._place.namespace}/{self._place.secret} is not ours: give another name with --tls-secret")
        held = self._read(secret) if secret else None
        # Where it is lost, the same authority goes on, since others serve what it signed; and its successor is on its way
        base = held or (rotation.with_next(self._serving, now) if self._serving else None)
        if base and base.next and not all(_has(one, base.next.certificate) for one in configurations):
            base = rotation.put_off(base, now)
        due = rotation.following(base, self._place.names, now) if base else rotation.first(self._place.names, now)
        if due is not held:
            await self._keep(secret, due)
            log.info("certificate_kept", extra={"until": due.leaf.ends.isoformat(), "rotating": due.next is not None})
        return due

    async def _keep(self, secret: Fields | None, due: Holding) -> None:
        data = rotation.write(due)
        if secret is not None:
            await self._writing.replace(self._path, {**secret, "data": data})
            return
        metadata = {"name": self._place.secret, "namespace": self._place.namespace}
        fields = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": SECRET_TYPE, "data": data}
        try:
            await self._writing.create(self._collection, fields)
        except Refused as no:
            if no.status != FORBIDDEN:
                raise
            # To create Secrets is a right that no name limits, so a chart gives it to nobody, and an empty Secret instead
            raise Unusable(f"there is no Secret {self._place.namespace}/{self._place.secret}: create it, of type {SECRET_TYPE}") from no

    def _read(self, secret: Fields) -> Holding | None:
        """None when nobody can read it: it is made anew."""
        data = as_mapping(secret.get("data")) or {}
        if self._serving is None and not any(data.values()):
            return None  # as the chart makes it, for us to fill
        try:
            return rotation.read(data)
        except ValueError as wrong:
            log.warning("secret_unreadable", extra={"why": str(wrong)})
            return None

    async def _publish(self, path: str, configuration: Fields, published: bytes) -> None:
        text = base64.b64encode(published).decode("ascii")
        webhooks = _with_bundle(as_list(configuration.get("webhooks")) or [], text)
        if webhooks != configuration.get("webhooks", []):
            version = (as_mapping(configuration.get("metadata")) or {}).get("resourceVersion")
            await self._writing.merge(path, {"metadata": {"resourceVersion": version}, "webhooks": webhooks})
            log.info("authority_published", extra={"configuration": path.removeprefix(f"{_CONFIGURATIONS}/")})

    def _load(self, holding: Holding) -> None:
        with open_briefly(holding.leaf.certificate + holding.leaf.key) as path:
            self._context.load_cert_chain(path)
        log.info("certificate_loaded", extra={"until": holding.leaf.ends.isoformat()})


def _has(configuration: Fields, certificate: bytes) -> bool:
    """Whether each of its webhooks is asked with this authority among those that are trusted."""
    clients = [as_mapping((as_mapping(one) or {}).get("clientConfig")) or {} for one in as_list(configuration.get("webhooks")) or []]
    return all(certificate in _decoded(client.get("caBundle")) for client in clients)


def _decoded(text: object) -> bytes:
    try:
        return base64.b64decode(text) if isinstance(text, str) else b""
    except ValueError:
        return b""


def _with_bundle(webhooks: Sequence[object], text: str) -> list[dict[str, Any]]:
    """The same webhooks, each trusting that. All else of them is the chart's."""
    changed: list[dict[str, Any]] = []
    for one in webhooks:
        fields = as_mapping(one) or {}
        changed.append({**fields, "clientConfig": {**(as_mapping(fields.get("clientConfig")) or {}), "caBundle": text}})
    return changed
