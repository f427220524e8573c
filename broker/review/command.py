"""`broker check`, `explain`, `who-can` and `diff`: what they take. What each needs beside that is imported when it runs."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from broker import config

OPERATOR: Final = tuple(
    switch
    for switch in config.SERVE
    if switch.flag in ("--namespace", "--shared-model-namespaces", "--allow-inline-credentials", "--plain-http-hosts", "--allow-hosts")
)
TRUST_DOMAIN: Final = config.Switch(
    "--trust-domain", "TD", "the broker's own trust domain; without it, that of whoever asks", optional=True
)

_CHECK: Final = """\
Says everything that is wrong with the objects, and what each would be told in Kubernetes. Hosts and keys count as well: give the
switches that the broker has, such as --allow-hosts, and the variables that ${env:NAME} in a Secret names.

Exit code: 0 = every object is accepted (warnings included), 1 = one is not, or none can be read, 2 = called wrongly.

  broker check -f policies/
"""
_QUESTIONS: Final = """\
Would this identity get this model, and why. Exit code: 0 = yes, 3 = no, 2 = the question or the objects cannot be read.

With --questions, policies are tested: a YAML or JSON list, or a CSV file whose name ends with .csv, of identity, model and, where an
answer is expected, expected: allow or deny. Exit code: 0 = all as expected, 3 = not.

  broker explain -f policies/ --questions expected.yaml
"""
_WHO_CAN: Final = """\
Which identities may call a model, by which policies, under which quotas, and whom a Deny cuts off; or which models an identity may call.
Exit code: 0 = somebody may, 3 = nobody, 2 = it cannot be known, or there is no such model.

  broker who-can -f policies/ --model gpt-4o -n team1
  broker who-can -f policies/ --identity spiffe://example.org/ns/team1/sa/agent
"""
_DIFF: Final = """\
What an edit of the objects changes: which identities gain or lose which models, features and quotas. Identities are told as policies
name them: one by one, by prefix, by trust domain. Secrets need not be among the files.

Exit code: 0 = nobody gains, 4 = somebody gains, 1 = objects cannot be read, or new ones are not accepted, 2 = called wrongly.

  broker diff -f main/policies -f policies -o markdown
"""

AddSwitch = Callable[[argparse.ArgumentParser, config.Switch], None]


def add(command: Callable[..., argparse.ArgumentParser], add_switch: AddSwitch) -> None:
    """Put them among the commands; `command` is the parser's own way to make one."""
    raw = argparse.RawDescriptionHelpFormatter
    check = command(
        "check", help="validate objects: all errors at once, in files with file, line and column", description=_CHECK, formatter_class=raw
    )
    explain = command(
        "explain",
        help="would this identity get this model, and why (exit code 0 = yes, 3 = no)",
        description=_QUESTIONS,
        formatter_class=raw,
    )
    explain.add_argument("--identity", metavar="SPIFFE_ID", help="who asks")
    explain.add_argument("--model", metavar="MODEL", help="the name that the agent asks for")
    explain.add_argument("--questions", metavar="FILE", type=Path, help="many questions, with what is expected")
    who = command("who-can", help="which identities may call a model, and how much", description=_WHO_CAN, formatter_class=raw)
    asked = who.add_mutually_exclusive_group(required=True)
    asked.add_argument("--model", metavar="MODEL", help="its name, or NAMESPACE/NAME")
    asked.add_argument("--identity", metavar="SPIFFE_ID", help="which models this identity may call")
    who.add_argument("-n", "--model-namespace", metavar="NS", help="the model is that of this namespace")
    diff = command("diff", help="who gains or loses what by an edit (exit code 4 = somebody gains)", description=_DIFF, formatter_class=raw)
    diff.add_argument("-f", "--file", metavar="PATH", action="append", default=[], help="given twice: the old objects, and the new ones")
    for one, outputs in (
        (check, ("text", "json", "yaml")),
        (explain, ("text", "table", "json", "yaml")),
        (who, ("text", "json", "yaml")),
        (diff, ("text", "json", "markdown")),
    ):
        one.add_argument("-o", "--output", choices=outputs, default="text", help="default text")
        if one is not diff:
            one.add_argument("-f", "--file", metavar="PATH", action="append", help="a file or a folder; repeatable")
        for switch in (*(() if one is diff else config.CLUSTER), *OPERATOR, *(() if one is check else (TRUST_DOMAIN,))):
            add_switch(one, switch)


def check(args: Mapping[str, Any], environ: Mapping[str, str]) -> int:
    from broker.review import checking  # noqa: PLC0415  commands import what they need, and no more

    read = _reader(args, environ)
    return checking.check(checking.of_files(read) if args["file"] else read, policy_settings(args, environ), args["output"], sys.stdout)


def explain(args: Mapping[str, Any], environ: Mapping[str, str]) -> int:
    from broker.review import explaining, questions  # noqa: PLC0415

    one = (args["identity"], args["model"])
    if (args["questions"] is None) != all(one) or (args["questions"] and any(one)):
        raise config.ConfigError("give --identity and --model, or --questions alone")
    if args["questions"] is not None:
        return questions.ask(args["questions"], _reader(args, environ), policy_settings(args, environ), args["output"], sys.stdout)
    if args["output"] == "table":
        raise config.ConfigError("-o table belongs to --questions; take text")
    question = explaining.Question(*one)
    return explaining.explain(question, _reader(args, environ), policy_settings(args, environ), args["output"], sys.stdout)


def who_can(args: Mapping[str, Any], environ: Mapping[str, str]) -> int:
    from broker.review import listing  # noqa: PLC0415

    read, settings = _reader(args, environ), policy_settings(args, environ)
    if args["identity"] is not None:
        if args["model_namespace"] is not None:
            raise config.ConfigError("-n belongs to --model")
        return listing.what_can(args["identity"], read, settings, args["output"], sys.stdout)
    return listing.who_can((args["model"], args["model_namespace"]), read, settings, args["output"], sys.stdout)


def diff(args: Mapping[str, Any], environ: Mapping[str, str]) -> int:
    from broker import files  # noqa: PLC0415
    from broker.review import differing  # noqa: PLC0415

    if len(args["file"]) != 2:  # noqa: PLR2004  the old and the new
        raise config.ConfigError("give -f twice: the old objects, and the new ones")
    old, new = (files.Folder(Path(path), environ).read for path in args["file"])
    return differing.diff(old, new, policy_settings(args, environ), args["output"], sys.stdout)


RUN: Final[Mapping[str, Callable[[Mapping[str, Any], Mapping[str, str]], int]]] = {
    "check": check,
    "explain": explain,
    "who-can": who_can,
    "diff": diff,
}


def _reader(args: Mapping[str, Any], environ: Mapping[str, str]) -> Callable[[], Any]:
    """What reads the objects: of the files that were named, else of --resources."""
    from broker import files, logs  # noqa: PLC0415

    where = _values(config.CLUSTER, args, environ)
    if args["file"] or where["resources"] not in (None, "kubernetes"):
        return files.Folder([Path(path) for path in args["file"] or (where["resources"],)], environ).read
    if where["resources"] is None:
        raise config.ConfigError("say where the objects are: -f PATH, or --resources kubernetes")
    from broker.kube import connection, once, source  # noqa: PLC0415

    own = policy_settings(args, environ)
    scope = source.Scope.of(own.namespace, own.shared_namespaces, where["namespaces"])
    logs.configure(sys.stderr, tuple, "error", "text")

    def read() -> Any:
        try:
            return once.read_once(where["kubeconfig"], environ, scope)
        except connection.NoCluster as wrong:
            raise config.ConfigError(str(wrong)) from wrong

    return read


def policy_settings(args: Mapping[str, Any], environ: Mapping[str, str]) -> Any:
    """What the operator said, as policy has it."""
    from broker import addresses, policy  # noqa: PLC0415

    values = _values(OPERATOR, args, environ)
    settings = policy.Settings(
        namespace=values["namespace"],
        shared_namespaces=values["shared_model_namespaces"],
        allow_inline=values["allow_inline_credentials"],
        plain_http=addresses.parse_hosts(values["plain_http_hosts"]),
        allowed=addresses.parse_hosts(values["allow_hosts"]),
    )
    return replace(settings, trust_domain=TRUST_DOMAIN.value(args.get(TRUST_DOMAIN.name), environ) or "")


def _values(switches: Sequence[config.Switch], args: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    return {switch.name: switch.value(args.get(switch.name), environ) for switch in switches}
