"""`broker probe`: the startup probe of an injected local gateway."""

import socket

import pytest
from support.ports import closed_port

from broker import cli


def test_who_listens_is_found():
    with socket.create_server(("127.0.0.1", 0)) as door:
        assert cli.main(["probe", f"--port={door.getsockname()[1]}"]) == 0


def test_who_does_not_is_not():
    with closed_port() as port:
        assert cli.main(["probe", "--port", str(port)]) == 1


def test_the_port_is_the_gateways_unless_it_is_told(monkeypatch):
    asked = []

    def connect(address, timeout):
        asked.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", connect)
    assert cli.main(["probe"]) == 1
    assert asked == [("127.0.0.1", 4180)]


@pytest.mark.parametrize("port", ["x", "0", "-1"])
def test_what_is_no_port_is_a_wrong_call(port, capsys):
    assert cli.main(["probe", f"--port={port}"]) == cli.USAGE
    assert "--port" in capsys.readouterr().err
