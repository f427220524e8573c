"""kubectl finds `kubectl-aiaccess` by its name and runs it as `kubectl aiaccess`: what it takes, and what it ends with."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from broker import cli, config
from broker.review import command as review

WRONG: Final = 1
USAGE: Final = 2
EVERYWHERE: Final = ""  # in place of a namespace

_KUBECONFIG: Final = config.Switch(
    "--kubeconfig",
    "FILE",
    "credentials for the API server; without it those of kubectl",
    optional=True,
    prefix="AIACCESS_",
    aliases=("KUBECONFIG",),
)
_NAMESPACE: Final = next(one for one in review.OPERATOR if one.flag == "--namespace")
# kubectl's own --namespace is the one that is asked about
_BROKER_NAMESPACE: Final = replace(_NAMESPACE, flag="--broker-namespace", prefix="AIACCESS_", aliases=(_NAMESPACE.variable,))
_OPERATOR: Final = (_BROKER_NAMESPACE, *(one for one in review.OPERATOR if one is not _NAMESPACE))

_EXPLAIN: Final = """\
Works out what a broker of this cluster would decide, from the objects that you may read, and says why: in which namespaces the model is
looked for, which policies name the identity, which providers would be asked, and which quotas count.

Exit code: 0 = yes, 3 = no, 2 = it cannot be known (no cluster, or objects that you may not read).

  kubectl aiaccess explain spiffe://example.org/ns/team1/sa/weather-agent gpt-4o
"""
_WHO_CAN: Final = """\
Which identities may call a model of a namespace, by which policies, under which quotas, and whom a Deny cuts off. Identities are told
as policies name them: one by one, by prefix, by trust domain.

Exit code: 0 = somebody may, 3 = nobody, 2 = it cannot be known (no cluster, or objects that you may not read), or no such model.

  kubectl aiaccess who-can gpt-4o -n team1
"""
_USAGE: Final = """\
Shows status.usage of the AIAccessPolicies: what their identities used in the last 24 hours, and how they stand in each quota.
`broker controller` writes it, at most every 30 seconds, for the 20 identities of a policy that used most.

  kubectl aiaccess usage -A -o csv
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    args = vars(_parser().parse_args(argv))
    try:
        return _run(args, os.environ)
    except config.ConfigError as error:
        complain(str(error))
        return USAGE
    except BrokenPipeError:  # who reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return WRONG
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    told = "Who may call which model, and who used how much, in this cluster."
    parser = argparse.ArgumentParser(prog="kubectl aiaccess", description=told)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    raw = argparse.RawDescriptionHelpFormatter
    explain = commands.add_parser("explain", help="would this identity get this model, and why", description=_EXPLAIN, formatter_class=raw)
    explain.add_argument(
        "identity", metavar="SPIFFE_ID", help="who asks; from spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/NAME its namespace is read"
    )
    explain.add_argument("model", metavar="MODEL", help="the name that is asked for")
    explain.add_argument("-n", "--namespace", metavar="NS", help="the model is that of this namespace, as NS/MODEL asks for it")
    explain.add_argument("-o", "--output", choices=("text", "json", "yaml"), default="text", help="default text")
    who = commands.add_parser("who-can", help="which identities may call a model", description=_WHO_CAN, formatter_class=raw)
    who.add_argument("model", metavar="MODEL", help="its name in its namespace")
    who.add_argument("-n", "--namespace", metavar="NS", help="its namespace; default that of the current context")
    who.add_argument("-o", "--output", choices=("text", "json", "yaml"), default="text", help="default text")
    usage = commands.add_parser("usage", help="what was used under each policy, and by whom", description=_USAGE, formatter_class=raw)
    where = usage.add_mutually_exclusive_group()
    where.add_argument("-n", "--namespace", metavar="NS", help="of this namespace; default that of the current context")
    where.add_argument("-A", "--all-namespaces", action="store_true", help="of every namespace")
    usage.add_argument("-o", "--output", choices=("table", "json", "csv"), default="table", help="default table")
    for switch in (_KUBECONFIG, *_OPERATOR):
        cli.add_switch(explain, switch)
        cli.add_switch(who, switch)
    cli.add_switch(usage, _KUBECONFIG)
    return parser


def _run(args: Mapping[str, Any], environ: Mapping[str, str]) -> int:
    from broker import logs  # noqa: PLC0415  whoever asks for help waits for none of it

    logs.configure(sys.stderr, tuple, "error", "text")
    kubeconfig: str | None = _KUBECONFIG.value(args["kubeconfig"], environ)
    if args["command"] == "usage":
        return _usage(args, kubeconfig, environ)
    if args["command"] == "who-can":
        return _who_can(args, kubeconfig, environ)
    return _explain(args, kubeconfig, environ)


def _explain(args: Mapping[str, Any], kubeconfig: str | None, environ: Mapping[str, str]) -> int:
    from broker.plugin import explaining  # noqa: PLC0415
    from broker.review.explaining import Question, explain  # noqa: PLC0415

    settings = _settings(args, environ)
    model = f"{args['namespace']}/{args['model']}" if args["namespace"] else args["model"]
    question = Question(args["identity"], model)
    seen = explaining.read(question, settings, kubeconfig, environ)
    _remark(seen, settings)
    return explain(question, lambda: seen.resources, settings, args["output"], sys.stdout, seen.unread)


def _who_can(args: Mapping[str, Any], kubeconfig: str | None, environ: Mapping[str, str]) -> int:
    from broker.kube.connection import namespace_of  # noqa: PLC0415
    from broker.plugin import explaining  # noqa: PLC0415
    from broker.review.listing import who_can  # noqa: PLC0415

    settings = _settings(args, environ)
    namespace = args["namespace"] or namespace_of(kubeconfig)
    seen = explaining.read_namespaces(frozenset({namespace, *settings.shared_namespaces}), settings, kubeconfig, environ)
    _remark(seen, settings)
    return who_can((args["model"], namespace), lambda: seen.resources, settings, args["output"], sys.stdout)


def _settings(args: Mapping[str, Any], environ: Mapping[str, str]) -> Any:
    own = _BROKER_NAMESPACE.value(args[_BROKER_NAMESPACE.name], environ)
    return review.policy_settings({**args, "namespace": own}, environ)


def _remark(seen: Any, settings: Any) -> None:
    if seen.own_unread:
        complain(f"namespace {settings.namespace} may not be read: a Deny of the broker's operator would stand there, and count")


def _usage(args: Mapping[str, Any], kubeconfig: str | None, environ: Mapping[str, str]) -> int:
    from broker.kube.connection import namespace_of  # noqa: PLC0415
    from broker.plugin import using  # noqa: PLC0415

    namespace = EVERYWHERE if args["all_namespaces"] else args["namespace"] or namespace_of(kubeconfig)
    policies = using.read(namespace, kubeconfig, environ)
    if not policies:
        complain(f"No AIAccessPolicies found{f' in namespace {namespace}' if namespace else ''}.")
    if unknown := [f"{one.namespace}/{one.name}" for one in policies if one.usage is None]:
        complain(f"nothing is known yet of {', '.join(unknown)}: `broker controller` writes it, when it has the brokers' --quota-store")
    sys.stdout.write(using.shown(policies, args["output"], everywhere=namespace == EVERYWHERE))
    return 0


def complain(text: str) -> None:
    """Say something on standard error."""
    print(f"kubectl aiaccess: {text}", file=sys.stderr)  # noqa: T201  the command's own words
