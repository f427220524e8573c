"""`broker usage` and its commands: what they take, and what they print. What each needs beside that is imported when it runs."""

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from broker import config

WRONG: Final = 1
WATCH_S: Final = 2.0
DEV_SOCKET: Final = ".state/admin.sock"  # of `broker dev` without further switches

_USAGE: Final = """\
Asks a running broker what its quotas count, over its admin socket or over mutual TLS, and changes counters. `export` asks nobody: it
reads audit files.

Exit code: 0 = done, 1 = no broker answers or it cannot tell now, 2 = called wrongly, 3 = we may not ask.

  broker usage --policy team1/weather-agents
"""
SWITCHES: Final = (
    config.Switch("--admin-socket", "PATH", "the local admin socket of the broker", DEV_SOCKET, Path),
    config.Switch("--admin-url", "URL", "https://HOST:PORT of the broker's --admin-mtls, instead of a socket", "", str),
    config.Switch("--broker-spiffe-id", "ID", "with --admin-url: who the broker must be", "", str),
    config.Switch(
        *("--spiffe-endpoint-socket", "unix:///PATH", "with --admin-url: the SPIFFE Workload API that gives us our SVID", ""),
        aliases=("SPIFFE_ENDPOINT_SOCKET",),
    ),
)


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Put `usage` among the commands; `command` is the parser's own way to make one."""
    shown = command(
        "usage",
        help="what was used of every quota, and by whom; grant more, reset, export",
        description=_USAGE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _where(shown)
    _filters(shown)
    shown.add_argument(
        "--watch", metavar="SECONDS", nargs="?", const=WATCH_S, type=_seconds, help=f"again and again; alone every {WATCH_S:g} s"
    )
    below = shown.add_subparsers(dest="usage", metavar="[COMMAND]")
    for name, help_text in (
        ("grant", "let an identity have more, or less, in the window of a quota that runs now"),
        ("reset", "put counters of the windows that run now to what is held for running exchanges"),
    ):
        changing = below.add_parser(
            name, help=help_text, description=f"{help_text[0].upper()}{help_text[1:]}. It is written to the audit log."
        )
        _where(changing)
        changing.add_argument(
            "--quota", metavar="NAMESPACE/POLICY/QUOTA", required=name == "grant", help="for a model's rateLimit NAMESPACE/POLICY/MODEL"
        )
        changing.add_argument("--identity", metavar="SPIFFE_ID", help="whose count")
        if name == "grant":
            changing.add_argument(
                "--amount", metavar="N", required=True, help="in the quota's unit, dollars where it counts those; --amount=-N takes back"
            )
        changing.add_argument("--reason", metavar="TEXT", required=True, help="why; goes into the audit log")
        changing.add_argument("--dry-run", action="store_true", help="say what would change, and change nothing")
        changing.add_argument("-o", "--output", choices=("table", "json", "csv"), default="table", help="default table")
    _add_export(below.add_parser)


def _add_export(command: Callable[..., argparse.ArgumentParser]) -> None:
    told = "Who owes what: reads audit files, and prints one line for each day (UTC), identity and model."
    export = command("export", help="for chargeback, from audit files: per day, identity and model", description=told)
    export.add_argument("--audit", metavar="FILE", nargs="+", required=True, help="audit files, in any order; - is the standard input")
    export.add_argument("--since", metavar="WHEN", help="2026-11-01, 2026-11-01T08:00:00Z, or an age such as 30d or 12h")
    export.add_argument("--until", metavar="WHEN", help="up to, and without")
    export.add_argument("-o", "--output", choices=("csv", "jsonl"), default="csv", help="default csv")
    export.add_argument("--strict", action="store_true", help="exit code 1 when a line could not be read, or is known to be lost")


def _where(parser: argparse.ArgumentParser) -> None:
    for switch in SWITCHES:
        default = f"; default {switch.default}" if switch.default else ""
        also = "".join(f" or {alias}" for alias in switch.aliases)
        text = f"{switch.help} [{switch.variable}{also}{default}]"
        # of two parsers that know a switch the inner one has the last word, also when it was not given there: hence no default
        parser.add_argument(switch.flag, metavar=switch.metavar, help=text, dest=switch.name, default=argparse.SUPPRESS)


def _filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--identity", metavar="SPIFFE_ID", help="of this identity alone; with * at its end, of those that begin so")
    parser.add_argument("--policy", metavar="NAMESPACE/NAME", help="of this policy alone")
    parser.add_argument("--model", metavar="MODEL", help="quotas that count this virtual model alone")
    parser.add_argument("--since", metavar="WHEN", help="identities that were served since then: an age such as 2h, a day, a time")
    parser.add_argument("-o", "--output", choices=("table", "wide", "json", "csv"), default="table", help="default table")


def run(args: Mapping[str, Any], environ: Mapping[str, str]) -> int:
    """Run one of the commands and return its exit code.

    Raises:
        config.ConfigError: it was called wrongly.
    """
    if args["usage"] == "export":
        return _export(args)
    from broker.usage import asking  # noqa: PLC0415  commands import what they need, and no more

    return asking.run(args, {switch.name: switch.value(args.get(switch.name), environ) for switch in SWITCHES})


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 86400:  # noqa: PLR2004  from what a broker should be asked to what anybody waits for
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 0.1 on")
    return seconds


def _export(args: Mapping[str, Any]) -> int:
    from broker.audit.reading import lines_of  # noqa: PLC0415
    from broker.usage import chargeback  # noqa: PLC0415

    since, until = config.moment_of("--since", args["since"]), config.moment_of("--until", args["until"])
    span = chargeback.Span(since or chargeback.BEGINNING, until or chargeback.END)
    bill, faults = chargeback.Bill(), chargeback.Faults(sys.stderr)
    try:
        for name in args["audit"]:
            if name == "-":
                chargeback.read("standard input", lines_of(sys.stdin.buffer), span, bill, faults)
            else:
                with Path(name).open("rb") as file:
                    chargeback.read(name, lines_of(file), span, bill, faults)
        chargeback.write(bill, args["output"], sys.stdout)
    except OSError as problem:
        if isinstance(problem, BrokenPipeError):
            raise
        _complain(f"{problem.filename or 'the audit files'}: {problem.strerror or problem}")
        return WRONG
    finally:
        bill.close()
    if faults.unreadable or faults.lost:
        _complain(f"lines that could not be read: {faults.unreadable}, known to be lost: {faults.lost}; they are in no sum above")
        return WRONG if args["strict"] else 0
    return 0


def _complain(text: str) -> None:
    """Say on standard error what was wrong."""
    print(f"broker: {text}", file=sys.stderr)  # noqa: T201  the command's own words
