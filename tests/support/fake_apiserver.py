"""A small API server that misbehaves on demand: lists in pages, watches with bookmarks, and every fault that a watch can meet.

What the real one does is told by the real one (tests/cluster); this is for what it does once in a year.
"""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from broker.names import API_VERSION

TOKEN = "canary-token-of-the-broker"
KINDS = {"aiaccesspolicies": "AIAccessPolicy", "airoutingpolicies": "AIRoutingPolicy", "aiproviders": "AIProvider"}
PLURALS = {kind: plural for plural, kind in KINDS.items()} | {"Secret": "secrets", "ConfigMap": "configmaps"}


@dataclass(eq=False)
class Watch:
    plural: str
    namespace: str | None
    name: str | None
    lines: asyncio.Queue[bytes | None] = field(default_factory=asyncio.Queue)
    transport: asyncio.Transport | None = None

    def sees(self, plural: str, thing: dict[str, Any]) -> bool:
        about = thing["metadata"]
        return plural == self.plural and self.namespace in (None, about["namespace"]) and self.name in (None, about["name"])


class FakeApiServer:
    """`refuse`: asked for each request with path and query; a (status, headers) is the answer, None lets it through.
    `answer_watches`: asked for each new watch; False ends it before its first event. `delay_s`: before each answer."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.version = 100
        self.oldest = 0
        self.history: list[tuple[int, str, str, dict[str, Any]]] = []
        self.watches: list[Watch] = []
        self.requests: list[web.BaseRequest] = []
        self.refuse: Callable[[str, dict[str, str]], tuple[int, dict[str, str]] | None] = lambda path, query: None
        self.answer_watches: Callable[[], bool] = lambda: True
        self.page_objects = 10_000
        self.delay_s = 0.0
        self.port = 0
        self.tls: ssl.SSLContext | None = None
        self._runner: web.AppRunner | None = None
        self._transports: set[asyncio.Transport] = set()

    # objects

    def put(self, thing: dict[str, Any], **metadata: object) -> None:
        """Create or change an object; a changed spec is a new generation."""
        kind, about = thing["kind"], thing["metadata"]
        plural = PLURALS[kind]
        key = plural, about["namespace"], about["name"]
        before = self.objects.get(key)
        self.version += 1
        known = (
            before["metadata"] if before else {"uid": f"uid-{self.version}", "generation": 0, "creationTimestamp": "2026-11-01T00:00:00Z"}
        )
        moved = before is None or before.get("spec") != thing.get("spec")
        made = {
            **thing,
            "metadata": {
                **about,
                "uid": known["uid"],
                "creationTimestamp": known["creationTimestamp"],
                "generation": known["generation"] + moved,
                "resourceVersion": str(self.version),
                "managedFields": [{"manager": "test", "time": str(self.version)}],
                **metadata,
            },
        }
        self.objects[key] = made
        self._tell("MODIFIED" if before else "ADDED", plural, made)

    def delete(self, kind: str, namespace: str, name: str) -> None:
        gone = self.objects.pop((PLURALS[kind], namespace, name))
        self.version += 1
        gone = {**gone, "metadata": {**gone["metadata"], "resourceVersion": str(self.version)}}
        self._tell("DELETED", PLURALS[kind], gone)

    def forget_history(self) -> None:
        """As after a compaction: whoever asks for an older version gets 410."""
        self.history.clear()
        self.oldest = self.version

    def bookmark(self) -> None:
        self.version += 1
        for watch in self.watches:
            watch.lines.put_nowait(_line("BOOKMARK", {"kind": "x", "metadata": {"resourceVersion": str(self.version)}}))

    def send(self, line: bytes) -> None:
        for watch in self.watches:
            watch.lines.put_nowait(line)

    def end_watches(self) -> None:
        """As the server does after timeoutSeconds."""
        for watch in self.watches:
            watch.lines.put_nowait(None)

    def drop(self) -> None:
        """Every connection is cut, mid-sentence."""
        for transport in tuple(self._transports):
            transport.abort()

    def _tell(self, event: str, plural: str, thing: dict[str, Any]) -> None:
        self.history.append((self.version, event, plural, thing))
        for watch in self.watches:
            if watch.sees(plural, thing):
                watch.lines.put_nowait(_line(event, _shown(plural, thing)))

    # being there

    async def up(self) -> None:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True, ssl_context=self.tls).start()
        self.port = self._runner.addresses[0][1]

    async def down(self) -> None:
        self.drop()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def kubeconfig(self, folder: Path, token: str = TOKEN) -> str:
        file = folder / "kubeconfig"
        file.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "test",
                    "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
                    "users": [{"name": "test", "user": {"token": token}}],
                    "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
                }
            )
        )
        return str(file)

    # answering

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        transport = request.transport
        assert isinstance(transport, asyncio.Transport)
        self._transports.add(transport)
        query = dict(request.query)
        await asyncio.sleep(self.delay_s)
        if (refusal := self.refuse(request.path, query)) is not None:
            status, headers = refusal
            body = {"kind": "Status", "code": status, "message": f"{request.path} is refused with {status}"}
            return web.json_response(body, status=status, headers=headers)
        parts = request.path.strip("/").split("/")
        plural = parts[-1]
        namespace = parts[-2] if "namespaces" in parts else None
        name = query.get("fieldSelector", "").removeprefix("metadata.name=") or None
        if query.get("watch") == "true":
            return await self._watch(request, Watch(plural, namespace, name, transport=transport), int(query["resourceVersion"]))
        return self._list(Watch(plural, namespace, name), query)

    def _list(self, wanted: Watch, query: dict[str, str]) -> web.Response:
        found = [_shown(plural, one) for (plural, *_), one in sorted(self.objects.items()) if wanted.sees(plural, one)]
        begin, size = int(query.get("continue", "0")), min(int(query["limit"]), self.page_objects)
        page, more = found[begin : begin + size], begin + size < len(found)
        metadata = {"resourceVersion": str(self.version)} | ({"continue": str(begin + size)} if more else {})
        return web.json_response({"kind": "List", "apiVersion": API_VERSION, "metadata": metadata, "items": page or None})

    async def _watch(self, request: web.Request, watch: Watch, version: int) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        if version < self.oldest:
            await response.write(_line("ERROR", {"kind": "Status", "code": 410, "message": "too old resource version"}))
            return response
        if not self.answer_watches():
            return response
        for at, event, plural, thing in self.history:
            if at > version and watch.sees(plural, thing):
                watch.lines.put_nowait(_line(event, _shown(plural, thing)))
        self.watches.append(watch)
        try:
            while (line := await watch.lines.get()) is not None:
                await response.write(line)
        finally:
            self.watches.remove(watch)
        return response

    def asked(self, *, watch: bool, within: str = "") -> list[web.BaseRequest]:
        return [one for one in self.requests if ("watch" in one.query) == watch and within in one.path]


def _shown(plural: str, thing: dict[str, Any]) -> dict[str, Any]:
    """Items of a list of a built-in kind come without apiVersion and kind."""
    return thing if plural in KINDS else {name: value for name, value in thing.items() if name not in ("apiVersion", "kind")}


def _line(event: str, thing: dict[str, Any]) -> bytes:
    return json.dumps({"type": event, "object": thing}).encode() + b"\n"


@asynccontextmanager
async def api_server() -> AsyncIterator[FakeApiServer]:
    server = FakeApiServer()
    await server.up()
    try:
        yield server
    finally:
        await server.down()


def access(name: str, namespace: str = "team1", **spec: object) -> dict[str, Any]:
    given = {"subjects": [{"spiffeID": f"spiffe://example.org/ns/{namespace}/sa/agent"}], "models": ["gpt-4o"]} | spec
    return {"apiVersion": API_VERSION, "kind": "AIAccessPolicy", "metadata": {"name": name, "namespace": namespace}, "spec": given}


def routing(
    name: str = "routing", namespace: str = "team1", secret: str | None = None, models: tuple[str, ...] = ("gpt-4o",)
) -> dict[str, Any]:
    credentials = {"type": "APIKey", "secretRef": {"name": secret}} if secret else {"type": "None"}
    provider = {"name": "openai", "schema": "OpenAI", "endpoint": "https://api.openai.com/v1", "credentials": credentials}
    spec = {"providers": [provider], "models": [{"name": model, "backends": [{"provider": "openai"}]} for model in models]}
    return {"apiVersion": API_VERSION, "kind": "AIRoutingPolicy", "metadata": {"name": name, "namespace": namespace}, "spec": spec}
