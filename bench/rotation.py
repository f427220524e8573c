# ruff: noqa: T201  a script that talks to people
"""No request may fail while identities change: `make rotation`.

`broker dev` with SVIDs that live ten seconds and an authority that changes its CA on the way, under a steady load of plain and
streamed answers through a local gateway. Exit code 0 when every answer came whole and both kinds of rotation were seen.
"""

import argparse
import asyncio
import json
import os
import re
import signal
import socket
import ssl
import sys
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from cryptography import x509

ROOT = Path(__file__).parent.parent
AGENT = "spiffe://example.org/ns/team1/sa/weather-agent"
SVID_TTL, CA_EVERY = "10s", "45s"
# what is asked, streamed or not, by how many callers; the last kind outlives the SVIDs that it began with
PLAIN, SHORT, LONG = "say 5 words", "say 30 words, sleep 0.02 between tokens", "say 25 words, sleep 0.5 between tokens"
CALLERS = {PLAIN: 4, SHORT: 4, LONG: 8}
START_S, ANSWER_S = 30, 30


@dataclass
class Seen:
    """What happened so far.

    answers: whole ones, by what was asked.
    serials: of the broker's certificates; authorities: key ids of who signed them.
    """

    answers: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    serials: set[int] = field(default_factory=set)
    authorities: set[bytes] = field(default_factory=set)


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0)
    seconds = parser.parse_args().seconds
    seen, began_s = Seen(), time.monotonic()
    async with AsyncExitStack() as closing:
        door, gateway, key = await start(closing)
        session = await closing.enter_async_context(aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}))
        until_s = began_s + seconds
        async with asyncio.TaskGroup() as group:
            for text, callers in CALLERS.items():
                for _ in range(callers):
                    group.create_task(call(session, gateway, seen, until_s, text))
            group.create_task(watch(door, seen, until_s))
    print(
        f"\r{seen.answers[PLAIN]} plain answers, {seen.answers[SHORT]} streams, {seen.answers[LONG]} streams longer than an SVID lives, "
        f"in {time.monotonic() - began_s:.0f} s; {seen.failures.total()} failures"
    )
    print(f"{len(seen.serials)} certificates of the broker were seen, signed by {len(seen.authorities)} authorities")
    for failure, times in seen.failures.most_common(10):
        print(f"  ! {times} x {failure}")
    rotated = len(seen.serials) > 1 and (len(seen.authorities) > 1 or seconds < 60)  # noqa: PLR2004  a short run sees one authority
    return 0 if rotated and not seen.failures and all(seen.answers[text] for text in CALLERS) else 1


async def start(closing: AsyncExitStack) -> tuple[int, int, str]:
    """Start the example's provider and `broker dev`; the ports of the broker's door and of the local gateway, and the placeholder key."""
    folder = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="rotation")))
    provider, door, gateway, admin = free_ports(4)
    (folder / "resources").mkdir()
    for file in (ROOT / "examples" / "01-quickstart" / "resources").glob("*.yaml"):
        text = file.read_text().replace("127.0.0.1:4190", f"127.0.0.1:{provider}")
        text = text.replace("tokens: 100000,", "tokens: 100000000000,").replace("concurrent: 8}", "concurrent: 1000}")
        (folder / "resources" / file.name).write_text(text)
    environ = os.environ | {"PROVIDER_KEY": "rotation-key-that-opens-nothing"}
    local = f"127.0.0.1:{provider}"
    commands = [
        [sys.executable, str(ROOT / "examples" / "01-quickstart" / "provider.py"), str(provider)],
        [
            *(sys.executable, "-m", "broker", "dev", "--resources", str(folder / "resources"), "--state", str(folder / "state")),
            *("--listen", f"127.0.0.1:{door}", "--admin", f"127.0.0.1:{admin}", "--allow-hosts", local, "--plain-http-hosts", local),
            *("--workload", f"{AGENT}={gateway}", "--svid-ttl", SVID_TTL, "--rotate-ca-every", CA_EVERY),
        ],
    ]
    log = closing.enter_context((folder / "log").open("wb"))
    for command in commands:
        process = await asyncio.create_subprocess_exec(*command, env=environ, stdout=log, stderr=log)
        closing.push_async_callback(end, process)
    deadline_s = time.monotonic() + START_S
    while True:
        try:
            for port in (provider, gateway):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
            return door, gateway, json.loads((folder / "state" / "run.json").read_text())["key"]
        except (OSError, ValueError):
            if time.monotonic() > deadline_s:
                raise SystemExit(f"did not start:\n{(folder / 'log').read_text(errors='replace')[-3000:]}") from None
            await asyncio.sleep(0.1)


async def call(session: aiohttp.ClientSession, port: int, seen: Seen, until_s: float, text: str) -> None:
    """Ask again and again; an answer counts when it is whole."""
    streaming = text != PLAIN
    question = {"model": "gpt-4o-mini", "max_tokens": 40, "stream": streaming, "messages": [{"role": "user", "content": text}]}
    timeout = aiohttp.ClientTimeout(total=ANSWER_S)
    while time.monotonic() < until_s:
        try:
            async with session.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=question, timeout=timeout) as answer:
                body = await answer.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            seen.failures[f"{type(error).__name__}: {error}"] += 1
            continue
        whole = body.endswith(b"data: [DONE]\n\n") if streaming else b'"usage"' in body
        if answer.status != 200 or not whole:  # noqa: PLR2004  HTTP's OK
            seen.failures[f"{answer.status} {re.sub(rb' .exchange [0-9a-f]+.', b'', body[-200:])!r}"] += 1
        else:
            seen.answers[text] += 1
        await asyncio.sleep(0.01)


async def watch(port: int, seen: Seen, until_s: float) -> None:
    """Look at the certificate that the broker shows, twice a second. The handshake goes no further: we have none to show."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    while time.monotonic() < until_s:
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        certificate = x509.load_der_x509_certificate(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
        writer.transport.abort()
        seen.serials.add(certificate.serial_number)
        signer = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
        seen.authorities.add(signer or b"")
        print(
            f"\r{until_s - time.monotonic():4.0f} s to go, {seen.answers.total()} answers, {seen.failures.total()} failures ",
            end="",
            flush=True,
        )
        await asyncio.sleep(0.5)


async def end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), 30)
        except TimeoutError:
            process.kill()
            await process.wait()


def free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
