"""`python -m webhook`."""

import asyncio
import datetime as dt
import logging
import os
import signal
import ssl
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from importlib.metadata import version
from typing import Final

from broker import logs
from broker.config import ConfigError
from broker.kube.connection import Connection, NoCluster
from broker.kube.writing import Writing
from webhook import config, mutate, validate
from webhook.certs import GivenFiles, server_context
from webhook.config import Given, Kept, Settings
from webhook.custody import Custody
from webhook.neighbours import Neighbours
from webhook.review import Request, Verdict
from webhook.server import Doors, Figures, Judge

log = logging.getLogger("webhook")

USAGE: Final = 2  # the exit code of a command that was called wrongly


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT. What keeps a start from working is said in one line."""
    try:
        settings = config.read(argv, os.environ)
        logs.configure(sys.stderr, tuple, settings.log_level, settings.log_format)
        asyncio.run(_until_signal(settings))
    except ConfigError as error:
        return _fail(str(error), USAGE)
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), 1)
    except ValueError as error:
        return _fail(str(error), 1)
    return 0


def _fail(sentence: str, code: int) -> int:
    print(f"webhook: {sentence}", file=sys.stderr)  # noqa: T201  the command's own words
    return code


async def _until_signal(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await run(settings, stop, os.environ)


async def run(settings: Settings, stop: asyncio.Event, environ: Mapping[str, str]) -> None:
    """Serve until `stop` is set, and a while longer: endpoints take a moment to spread, and a review that nobody answers blocks a Pod.

    Raises:
        OSError: an address is taken, or a file cannot be read.
        ValueError: the serving certificate is none, or there are no credentials for the API server where they are needed.
    """
    loop, tls, figures = asyncio.get_running_loop(), server_context(), Figures()
    async with AsyncExitStack() as opened:
        connection = await _connection(settings, environ)
        if connection is not None:
            opened.push_async_callback(connection.close)
        certificate = _certificate(settings, tls, connection)
        figures.certificate_ends.set_function(lambda: certificate.ends)
        doors = Doors(_judges(settings, connection), figures, lambda: certificate.why_not_ready(time.time()))
        watching, stopping = loop.create_task(certificate.watch()), loop.create_task(stop.wait())
        try:
            port, admin = await doors.open(settings.listen, settings.admin, tls)
            log.info("listening", extra={"role": "webhook", "reviews": f"https://:{port}", "admin": f"http://:{admin}"})
            await asyncio.wait((watching, stopping), return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                watching.result()  # it never ends but by a defect of ours, and whoever starts us anew should know
            doors.leave()
            await asyncio.sleep(settings.drain)
        finally:
            watching.cancel()
            stopping.cancel()
            await asyncio.gather(watching, stopping, return_exceptions=True)
            await doors.close()


async def _connection(settings: Settings, environ: Mapping[str, str]) -> Connection | None:
    """None where there is no API server to ask, and none is needed."""
    try:
        return await Connection.open(settings.kubeconfig, environ)
    except NoCluster as why:
        if isinstance(settings.certificate, Kept) or settings.kubeconfig:
            raise
        log.info("no_api_server", extra={"why": str(why)})
        return None


def _certificate(settings: Settings, tls: ssl.SSLContext, connection: Connection | None) -> GivenFiles | Custody:
    if isinstance(settings.certificate, Given):
        files = GivenFiles(settings.certificate.certificate, settings.certificate.key, tls)
        files.load()
        return files
    if connection is None:
        raise ValueError("a certificate of our own needs the API server")
    return Custody(Writing(connection), settings.certificate, tls, lambda: dt.datetime.now(dt.UTC))


def _judges(settings: Settings, connection: Connection | None) -> Mapping[str, Judge]:
    own_version, neighbours = version("inference-broker"), Neighbours(connection)

    async def inject(request: Request) -> Verdict:
        return mutate.judge(request, settings.gateway, own_version)

    async def check(request: Request) -> Verdict:
        """In a thread: an object may be large, and Pods do not wait for it."""
        found = await asyncio.to_thread(validate.examine, request)
        if isinstance(found, Verdict):
            return found
        known = await neighbours.of(found)
        return Verdict(warnings=await asyncio.to_thread(validate.remarks, found, known, settings.namespace))

    return {"/mutate": inject, "/validate": check}


if __name__ == "__main__":
    sys.exit(main())
