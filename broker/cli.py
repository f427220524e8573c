"""The commands. Each imports what it needs and nothing else: the local gateway is in every agent's pod and must stay small."""

import argparse
import asyncio
import ctypes
import errno
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from broker import auditing, config
from broker.doctor import command as doctor
from broker.review import command as review
from broker.usage import command as usage

PROBE_S: Final = 2.0
USAGE = 2  # the exit code of a command that was called wrongly
M_TRIM_THRESHOLD: Final = -1  # malloc.h
M_MMAP_THRESHOLD: Final = -3
MMAP_BYTES: Final = 1 << 20
TRIM_BYTES: Final = 4 << 20
DESCRIPTORS: Final = 65_536  # each agent's gateway costs one, each provider's connection another
Command = Callable[[Mapping[str, Any], Mapping[str, str]], int]

_PORT = next(switch for switch in config.GATEWAY if switch.flag == "--port")

_TOLD = {
    "serve": "Runs one broker replica. It serves when it has an SVID, its objects and its quota store; /readyz says what is missing.",
    "gateway": "Runs the local gateway of one agent pod: plain HTTP on loopback in, mutual TLS to the broker out.",
    "controller": "Writes into each object's status what the brokers make of it, with what was used. One of several leads. Needs no SVID.",
    "dev": "Runs everything on one machine, without a cluster: an in-process SPIFFE issuer, the broker with real mutual TLS, "
    "SQLite quotas, and one local gateway per --workload.",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser, commands = build_parser()
    args = vars(parser.parse_args(argv))
    run = commands[args.pop("command")]
    try:
        return run(args, os.environ)
    except config.ConfigError as error:
        print(f"broker: {error}", file=sys.stderr)  # noqa: T201  the command's own words
        return USAGE
    except BrokenPipeError:  # who reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def build_parser() -> tuple[argparse.ArgumentParser, dict[str, Command]]:
    parser = argparse.ArgumentParser(prog="broker", description="The tokenless inference broker: identity instead of API keys.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, switches, help_text in (
        ("serve", config.SERVE, "run a broker replica"),
        ("gateway", config.GATEWAY, "run the local gateway of an agent pod"),
        ("controller", config.CONTROLLER, "write the status of the objects of a Kubernetes cluster"),
        ("dev", config.DEV, "run everything on one machine, no cluster"),
    ):
        command = commands.add_parser(name, help=help_text, description=_TOLD[name], formatter_class=argparse.RawDescriptionHelpFormatter)
        for switch in switches:
            add_switch(command, switch)
        if name == "dev":
            command.add_argument("--print-env", metavar="SPIFFE_ID", help="print what the webhook would inject for this workload, and exit")
    review.add(commands.add_parser, add_switch)
    doctor.add(commands.add_parser, add_switch)
    usage.add(commands.add_parser)
    auditing.add(commands.add_parser)
    probe_it = commands.add_parser("probe", help="does the local gateway of this pod listen (exit code 0 = yes, 1 = no)")
    add_switch(probe_it, _PORT)
    return parser, {
        "serve": serve,
        "gateway": gateway,
        "controller": controller,
        "dev": dev,
        **review.RUN,
        "doctor": doctor.run,
        "usage": usage.run,
        "audit": auditing.run,
        "probe": probe,
    }


def add_switch(command: argparse.ArgumentParser, switch: config.Switch) -> None:
    """Let a command take it."""
    if switch.many:
        command.add_argument(switch.flag, metavar=switch.metavar, help=_describe(switch), dest=switch.name, action="append")
    elif switch.read is config.yes_or_no:  # the flag alone means true
        command.add_argument(switch.flag, metavar=switch.metavar, help=_describe(switch), dest=switch.name, nargs="?", const="true")
    else:
        command.add_argument(switch.flag, metavar=switch.metavar, help=_describe(switch), dest=switch.name)


def _describe(switch: config.Switch) -> str:
    default = "" if switch.default in (None, "") else f"; default {switch.default}"
    also = "".join(f" or {alias}" for alias in switch.aliases)
    return f"{switch.help} [{switch.variable}{also}{default}]".replace("%", "%%")


def _values(switches: Sequence[config.Switch], args: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    return {switch.name: switch.value(args.get(switch.name), environ) for switch in switches}


def serve(args: Mapping[str, Any], environ: Mapping[str, str]) -> int:
    from broker import wiring  # noqa: PLC0415  commands import what they need, and no more

    values = _values(config.SERVE, args, environ)
    settings = config.BrokerSettings(environ=environ, **values)
    _allow_descriptors()
    _give_memory_back()
    return _run(lambda stop: wiring.run(settings, stop))


def _allow_descriptors() -> None:
    """As many as the system lets us have: the usual 1024 would be less than --max-connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _give_memory_back() -> None:
    """Glibc learns from large blocks that were freed to keep more and more of them: after one answer of 30 MiB, 60 MiB for ever."""
    with suppress(AttributeError, OSError):  # of another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, MMAP_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, TRIM_BYTES)


def gateway(args: Mapping[str, Any], environ: Mapping[str, str]) -> int:
    from broker import local_gateway  # noqa: PLC0415

    values = _values(config.GATEWAY, args, environ)
    if not values["broker"]:
        raise config.ConfigError("--broker HOST:PORT is missing: give it, or set BROKER_BROKER")
    _log_to_stderr(values)
    settings = local_gateway.GatewaySettings(
        brokers=values["broker"],
        broker_spiffe_id=values["broker_spiffe_id"],
        endpoint=values["spiffe_endpoint_socket"],
        port=values["port"],
        passthrough=values["passthrough"],
        drain_s=values["drain"],
    )
    return _run(lambda stop: local_gateway.run(settings, stop))


def probe(args: Mapping[str, Any], environ: Mapping[str, str]) -> int:
    """For the kubelet, which cannot get to a loopback that is not its own."""
    try:
        socket.create_connection(("127.0.0.1", _PORT.value(args["port"], environ)), PROBE_S).close()
    except OSError:
        return 1
    return 0


def controller(args: Mapping[str, Any], environ: Mapping[str, str]) -> int:
    from broker.controller import running  # noqa: PLC0415

    values = _values(config.CONTROLLER, args, environ)
    _log_to_stderr(values)
    settings = config.ControllerSettings(environ=environ, **values)
    return _run(lambda stop: running.run(settings, stop))


def dev(args: Mapping[str, Any], environ: Mapping[str, str]) -> int:
    from broker import dev as machine  # noqa: PLC0415

    wanted = args["print_env"]
    values = _values(config.DEV, args, environ)
    state: Path = values.pop("state")
    if wanted is not None:
        for name, value in machine.environment_of(state, wanted).items():
            _say(f"{name}={value}")
        return 0
    workloads, svid_ttl_s, rotate_s = values.pop("workload"), values.pop("svid_ttl"), values.pop("rotate_ca_every")

    def broker_settings(endpoint: str) -> config.BrokerSettings:
        return config.BrokerSettings(
            environ=environ,
            spiffe_endpoint_socket=endpoint,
            audit=str(state / "audit.jsonl"),
            sealing_keys=state / machine.SEALING_KEYS,
            quota_store=f"sqlite:///{(state / 'quota.sqlite').resolve()}",
            admin_socket=machine.admin_socket(state),
            **values,
        )

    settings = machine.DevSettings(state, workloads, svid_ttl_s, rotate_s, broker_settings)
    return _run(lambda stop: machine.run(settings, stop))


def _log_to_stderr(values: Mapping[str, Any]) -> None:
    from broker import logs  # noqa: PLC0415

    logs.configure(sys.stderr, tuple, values["log_level"], values["log_format"])


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201  the command's own words


def _run(serve_until: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> int:
    """Run until SIGTERM or SIGINT, then drain; a second signal ends at once. What keeps a start from working is said in one line."""

    async def until_signal() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def end() -> None:
            stop.set()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
                signal.signal(number, signal.SIG_DFL)  # Python's own handler of SIGINT would end in a page of tracebacks

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, end)
        await serve_until(stop)

    failed: list[str] = []
    try:
        asyncio.run(until_signal())
    except* (OSError, ValueError) as wrong:
        failed.extend(_sentences(wrong))
    for sentence in failed:
        print(f"broker: {sentence}", file=sys.stderr)  # noqa: T201  the command's own words
    return 1 if failed else 0


def _sentences(group: BaseExceptionGroup[OSError | ValueError]) -> Iterator[str]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _sentences(error)
        elif isinstance(error, OSError) and error.filename:
            yield f"{error.filename}: {error.strerror}"
        elif isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            yield f"{error.strerror}: end what listens there, or give another of --admin, --listen, --port or --workload, whichever it is"
        elif isinstance(error, OSError) and error.strerror:
            yield error.strerror
        else:
            yield str(error)
