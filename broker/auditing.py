"""`broker audit verify` and `broker audit show`: what they take, and what they print. What each needs is imported when it runs."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

from broker import config

FOUND: Final = 1
USAGE: Final = 2
STDIN: Final = "standard input"
_CLEAR_LINE: Final = "\r\x1b[K"
_VERIFY: Final = """Is the log as it was written? Says each line that was altered, removed, inserted, moved or half written,
across rotated files and restarts, in whatever order the files are given; and what it cannot say.

Exit codes: 0 nothing was found, 1 something was, 2 called wrongly or a file cannot be read."""
_SHOW: Final = """Shows lines of audit files, oldest file first. It verifies nothing: that is broker audit verify."""


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Put `audit` among the commands; `command` is the parser's own way to make one."""
    audit = command("audit", help="verify the audit log, or show lines of it", description="Reads audit files; asks no broker.")
    below = audit.add_subparsers(dest="audit", metavar="COMMAND", required=True)
    raw = argparse.RawDescriptionHelpFormatter
    verify = below.add_parser("verify", help="was a line altered, removed, inserted or moved?", description=_VERIFY, formatter_class=raw)
    verify.add_argument("file", metavar="FILE", nargs="+", help="audit files, also rotated ones, in any order; - is the standard input")
    verify.add_argument(
        "--key-file", metavar="FILE", action="append", default=[], help="the broker's --audit-key-file; again for a key that it had before"
    )
    verify.add_argument(
        "--head", metavar="HASH@SEQ", action="append", default=[],
        help="a head that was noted elsewhere (the log's audit_head, the metrics, an earlier verify): its line must be there; repeatable",
    )  # fmt: skip
    verify.add_argument("-o", "--output", choices=("text", "json"), default="text", help="default text")
    _add_show(below.add_parser)


def _add_show(command: Callable[..., argparse.ArgumentParser]) -> None:
    show = command("show", help="the lines that one wants to see, also as they are written", description=_SHOW)
    show.add_argument("file", metavar="FILE", nargs="+", help="audit files; - is the standard input")
    show.add_argument("--identity", metavar="SPIFFE_ID", default="", help="of this identity; with * at its end, of those that begin so")
    show.add_argument("--policy", metavar="NAMESPACE/NAME", default="", help="what this policy took part in")
    show.add_argument("--model", metavar="MODEL", default="", help="as it was asked for, or NAMESPACE/MODEL")
    show.add_argument("--namespace", metavar="NS", default="", help="whose models were asked for")
    show.add_argument("--decision", choices=("allowed", "refused"), default="", help="what policy, quota and routing said")
    show.add_argument("--code", metavar="CODE", default="", help="answered, caller_left, cut_off, listed, or a refusal's code")
    show.add_argument("--since", metavar="WHEN", help="2026-11-01, 2026-11-01T08:00:00Z, or an age such as 30d or 12h")
    show.add_argument("--until", metavar="WHEN", help="up to, and without")
    show.add_argument("--follow", action="store_true", help="go on with what is written, also when files are rotated")
    show.add_argument(
        "-o", "--output", choices=("table", "json", "csv"), default="table", help="default table; json: the lines as they are"
    )


def run(args: Mapping[str, Any], _environ: Mapping[str, str]) -> int:
    """Run one of the commands and return its exit code.

    Raises:
        config.ConfigError: it was called wrongly.
    """
    try:
        return _verify(args) if args["audit"] == "verify" else _show(args)
    except BrokenPipeError:  # who reads has seen enough: no file of ours is to blame
        raise
    except OSError as problem:
        raise config.ConfigError(f"{problem.filename or 'the audit files'}: {problem.strerror or problem}") from problem


def _verify(args: Mapping[str, Any]) -> int:
    from broker.audit import verdict, verifying  # noqa: PLC0415  commands import what they need, and no more
    from broker.audit.key import read_key  # noqa: PLC0415  as above

    try:
        heads = [verdict.noted(text) for text in args["head"]]
    except ValueError as wrong:
        raise config.ConfigError(f"--head: {wrong}") from wrong
    keys = [read_key("--key-file", Path(name)) for name in args["key_file"]]
    progress = _Progress(sys.stderr) if sys.stderr.isatty() else None
    verifier = verifying.Verifier(keys, heads, progress)
    try:
        for name in verifying.once(args["file"]):
            with _opened(name) as file:
                verifier.read(STDIN if name == "-" else name, file)
    except verifying.KeyNeeded as needed:
        raise config.ConfigError(str(needed)) from needed
    finally:
        if progress:
            progress.end()
    found = verifier.verdict()
    sys.stdout.write(verdict.as_json(found) if args["output"] == "json" else verdict.text(found))
    return FOUND if found.faults else 0


class _Progress:
    """How far we are, on a terminal."""

    def __init__(self, terminal: IO[str]) -> None:
        self._terminal = terminal

    def __call__(self, name: str, read: int) -> None:
        whole = 0
        with suppress(OSError):
            whole = Path(name).stat().st_size
        of = f" of {whole >> 20}" if whole else ""
        self._terminal.write(f"{_CLEAR_LINE}{name}: {read >> 20}{of} MiB")
        self._terminal.flush()

    def end(self) -> None:
        self._terminal.write(_CLEAR_LINE)
        self._terminal.flush()


def _show(args: Mapping[str, Any]) -> int:
    from broker.audit import following, reading, showing, verifying  # noqa: PLC0415  as above

    since, until = config.moment_of("--since", args["since"]), config.moment_of("--until", args["until"])
    picked = {name: args[name] for name in ("identity", "policy", "model", "namespace", "decision", "code")}
    shown = showing.Shown(showing.Wanted(**picked, since=since or showing.BEGINNING, until=until or showing.END), args["output"])
    files = _in_order(list(verifying.once(args["file"])))
    if args["follow"] and "-" in files:
        raise config.ConfigError("--follow follows a file; what comes on the standard input is shown as it comes anyway")
    growing = following.Followed(files.pop()) if args["follow"] else None  # opened first: what is rotated meanwhile is the same file still
    sys.stdout.write(shown.head)
    for name in files:
        with _opened(name) as file:
            sys.stdout.writelines(shown.lines(reading.lines_of(file)))
    if growing:
        _print_at_once(shown.lines(growing.forever(time.sleep)))
    sys.stdout.flush()
    if shown.unreadable:
        sys.stderr.write(f"broker: lines that could not be read: {shown.unreadable}; broker audit verify says which\n")
    if not shown.picked:
        sys.stderr.write(f"broker: of {shown.looked_at} lines none is as wanted\n")
    return 0


def _print_at_once(lines: Iterator[str]) -> None:
    sys.stdout.flush()
    for line in lines:
        sys.stdout.write(line)
        sys.stdout.flush()


def _in_order(names: Sequence[str]) -> list[str]:
    """By the time of their first lines; what can be read only once, such as the standard input, comes last."""
    from broker.audit import reading, showing  # noqa: PLC0415  as above

    def first(name: str) -> tuple[bool, Any]:
        if not Path(name).is_file():
            return True, showing.END
        with Path(name).open("rb") as file:
            return False, showing.began(next(reading.lines_of(file), reading.Raw(0, b"")).bytes)

    return sorted(names, key=first)


def _opened(name: str) -> IO[bytes]:
    return os.fdopen(os.dup(0), "rb") if name == "-" else Path(name).open("rb")
