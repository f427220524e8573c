"""`broker usage`, `grant` and `reset`: one question to the admin door, and its answer in print."""

import asyncio
import sys
from collections.abc import Coroutine, Mapping
from typing import Any, Final

from broker.config import ConfigError, moment_of
from broker.usage import client, tables
from broker.usage.client import Where
from broker.usage.desk import Order
from broker.usage.report import Wanted

WRONG: Final = 1
USAGE: Final = 2
REFUSED: Final = 3
_NOTHING: Final = "broker: nothing is of this --identity, --policy, --model and --since; without them all is shown\n"
_CLEAR: Final = "\x1b[H\x1b[2J"
_FORBIDDEN: Final = (401, 403)
_WRONG_ORDER: Final = range(400, 500)


def run(args: Mapping[str, Any], switches: Mapping[str, Any]) -> int:
    """Ask, print, and return the exit code.

    switches: where the admin door is.

    Raises:
        ConfigError: it was called wrongly.
    """
    where = _place(switches)
    asking = _show(where, args) if args["usage"] is None else _change(where, args)
    try:
        asyncio.run(asking)
    except client.NoAnswer as problem:
        sys.stderr.write(f"broker: {problem}\n")
        return WRONG
    except client.Refused as refusal:
        sys.stderr.write(f"broker: {refusal}\n")
        if refusal.status in _FORBIDDEN:
            return REFUSED
        return USAGE if refusal.status in _WRONG_ORDER else WRONG
    return 0


def _show(where: Where, args: Mapping[str, Any]) -> Coroutine[Any, Any, None]:
    since = moment_of("--since", args["since"])
    wanted = Wanted(args["identity"] or "", args["policy"] or "", args["model"] or "", since.timestamp() if since else 0.0)
    output: tables.Output = args["output"]
    every_s: float | None = args["watch"]

    async def show() -> None:
        async with client.connected(where) as door:
            while True:
                found = await door.report(wanted)
                text = tables.usage(found, output)
                sys.stdout.write((_CLEAR if every_s and sys.stdout.isatty() else "") + text)
                sys.stdout.flush()
                if every_s is None:
                    if wanted != Wanted() and not found.counters and not found.days:
                        sys.stderr.write(_NOTHING)
                    return
                await asyncio.sleep(every_s)

    return show()


def _change(where: Where, args: Mapping[str, Any]) -> Coroutine[Any, Any, None]:
    order = Order(
        reason=args["reason"],
        quota=args["quota"] or "",
        identity=args["identity"] or "",
        amount=args.get("amount") or "",
        dry_run=args["dry_run"],
    )

    async def change() -> None:
        async with client.connected(where) as door:
            changed = await (door.grant(order) if args["usage"] == "grant" else door.reset(order))
        sys.stdout.write(tables.changes(changed, args["output"]))

    return change()


def _place(switches: Mapping[str, Any]) -> Where:
    url: str = switches["admin_url"]
    if not url:
        return Where(socket=switches["admin_socket"])
    if not url.startswith("https://"):
        raise ConfigError("--admin-url URL: begins with https://")
    for name in ("broker_spiffe_id", "spiffe_endpoint_socket"):
        if not switches[name]:
            raise ConfigError(f"--admin-url needs --{name.replace('_', '-')} too")
    return Where(url=url, broker_spiffe_id=switches["broker_spiffe_id"], endpoint=switches["spiffe_endpoint_socket"])
