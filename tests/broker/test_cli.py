import asyncio
import errno
import resource
import signal
import socket
import subprocess
import sys

import pytest

from broker import cli, config
from broker.dev import write_run

AGENT = "spiffe://example.org/ns/team1/sa/agent"
COMMANDS = {"serve": config.SERVE, "gateway": config.GATEWAY, "controller": config.CONTROLLER, "dev": config.DEV}


def said(capsys, *argv: str) -> tuple[int, str, str]:
    try:
        code = cli.main(argv)
    except SystemExit as end:
        code = int(end.code or 0)
    out = capsys.readouterr()
    return code, " ".join(out.out.split()), out.err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_every_switch_its_variable_and_its_default(capsys, command):
    code, out, _ = said(capsys, command, "--help")
    assert code == 0
    for switch in COMMANDS[command]:
        assert switch.flag in out
        assert switch.variable in out
        assert " ".join(switch.help.split()) in out
        assert not switch.default or f"default {switch.default}]" in out


def test_what_is_missing_is_one_line_and_exit_code_2(capsys, monkeypatch):
    for variable in ("BROKER_RESOURCES", "BROKER_BROKER"):
        monkeypatch.delenv(variable, raising=False)
    code, _, err = said(capsys, "serve")
    assert (code, err) == (2, "broker: --resources kubernetes|DIR is missing: give it, or set BROKER_RESOURCES\n")
    code, _, err = said(capsys, "gateway")
    assert code == 2
    assert err.count("\n") == 1


def test_a_folder_that_is_not_there_is_said_in_one_line(capsys, tmp_path):
    code, _, err = said(
        capsys, *("serve", "--resources", str(tmp_path / "absent"), "--quota-store", "memory:", "--spiffe-endpoint-socket", "unix:///none")
    )
    assert code == 1
    assert "absent" in err.splitlines()[-1]
    assert "Traceback" not in err


def test_print_env_without_a_run_says_what_to_do(capsys, tmp_path):
    code, _, err = said(capsys, "dev", "--state", str(tmp_path), "--print-env", "spiffe://example.org/ns/a/sa/b")
    assert code == 2
    assert "start it first" in err


def test_print_env_of_a_run_that_was_killed_says_so(capsys, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as gateway:
        write_run(tmp_path, {AGENT: gateway.getsockname()[1]}, "k")
        assert said(capsys, "dev", "--state", str(tmp_path), "--print-env", AGENT)[0] == 0
    code, out, err = said(capsys, "dev", "--state", str(tmp_path), "--print-env", AGENT)
    assert (code, out) == (2, "")
    assert "was killed; start it again" in err


def test_check_and_explain_have_exit_codes_that_a_script_can_use(capsys, tmp_path):
    objects = tmp_path / "objects.yaml"
    objects.write_text(
        "apiVersion: aiaccess.dev/v1alpha1\nkind: AIRoutingPolicy\nmetadata: {name: r, namespace: team1}\nspec:\n"
        "  providers: [{name: p, schema: OpenAI, endpoint: https://llm.example.com/v1}]\n  models: [{name: m, backends: [{provider: p}]}]\n---\n"
        "apiVersion: aiaccess.dev/v1alpha1\nkind: AIAccessPolicy\nmetadata: {name: a, namespace: team1}\n"
        "spec: {subjects: [{spiffeID: spiffe://example.org/ns/team1/sa/a}], models: [m]}\n"
    )
    assert said(capsys, "check", "-f", str(objects))[0] == 0
    ask = ("explain", "-f", str(objects), "--model", "team1/m", "--identity")
    assert said(capsys, *ask, "spiffe://example.org/ns/team1/sa/a")[0] == 0
    assert said(capsys, *ask, "spiffe://example.org/ns/team1/sa/b")[0] == 3
    objects.write_text(objects.read_text().replace("models: [m]", "modles: [m]"))
    code, out, _ = said(capsys, "check", "-f", str(objects))
    assert code == 1
    assert f"{objects}:" in out
    assert "modles" in out


@pytest.mark.parametrize(
    ("module", "unwanted"), [("broker.local_gateway", ("aiohttp", "kubernetes", "redis", "opentelemetry", "yaml", "prometheus_client"))]
)
def test_a_command_imports_what_it_needs_and_no_more(module, unwanted):
    program = f"import sys, broker.cli, {module}; print([name for name in {unwanted!r} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60).stdout.strip() == "[]"


def test_a_second_signal_ends_at_once_and_without_a_word():
    program = (
        "import asyncio, sys; from broker import cli\n"
        "async def stubborn(stop):\n"
        "    print('up', flush=True)\n"
        "    await stop.wait()\n"
        "    print('draining', flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "cli._run(stubborn)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "draining\n"
        process.send_signal(signal.SIGINT)
        assert (process.wait(30), process.stderr.read()) == (-signal.SIGINT, "")


def test_a_port_that_is_taken_is_said_with_its_address_and_what_to_do(capsys):
    async def listen(_stop):
        await asyncio.start_server(lambda *_: None, "127.0.0.1", taken.getsockname()[1])

    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert cli._run(listen) == 1
        err = capsys.readouterr().err
        assert f"('127.0.0.1', {taken.getsockname()[1]})" in err
    assert "Errno" not in err
    assert "--admin" in err


def test_an_error_of_the_system_is_said_without_its_number(capsys):
    async def fail(_stop):
        raise OSError(errno.EAGAIN, "another process writes it: end that")

    assert cli._run(fail) == 1
    assert capsys.readouterr().err == "broker: another process writes it: end that\n"


def test_a_reader_that_has_seen_enough_is_no_defect(tmp_path):
    program = f"{sys.executable} -m broker dev --state {tmp_path} --print-env {AGENT}"
    command = ["bash", "-c", f"{program} | true; echo ${{PIPESTATUS[0]}}"]
    with socket.create_server(("127.0.0.1", 0)) as gateway:
        write_run(tmp_path, {AGENT: gateway.getsockname()[1]}, "k")
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert (done.stdout, done.stderr) == ("1\n", "")


@pytest.mark.parametrize(("switch", "value"), [("--log-level", "loud"), ("--log-format", "yaml"), ("--svid-ttl", "0s")])
def test_a_value_that_no_switch_takes_is_called_wrongly(capsys, switch, value):
    code, _, err = said(capsys, "dev", switch, value)
    assert (code, err.startswith(f"broker: {switch}: ")) == (2, True)


@pytest.mark.parametrize(
    ("workloads", "wrong"),
    [
        (("spiffe://a.test/x=4190", "spiffe://a.test/x=4191"), "each SPIFFE ID once"),
        (("spiffe://a.test/x=4190", "spiffe://a.test/y=4190"), "a port of its own"),
        (("spiffe://a.test/x=4190", "spiffe://b.test/x=4191"), "one trust domain"),
    ],
)
def test_workloads_that_do_not_fit_together_are_refused_before_anything_starts(capsys, tmp_path, workloads, wrong):
    code, _, err = said(capsys, "dev", "--state", str(tmp_path / "state"), *(word for one in workloads for word in ("--workload", one)))
    assert (code, wrong in err) == (1, True)
    assert not (tmp_path / "state").exists()


def test_serve_takes_as_many_descriptors_as_it_may(capsys, monkeypatch):
    taken = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: taken.append(limits))
    said(capsys, *("serve", "--resources", "absent", "--quota-store", "memory:", "--spiffe-endpoint-socket", "unix:///none"))
    assert taken == [(4096, 4096)]
