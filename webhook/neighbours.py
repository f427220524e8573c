"""The other objects of a namespace, for what a warning may say of them. A look-up that fails, or takes too long, says nothing."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final
from urllib.parse import quote

import aiohttp

from broker.kube.connection import Away, Connection, Refused
from broker.kube.decoding import Unreadable, read_object, read_page
from broker.names import API_VERSION
from broker.objects import AccessPolicy, Document, RoutingPolicy, Stray, read_document
from webhook.validate import Ours

log = logging.getLogger(__name__)

DEADLINE_S: Final = 1.0  # the API server waits for our answer
AT_ONCE: Final = 4
LIST_BYTES: Final = 1 << 20  # a namespace that has more is one of which nothing is said
LIST_OBJECTS: Final = 500


class Neighbours:
    """connection: None = there is no API server that could be asked."""

    def __init__(self, connection: Connection | None) -> None:
        self._connection = connection
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._trouble = ""

    async def of(self, found: Ours) -> Sequence[Document] | None:
        """Those that this object may refer to, itself as it was among them; None when they cannot be known."""
        connection, plurals = self._connection, _referred(found)
        if not plurals:
            return ()
        if connection is None:
            return None
        try:
            async with asyncio.timeout(DEADLINE_S), self._turns:
                pages = [await _list(connection, found.about.namespace or "", plural) for plural in plurals]
            read = await asyncio.to_thread(_read, pages)
        except (Away, Refused, Unreadable, TimeoutError) as why:
            self._tell(str(why) or "no answer in time")
            return None
        self._tell("")
        return read

    def _tell(self, trouble: str) -> None:
        """Once for each that is new: whoever applies a thousand objects does not want a thousand lines."""
        if trouble and trouble != self._trouble:
            log.warning("neighbours_unknown", extra={"why": trouble})
        self._trouble = trouble


def _referred(found: Ours) -> tuple[str, ...]:
    if isinstance(found, AccessPolicy):
        return ("airoutingpolicies",)
    return ("airoutingpolicies", "aiproviders") if isinstance(found, RoutingPolicy) else ()


async def _list(connection: Connection, namespace: str, plural: str) -> bytes:
    found = bytearray()
    path = f"/apis/{API_VERSION}/namespaces/{quote(namespace, '')}/{plural}"
    async with connection.request(path, {"limit": str(LIST_OBJECTS)}, aiohttp.ClientTimeout(total=DEADLINE_S)) as chunks:
        async for chunk in chunks:
            found += chunk
            if len(found) > LIST_BYTES:
                raise Unreadable(f"the {plural} of namespace {namespace} have more than {LIST_BYTES} bytes")
    return bytes(found)


def _read(pages: Sequence[bytes]) -> list[Document]:
    read: list[Document | Stray] = []
    for data in pages:
        page = read_page(data)
        if page.metadata.more:
            raise Unreadable(f"a namespace has more than {LIST_OBJECTS} objects of a kind")
        read += [read_object(raw, read_document) for raw in page.items or ()]
    return [one for one in read if not isinstance(one, Stray)]
