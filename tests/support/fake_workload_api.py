"""An agent under the test's thumb: the SPIFFE Workload API on grpcio and generated protobuf, so not on our own code.

async with FakeWorkloadApi(tmp_path) as agent:
    await agent.push(update(svid, ca))       # to every open stream, and to each that comes
    await agent.refuse(grpc.StatusCode.PERMISSION_DENIED)
    await agent.called(2)                    # the second call has come
"""

import asyncio
import itertools
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Self

import grpc
import grpc.aio
from spiffe._proto import workload_pb2, workload_pb2_grpc

from broker.svids import Update

END = object()
_numbers = itertools.count()


def message(update: Update) -> workload_pb2.X509SVIDResponse:
    """Our Update, as protobuf's own runtime writes it."""
    response = workload_pb2.X509SVIDResponse()
    for svid in update.svids:
        response.svids.add(
            spiffe_id=svid.spiffe_id, x509_svid=b"".join(svid.chain), x509_svid_key=svid.key, bundle=b"".join(svid.bundle), hint=svid.hint
        )
    for domain, bundle in update.federated.items():
        response.federated_bundles[domain] = b"".join(bundle)
    return response


class FakeWorkloadApi(workload_pb2_grpc.SpiffeWorkloadAPIServicer):
    def __init__(self, directory: Path | None = None) -> None:
        # short whatever pytest's directories are called: a socket's path has 107 bytes
        self._directory = tempfile.TemporaryDirectory(prefix="wl") if directory is None or len(str(directory)) > 80 else None
        home = Path(self._directory.name) if self._directory else directory
        assert home is not None
        self.path = home / f"agent{next(_numbers)}.sock"
        self.calls = 0
        self.metadata: list[dict[str, str | bytes]] = []
        self._item: object = None
        self._pushed = 0
        self._change = asyncio.Condition()
        self._server: grpc.aio.Server | None = None

    @property
    def endpoint(self) -> str:
        return f"unix://{self.path}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        if self._directory:
            self._directory.cleanup()

    async def start(self) -> None:
        self._server = grpc.aio.server()
        workload_pb2_grpc.add_SpiffeWorkloadAPIServicer_to_server(self, self._server)
        self._server.add_insecure_port(f"unix:{self.path}")
        await self._server.start()

    async def stop(self) -> None:
        """As an agent that is killed: streams end, the socket is gone."""
        if self._server is not None:
            await self._server.stop(grace=None)
        self._server = None

    async def push(self, update: Update) -> None:
        await self._set(message(update))

    async def push_raw(self, response: workload_pb2.X509SVIDResponse) -> None:
        await self._set(response)

    async def refuse(self, code: grpc.StatusCode) -> None:
        """Every open stream, and each that comes, ends with this."""
        await self._set(code)

    async def end(self) -> None:
        """Open streams end in order, with OK; the next caller waits for a push."""
        await self._set(END)

    async def called(self, times: int) -> None:
        async with self._change:
            await self._change.wait_for(lambda: self.calls >= times)

    async def _set(self, item: object) -> None:
        async with self._change:
            self._item = item
            self._pushed += 1
            self._change.notify_all()

    async def FetchX509SVID(  # noqa: N802  the service's name
        self, request: workload_pb2.X509SVIDRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[workload_pb2.X509SVIDResponse]:
        metadata = dict(context.invocation_metadata() or ())
        self.metadata.append(metadata)
        async with self._change:
            self.calls += 1
            self._change.notify_all()
        if metadata.get("workload.spiffe.io") != "true":
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "security header missing from request")
        seen = -1 if self._item is not END else self._pushed
        while True:
            async with self._change:
                await self._change.wait_for(lambda: self._item is not None and self._pushed != seen)  # noqa: B023  read at once
                seen, item = self._pushed, self._item
            if item is END:
                return
            if isinstance(item, grpc.StatusCode):
                await context.abort(item, "no identity issued")
            yield item
