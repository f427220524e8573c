"""`broker doctor`: what it takes, and what it prints."""

import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from broker import config
from broker.cells import plain

WRONG: Final = 1
_TOLD: Final = """\
Looks at everything that a broker needs, from here, with the switches and variables of `broker serve`: Workload API, SVID, trust bundles,
objects, Secrets, providers, quota store, clocks, audit, collector, admin doors. It changes nothing. Run it where the broker runs.

Exit code: 0 = nothing is wrong (warnings included), 1 = something is, 2 = called wrongly.

  kubectl exec -n inference-broker deploy/inference-broker -- broker doctor --like 1
"""
COMMAND_BYTES: Final = 1 << 20


def add(command: Callable[..., argparse.ArgumentParser], add_switch: Callable[[argparse.ArgumentParser, config.Switch], None]) -> None:
    """Put it among the commands; `command` is the parser's own way to make one."""
    raw = argparse.RawDescriptionHelpFormatter
    doctor = command("doctor", help="what keeps a broker from working here, and what to do", description=_TOLD, formatter_class=raw)
    doctor.add_argument("--like", metavar="PID", action=_Like, help="with the switches of the `broker serve` that is this process (Linux)")
    doctor.add_argument(
        "--ask-providers", action="store_true", help="send each provider one GET of its models, with its key; costs nothing"
    )
    doctor.add_argument("--peer", metavar="SPIFFE_ID", action="append", default=[], help="could this one get in; repeatable")
    doctor.add_argument("-o", "--output", choices=("text", "json"), default="text", help="default text")
    for switch in config.SERVE:
        add_switch(doctor, switch)


class _Like(argparse.Action):
    """Takes the switches of a broker that runs, where they are not given here: in a pod they are its arguments, not variables."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        try:
            words = _words_of(str(values))
        except (OSError, ValueError) as wrong:
            parser.error(f"{option_string} {values}: {getattr(wrong, 'strerror', None) or wrong}")
        for name, value in vars(parser.parse_args(words)).items():
            if value is not None and getattr(namespace, name, None) is None:
                setattr(namespace, name, value)


def _words_of(pid: str) -> list[str]:
    """What a `broker serve` was started with.

    Raises:
        OSError: there is no such process, or it is somebody else's.
        ValueError: it is no broker.
    """
    if not pid.isascii() or not pid.isdigit():
        raise ValueError("is no process id")
    with Path("/proc", pid, "cmdline").open("rb") as file:
        words = file.read(COMMAND_BYTES).decode(errors="replace").split("\0")[:-1]
    if "serve" not in words:
        raise ValueError("is no `broker serve`")
    return words[words.index("serve") + 1 :]


def run(args: Mapping[str, Any], environ: Mapping[str, str]) -> int:
    """Look, print, and say by the exit code whether something is wrong."""
    from broker import logs  # noqa: PLC0415  commands import what they need, and no more
    from broker.doctor import examining, finding  # noqa: PLC0415
    from broker.identity import InvalidSpiffeId, parse_spiffe_id  # noqa: PLC0415

    for one in args["peer"]:
        try:
            parse_spiffe_id(one)
        except InvalidSpiffeId as wrong:
            raise config.ConfigError(f"--peer: {wrong}") from wrong
    logs.configure(sys.stderr, tuple, "critical", "text")  # what is wrong is in a row
    values, faults = _values(args, environ)
    remedy = "give it as docs/commands.md has it; --like PID takes the switches of a broker that runs"
    findings = [finding.fail("switches", fault, remedy) for fault in faults.values()]
    settings = config.BrokerSettings(environ=environ, **values)
    order = examining.Order(settings, frozenset(faults), args["peer"], ask=args["ask_providers"])
    findings += asyncio.run(examining.examine(order))
    failed = any(one.state is finding.State.FAIL for one in findings)
    if args["output"] == "json":
        rows = [{"state": str(one.state), "check": one.check, "found": one.found, "remedy": one.remedy} for one in findings]
        sys.stdout.write(json.dumps({"ok": not failed, "findings": rows}, indent=2) + "\n")
    else:
        sys.stdout.write("".join(f"{line}\n" for line in _lines(findings)))
    return WRONG if failed else 0


def _values(args: Mapping[str, Any], environ: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """The switches, and of those that are missing or wrong what is; they have their default, or nothing."""
    values: dict[str, Any] = {}
    faults: dict[str, str] = {}
    for switch in config.SERVE:
        try:
            values[switch.name] = switch.value(args.get(switch.name), environ)
        except config.ConfigError as wrong:
            faults[switch.name] = str(wrong)
            values[switch.name] = () if switch.many else None if switch.default is None else switch.value(switch.default, {})
    return values, faults


def _lines(findings: Sequence[Any]) -> Iterator[str]:
    width = max((len(one.check) for one in findings), default=0)
    for one in findings:
        yield f"{one.state:<4}  {one.check:<{width}}  {plain(one.found)}"
        if one.remedy:
            yield f"{'':<4}  {'':<{width}}  -> {one.remedy}"
    count = {state: sum(str(one.state) == state for one in findings) for state in ("FAIL", "WARN", "OK")}
    yield f"{count['FAIL']} wrong, {count['WARN']} to look at, {count['OK']} well"
