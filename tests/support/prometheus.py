"""A real Prometheus on loopback (Debian's package of that name), which scrapes what a test runs."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
from support.ports import free_port

CONFIG = """
global: {{scrape_interval: 1s}}
scrape_configs:
- job_name: broker
  static_configs: [{{targets: [{targets}]}}]
"""


@asynccontextmanager
async def prometheus(folder: Path, *ports: int) -> AsyncIterator[httpx.AsyncClient]:
    """One that scrapes every second; a client of its API."""
    program = shutil.which("prometheus")
    assert program, "there is no program `prometheus` here; on Debian: apt-get install prometheus"
    config, port = folder / "prometheus.yml", free_port()
    config.write_text(CONFIG.format(targets=", ".join(f'"127.0.0.1:{each}"' for each in ports)))
    log = (folder / "prometheus.log").open("wb")
    listening = f"--web.listen-address=127.0.0.1:{port}"
    running = await asyncio.create_subprocess_exec(
        program, f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}", listening, stdout=log, stderr=log
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=10) as client:
            yield client
    finally:
        running.terminate()
        await running.wait()
        log.close()


async def ask(client: httpx.AsyncClient, path: str, **params: str | Sequence[str]) -> Any:
    answer = await client.get(path, params=params)
    said = answer.json()
    assert said["status"] == "success", f"{params}: {said}"
    return said["data"]
