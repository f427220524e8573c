"""What we write to the API server: our part of a status, a Lease, Events. Nothing else of ours writes there.

Each request has a deadline. Statuses are applied (server-side apply): what somebody else wrote beside ours stays, and what we do not
say any more goes.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

import aiohttp
import msgspec

from broker.kube.connection import CONNECT_S, Away, Connection, Refused, Sent
from broker.kube.decoding import Unreadable, read_object
from broker.names import API_VERSION

MANAGER: Final = "inference-broker"  # whose fields are whose: by this name the API server knows ours
WRITE_S: Final = 5.0
ANSWER_BYTES: Final = 8 << 20
NOT_FOUND: Final = 404
CONFLICT: Final = 409
PASSING: Final = frozenset((401, 408, 429, 500, 502, 503, 504))  # answers that mean: another time

APPLY: Final = "application/apply-patch+yaml"
MERGE: Final = "application/merge-patch+json"
JSON: Final = "application/json"

Fields = Mapping[str, Any]


def micro_time(unix_s: float) -> str:
    """As metav1.MicroTime writes it."""
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Writing:
    """The API server, as far as one writes to it. Every method raises Refused and Away, as Connection does."""

    def __init__(self, connection: Connection, deadline_s: float = WRITE_S) -> None:
        self._connection = connection
        self._timeout = aiohttp.ClientTimeout(total=deadline_s, sock_connect=min(CONNECT_S, deadline_s))

    async def apply_status(self, kind: str, plural: str, name: tuple[str, str], uid: str, status: Fields) -> Fields:
        """Make the status of one of our objects say this, and nothing else of what we ever said.

        Args:
            kind: of the object.
            plural: of the kind.
            name: its namespace and name.
            uid: which object; 409 when another one has its name by now.
            status: our fields.
        """
        namespace, own = name
        path = f"/apis/{API_VERSION}/namespaces/{quote(namespace, '')}/{plural}/{quote(own, '')}/status"
        metadata = {"namespace": namespace, "name": own, "uid": uid}
        fields = {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "status": dict(status)}
        return await self._send(Sent("PATCH", APPLY, fields), path, {"fieldManager": MANAGER, "force": "true"})

    async def read(self, path: str) -> Fields | None:
        """One object; None when it is not there."""
        try:
            return await self._send(None, path, {})
        except Refused as no:
            if no.status == NOT_FOUND:
                return None
            raise

    async def create(self, collection: str, fields: Fields) -> Fields:
        """Refused with status 409 when its name is taken."""
        return await self._send(Sent("POST", JSON, fields), collection, {"fieldManager": MANAGER})

    async def replace(self, path: str, fields: Fields) -> Fields:
        """Refused with status 409 when `metadata.resourceVersion` is not what it is by now."""
        return await self._send(Sent("PUT", JSON, fields), path, {"fieldManager": MANAGER})

    async def merge(self, path: str, fields: Fields) -> Fields:
        """Change these fields alone; `metadata.resourceVersion` among them makes it conditional, as in `replace`."""
        return await self._send(Sent("PATCH", MERGE, fields), path, {"fieldManager": MANAGER})

    async def _send(self, sent: Sent | None, path: str, query: Mapping[str, str]) -> Fields:
        found = bytearray()
        async with self._connection.request(path, query, self._timeout, sent) as chunks:
            async for chunk in chunks:
                found += chunk
                if len(found) > ANSWER_BYTES:
                    raise Away(f"the answer has more than {ANSWER_BYTES} bytes")
        try:
            return read_object(msgspec.Raw(bytes(found)), lambda fields: fields)
        except Unreadable as broken:
            raise Away(str(broken)) from broken


class Lease:
    """One Lease of coordination.k8s.io, read and written whole."""

    def __init__(self, writing: Writing, namespace: str, name: str) -> None:
        self._writing = writing
        self._metadata = {"namespace": namespace, "name": name}
        self._collection = f"/apis/coordination.k8s.io/v1/namespaces/{quote(namespace, '')}/leases"
        self._path = f"{self._collection}/{quote(name, '')}"

    async def read(self) -> Fields | None:
        return await self._writing.read(self._path)

    async def create(self, spec: Fields) -> Fields:
        lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": self._metadata, "spec": spec}
        return await self._writing.create(self._collection, lease)

    async def replace(self, lease: Fields, spec: Fields) -> Fields:
        return await self._writing.replace(self._path, {**lease, "spec": spec})
