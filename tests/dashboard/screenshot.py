# ruff: noqa: T201  a script that talks to people
"""Makes docs/dashboard.png: `make screenshot`. Two real brokers under some minutes of mixed traffic, a real Prometheus, headless Chromium.

Needs the programs `prometheus`, `chromium` and `pngquant` (Debian: apt-get install prometheus chromium pngquant fonts-dejavu-core). The page
is drawn by this script from the dashboard's JSON, and says so: Grafana's server is in none of the package registries.
"""

import argparse
import asyncio
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

import httpx2 as httpx
from dashboard.drawing import WIDTH, Range, Series, height, page
from dashboard.traffic import afternoon
from support.dashboard import FILE, VARIABLES
from support.prometheus import ask, prometheus

PICTURE = Path(__file__).parent.parent.parent / "docs" / "dashboard.png"
NOTE = (
    "Drawn by tests/dashboard/screenshot.py from charts/inference-broker/dashboards/inference-broker.json, not by Grafana. "
    "Every panel's own queries, answered by a real Prometheus that scraped two real brokers under made-up traffic."
)
MOST_BYTES = 300_000
STEP_S = 1.0
RATE_INTERVAL = "10s"  # Grafana's $__rate_interval is four scrapes at least; ours are a second apart
LABEL = re.compile(r"\{\{\s*(\w+)\s*\}\}")
CHROMIUM = ("--headless", "--disable-gpu", "--hide-scrollbars", "--force-device-scale-factor=1", "--disable-extensions", "--no-first-run")


def titles(dashboard: dict[str, Any]) -> list[str]:
    """Of all panels that have something to show."""
    return [panel["title"] for panel in dashboard["panels"] if panel["type"] != "row"]


def query(expression: str) -> str:
    """As Grafana would send it, everything chosen."""
    for name, value in {**VARIABLES, "$__rate_interval": RATE_INTERVAL}.items():
        expression = expression.replace(name, value)
    return expression


def named(legend: str, labels: dict[str, str]) -> str:
    """As Grafana fills in a legend: a label that is not there is left out."""
    return LABEL.sub(lambda found: labels.get(found[1], ""), legend)


async def answered(client: httpx.AsyncClient, dashboard: dict[str, Any], over: Range) -> dict[int, list[Series]]:
    """What Prometheus says to every query of every panel."""
    when = {"start": str(over.began_s), "end": str(over.ended_s), "step": str(over.step_s)}
    found: dict[int, list[Series]] = {}
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            continue
        found[panel["id"]] = [
            Series(named(target["legendFormat"], one["metric"]), [(at_s, float(value)) for at_s, value in one["values"] if value != "NaN"])
            for target in panel["targets"]
            for one in (await ask(client, "/query_range", query=query(target["expr"]), **when))["result"]
        ]
    return found


def shoot(html: str, size: tuple[int, int], folder: Path) -> bytes:
    """The page as a PNG of 256 colours, a third of the size."""
    programs = [shutil.which(name) for name in ("chromium", "pngquant")]
    if None in programs:
        raise SystemExit(
            "the programs `chromium` and `pngquant` are needed; on Debian: apt-get install chromium pngquant fonts-dejavu-core"
        )
    source, picture = folder / "page.html", folder / "page.png"
    source.write_text(html, encoding="utf-8")
    own = ["--no-sandbox"] if os.geteuid() == 0 else []  # it refuses to run sandboxed as root; the page is ours and has no script
    window = f"--window-size={size[0]},{size[1]}"
    command = [programs[0], *CHROMIUM, *own, window, f"--user-data-dir={folder / 'profile'}", f"--screenshot={picture}", source.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    smaller = [programs[1], "--strip", "--output", folder / "smaller.png", "256", picture]
    subprocess.run(smaller, check=True, capture_output=True, timeout=120)
    return (folder / "smaller.png").read_bytes()


def marked(png: bytes, text: str) -> bytes:
    """The picture, and in it what it shows: a test reads that from it."""
    body = b"iTXtDescription\0\0\0\0\0" + text.encode()
    piece = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return png[:-12] + piece + png[-12:]  # before IEND


def mark(png: bytes) -> str:
    """What `marked` wrote."""
    at = png.index(b"iTXtDescription\0\0\0\0\0")
    (length,) = struct.unpack(">I", png[at - 4 : at])
    return png[at + 4 : at + 4 + length].removeprefix(b"Description\0\0\0\0\0").decode()


async def main() -> int:
    parser = argparse.ArgumentParser(prog="make screenshot", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=240.0, help="how long the traffic lasts")
    parser.add_argument("--out", type=Path, default=PICTURE)
    arguments = parser.parse_args()
    dashboard = json.loads(FILE.read_text())
    with tempfile.TemporaryDirectory(prefix="screenshot") as name:
        folder = Path(name)
        async with afternoon(folder, arguments.seconds) as admins, prometheus(folder, *admins) as client:
            began_s = time.time()
            print(f"{len(admins)} brokers are busy for {arguments.seconds:.0f} seconds", flush=True)
            await asyncio.sleep(arguments.seconds)
            over = Range(began_s + float(RATE_INTERVAL[:-1]) + 2, time.time(), STEP_S)
            drawn = await answered(client, dashboard, over)
        html = page(dashboard, drawn, over, NOTE)
        png = marked(shoot(html, (WIDTH, height(dashboard)), folder), "\n".join(titles(dashboard)))
    if len(png) > MOST_BYTES:
        raise SystemExit(f"the picture has {len(png)} bytes, more than {MOST_BYTES}: too much for a document")
    arguments.out.write_bytes(png)
    print(f"{arguments.out}: {len(titles(dashboard))} panels, {len(png)} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
