"""What `broker doctor` finds: nothing where all is well, and of each broken set-up the cause, with what to do."""

import asyncio
import base64
import contextlib
import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from time import time
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from support.fake_apiserver import api_server
from support.fake_provider import Answer, FakeProvider, Seen, json_answer
from support.fake_workload_api import FakeWorkloadApi
from support.ports import free_port
from support.redis_server import shared_server
from support.spiffe_ca import SpiffeCa, update
from support.web_ca import web_server_context
from support.worlds import access, routing, secret

from broker import cli, logs
from broker.doctor import keeping, reaching, trusting
from broker.sealing import Key

BROKER = "spiffe://example.org/ns/inference-broker/sa/broker"
CANARY = "sk-canary-of-the-doctor"
MODELS = json_answer(b'{"data": []}')
Row = dict[str, str]


def models_now(_seen: Seen) -> Answer:
    return json_answer(b"{}", 200, [(b"date", formatdate(time(), usegmt=True).encode())])


@dataclass
class Patient:
    """A set-up in which all is well, until a test breaks something."""

    folder: Path
    agent: FakeWorkloadApi
    ca: SpiffeCa
    provider: FakeProvider
    switches: dict[str, str | None] = field(default_factory=dict)
    more: list[str] = field(default_factory=lambda: ["--ask-providers"])
    objects: str = ""

    def __post_init__(self) -> None:
        self.objects = (
            self.at(f"http://127.0.0.1:{self.provider.port}")
            + access()
            + secret(hosts=f"http://127.0.0.1:{self.provider.port}", data=f"{{api-key: {CANARY}}}")
        )
        self.switches = {
            "--resources": str(self.folder / "objects"),
            "--spiffe-endpoint-socket": self.agent.endpoint,
            "--quota-store": f"sqlite://{self.folder}/quota.sqlite",
            "--audit": str(self.folder / "audit.jsonl"),
            "--allow-hosts": "127.0.0.1",
            "--plain-http-hosts": "127.0.0.1",
            "--admin": f"127.0.0.1:{free_port()}",
        }

    def at(self, endpoint: str) -> str:
        credentials = "credentials: {type: APIKey, secretRef: {name: keys, key: api-key}}"
        return routing().replace("schema: OpenAI}", f"schema: OpenAI, endpoint: '{endpoint}', {credentials}}}")

    async def examined(self, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[Row]]:
        (self.folder / "objects").mkdir(exist_ok=True)
        (self.folder / "objects" / "a.yaml").write_text(self.objects)
        given = [word for flag, value in self.switches.items() if value is not None for word in (flag, value)]
        code = await asyncio.to_thread(cli.main, ["doctor", "-o", "json", *given, *self.more])
        said = capsys.readouterr()
        assert CANARY not in said.out + said.err
        report = json.loads(said.out)
        assert report["ok"] is (code == 0)
        return code, report["findings"]


@pytest.fixture
async def patient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Patient]:
    monkeypatch.setattr(logs, "configure", lambda *_: None)
    for name in ("SPIFFE_ENDPOINT_SOCKET", "KUBECONFIG", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    ca = SpiffeCa("example.org")
    async with FakeWorkloadApi(tmp_path) as agent, FakeProvider(script=models_now) as provider:
        await agent.push(update(ca.issue(BROKER), ca))
        yield Patient(tmp_path, agent, ca, provider)


async def named(patient: Patient, capsys: pytest.CaptureFixture[str], check: str, cause: str, state: str = "FAIL") -> str:
    """Examine, and demand that this cause is named, once, with a remedy, and that nothing else is said to be wrong."""
    code, rows = await patient.examined(capsys)
    (row,) = [one for one in rows if one["check"] == check and cause in one["found"]]
    assert (row["state"], bool(row["remedy"])) == (state, True)
    assert [one for one in rows if one["state"] == "FAIL" and one is not row] == []
    assert code == (1 if state == "FAIL" else 0)
    return row["remedy"]


async def test_where_all_is_well_nothing_is_wrong(patient, capsys):
    code, rows = await patient.examined(capsys)
    assert code == 0
    assert [(row["check"], row["state"]) for row in rows] == [
        ("Workload API", "OK"),
        ("SVID", "OK"),
        ("trust bundles", "OK"),
        ("objects", "OK"),
        ("provider", "OK"),
        ("quota store", "OK"),
        ("clock", "OK"),
        ("audit", "OK"),
        ("sealing keys", "OK"),
        ("telemetry", "OK"),
        ("admin port", "WARN"),
        ("admin door", "OK"),
    ]
    assert not (patient.folder / "audit.jsonl").exists()
    assert not (patient.folder / "quota.sqlite").exists()


async def test_a_provider_is_asked_once_for_its_models_and_only_when_the_operator_says_so(patient, capsys):
    await patient.examined(capsys)
    (seen,) = patient.provider.seen
    assert (seen.method, seen.target, seen.body) == ("GET", "/v1/models", b"")
    assert seen.header(b"authorization") == f"Bearer {CANARY}".encode()
    patient.more = []
    code, rows = await patient.examined(capsys)
    assert (code, len(patient.provider.seen)) == (0, 1)
    assert next(row["found"] for row in rows if row["check"] == "provider").endswith("--ask-providers would try the key")


# the Workload API and the SVID


async def test_a_socket_that_is_not_there(patient, capsys):
    patient.switches["--spiffe-endpoint-socket"] = f"unix://{patient.folder}/absent.sock"
    assert "start the SPIFFE agent on this node, or mount" in await named(patient, capsys, "Workload API", "No such file or directory")


async def test_a_socket_that_an_agent_left(patient, capsys):
    await patient.agent.stop()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(patient.agent.path))
    assert "nobody listens" in await named(patient, capsys, "Workload API", "Connection refused")


async def test_an_agent_that_has_no_entry_for_us(patient, capsys):
    await patient.agent.refuse(grpc.StatusCode.PERMISSION_DENIED)
    assert "make an entry for this workload" in await named(patient, capsys, "Workload API", "has no identity for this process")


async def test_a_socket_of_something_else_that_hangs_up(patient, capsys):
    path = patient.folder / "other.sock"
    patient.switches["--spiffe-endpoint-socket"] = f"unix://{path}"
    async with await asyncio.start_unix_server(lambda _, writer: writer.close(), path):
        assert "may be no SPIFFE agent" in await named(patient, capsys, "Workload API", "UNAVAILABLE: ")


async def test_a_socket_of_something_else_that_is_silent(patient, capsys, monkeypatch):
    monkeypatch.setattr(trusting, "PATIENCE_S", 0.3)
    patient.switches["--spiffe-endpoint-socket"] = f"unix://{patient.folder}/silent.sock"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(patient.folder / "silent.sock"))
        silent.listen()
        assert "does not answer as a SPIFFE agent" in await named(patient, capsys, "Workload API", "silent")


async def test_an_endpoint_that_is_none(patient, capsys):
    patient.switches["--spiffe-endpoint-socket"] = "/run/spire/agent.sock"
    await named(patient, capsys, "Workload API", "an endpoint is unix:///PATH")


async def test_an_svid_that_has_expired(patient, capsys):
    await patient.agent.push(update(patient.ca.issue(BROKER, begins_s=-7200, ttl_s=-60), patient.ca))
    assert "does not renew it" in await named(patient, capsys, "SVID", "has expired at")


async def test_an_svid_of_the_future_is_a_wrong_clock(patient, capsys):
    await patient.agent.push(update(patient.ca.issue(BROKER, begins_s=600), patient.ca))
    assert "set the clock of this machine" in await named(patient, capsys, "SVID", "is valid in 10 min only")


async def test_an_svid_that_ends_soon_is_a_warning(patient, capsys):
    await patient.agent.push(update(patient.ca.issue(BROKER, begins_s=-3600, ttl_s=300), patient.ca))
    await named(patient, capsys, "SVID", "is valid for 5 min only", "WARN")


async def test_an_svid_whose_authority_our_own_bundle_does_not_have(patient, capsys):
    await patient.agent.push(update(SpiffeCa("example.org").issue(BROKER), patient.ca))
    assert "dropped the authority" in await named(patient, capsys, "trust bundles", "does not vouch for our own SVID")


async def test_a_key_of_another_certificate(patient, capsys):
    good, other = patient.ca.issue(BROKER), patient.ca.issue(BROKER)
    await patient.agent.push(update(type(good)(good.spiffe_id, good.chain, other.key), patient.ca))
    await named(patient, capsys, "SVID", "what the agent gave cannot be used")


async def test_a_trust_domain_that_policies_name_and_no_bundle_knows(patient, capsys):
    patient.objects += access("guests", spec="{subjects: [{spiffeID: 'spiffe://partner.test/x'}], models: ['*']}")
    remedy = await named(patient, capsys, "trust bundles", "policies name identities of partner.test, and there is no bundle of it")
    assert "--trust-bundle partner.test=FILE" in remedy
    (patient.folder / "partner.pem").write_bytes(SpiffeCa("partner.test").pem)
    patient.more += ["--trust-bundle", f"partner.test={patient.folder}/partner.pem"]
    code, rows = await patient.examined(capsys)
    assert (code, [row["found"] for row in rows if row["check"] == "trust bundles"]) == (0, ["held of example.org, partner.test"])


async def test_a_bundle_whose_authorities_have_all_expired(patient, capsys):
    (patient.folder / "old.pem").write_bytes(SpiffeCa("old.test", begins_s=-7200, ttl_s=-60).pem)
    patient.more += ["--trust-bundle", f"old.test={patient.folder}/old.pem", "--peer", "spiffe://old.test/x"]
    await named(patient, capsys, "trust bundles", "spiffe://old.test/x is of old.test, and every CA certificate in its bundle has expired")


async def test_a_bundle_that_cannot_be_read(patient, capsys):
    patient.more += ["--trust-bundle", f"old.test={patient.folder}/absent.pem"]
    await named(patient, capsys, "trust bundles", "absent.pem")


# the objects


async def test_an_object_that_is_not_accepted(patient, capsys):
    patient.objects += access("extra", spec="{mtls: {trustDomain: example.org}, models: [gpt], unknown: 1}")
    assert "broker check" in await named(patient, capsys, "objects", "AIAccessPolicy team1/extra at ")


async def test_a_file_that_is_no_yaml(patient, capsys):
    patient.objects = "a: ["
    assert "nobody knows what the objects say" in await named(patient, capsys, "objects", "is no YAML")


async def test_where_objects_are_rejected_nobody_is_told_to_write_others(patient, capsys):
    patient.objects = patient.objects.replace("kind: AIRoutingPolicy", "kind: AIRoutingPolicy\nunknown: 1")
    _, rows = await patient.examined(capsys)
    (row,) = [row for row in rows if "offers a model" in row["found"]]
    assert row["remedy"] == "mend the objects above, then look again"
    assert not [row for row in rows if ": : " in row["found"]]


async def test_no_objects_at_all_is_a_warning(patient, capsys):
    patient.objects = ""
    await named(patient, capsys, "objects", "no AIRoutingPolicy offers a model: every request will be refused", "WARN")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("kind: Secret\nmetadata: {name: keys", "kind: Secret\nmetadata: {name: other", "CredentialSecretNotFound"),
        ("stringData: {api-key", "stringData: {other-key", "CredentialKeyMissing"),
        ("aiaccess.dev/hosts: 'http://127.0.0.1", "aiaccess.dev/hosts: 'https://api.openai.com", "HostNotAllowed"),
        ("schema: OpenAI", "schema: Gemini", "NotSupported"),
    ],
)
async def test_a_provider_whose_object_or_secret_is_wrong(patient, capsys, old, new, reason):
    assert old in patient.objects
    patient.objects = patient.objects.replace(old, new)
    await named(patient, capsys, "provider", f"p of AIRoutingPolicy team1/routing is not ready ({reason})")


# the providers


def over_tls(objects: str) -> str:
    return objects.replace("hosts: 'http://", "hosts: '").replace("http://", "https://")


async def test_a_provider_that_is_down(patient, capsys):
    patient.objects = patient.objects.replace(str(patient.provider.port), str(free_port()))
    assert "start the server" in await named(patient, capsys, "provider", "nothing listens there (Connection refused)")


@pytest.mark.parametrize(("fault", "told"), [(OSError(errno.EHOSTUNREACH, "x"), "No route to host"), (TimeoutError(), "nothing in time")])
async def test_a_provider_that_no_packet_reaches(patient, capsys, monkeypatch, fault, told):
    async def connect(*_: object) -> None:
        raise fault

    monkeypatch.setattr(reaching, "_connect", connect)
    assert "NetworkPolicies" in await named(patient, capsys, "provider", f"no connection ({told})")


async def test_a_provider_whose_name_leads_nowhere(patient, capsys):
    patient.objects = over_tls(patient.objects).replace("127.0.0.1", "absent.invalid")
    await named(patient, capsys, "provider", "its name leads nowhere")


async def test_a_provider_at_an_address_that_nobody_allowed(patient, capsys):
    patient.switches["--allow-hosts"] = None
    patient.switches["--plain-http-hosts"] = "localhost.test.invalid,127.0.0.1"
    await named(patient, capsys, "provider", "127.0.0.1 leads to a loopback address")
    assert patient.provider.seen == []


async def test_a_provider_that_refuses_the_key(patient, capsys):
    async with FakeProvider(json_answer(b"{}", 401)) as strict:
        patient.objects = patient.objects.replace(str(patient.provider.port), str(strict.port))
        remedy = await named(patient, capsys, "provider", "refuses key api-key of Secret team1/keys (status 401)")
    assert "put a valid key there" in remedy


@pytest.mark.parametrize(
    ("answer", "state", "told"),
    [
        (json_answer(b"", 302, [(b"location", b"http://127.0.0.1/")]), "FAIL", "redirects are not followed"),
        (json_answer(b"{}", 404), "WARN", "answers with status 404"),
        (json_answer(b"{}", 429), "WARN", "answers with status 429"),
        (json_answer(b"{}", 500), "WARN", "answers with status 500"),
        ((b"SSH-2.0-OpenSSH\r\n\r\n",), "FAIL", "it gave no HTTP answer"),
        (("close",), "FAIL", "it gave no HTTP answer"),
        ((b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000, "close"), "FAIL", "it gave no HTTP answer"),
    ],
)
async def test_what_a_provider_answers_is_judged(patient, capsys, answer, state, told):
    async with FakeProvider(answer) as odd:
        patient.objects = patient.objects.replace(str(patient.provider.port), str(odd.port))
        await named(patient, capsys, "provider", told, state)


async def test_a_provider_without_credentials_that_wants_a_key(patient, capsys):
    async with FakeProvider(json_answer(b"{}", 401)) as strict:
        bare = routing().replace("schema: OpenAI}", f"schema: OpenAI, endpoint: 'http://127.0.0.1:{strict.port}'}}")
        patient.objects = bare + access()
        await named(patient, capsys, "provider", "wants a key, and the object names none")
        patient.objects = bare.replace("'}", "', credentials: {type: Passthrough}}") + access()
        code, rows = await patient.examined(capsys)
    assert (code, strict.seen[-1].header(b"authorization")) == (0, None)
    assert next(row["found"] for row in rows if row["check"] == "provider").endswith("which agents bring")


async def test_a_certificate_that_nobody_vouches_for(patient, capsys):
    async with FakeProvider(MODELS, tls=web_server_context("127.0.0.1")) as other:
        patient.objects = over_tls(patient.objects).replace(str(patient.provider.port), str(other.port))
        assert "SSL_CERT_FILE" in await named(patient, capsys, "provider", "its certificate is not accepted")
    assert other.seen == []


async def test_plain_http_where_tls_was_meant(patient, capsys):
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as plain:
        port = plain.sockets[0].getsockname()[1]
        patient.objects = over_tls(patient.objects).replace(str(patient.provider.port), str(port))
        await named(patient, capsys, "provider", "no TLS there")


# quotas, clocks, audit


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("sqlite:///absent/quota.sqlite", "the folder /absent of the database is not there"),
        ("sqlite://{folder}/text", "quota store"),
        ("redis://127.0.0.1:{port}/0", "is not safe"),
        ("mysql://x", "neither rediss://"),
    ],
)
async def test_a_quota_store_that_cannot_be_used(patient, capsys, url, cause):
    (patient.folder / "text").write_text("no database at all, but long enough to be taken for one of another kind " * 100)
    patient.switches["--quota-store"] = url.format(folder=patient.folder, port=free_port())
    code, rows = await patient.examined(capsys)
    (row,) = [one for one in rows if one["state"] == "FAIL"]
    assert (code, row["check"], cause in row["found"]) == (1, "quota store", True), row


async def test_a_redis_that_is_away_and_its_password_is_not_told(patient, capsys):
    patient.switches["--quota-store"] = f"redis://user:{CANARY}@127.0.0.1:{free_port()}/0"
    patient.more += ["--allow-insecure-quota-store", "true"]
    assert "can be reached from here" in await named(patient, capsys, "quota store", "it cannot be used: The quota store does not answer")


async def test_a_redis_is_written_and_its_clock_compared_and_no_count_changes(patient, capsys):
    server = shared_server()
    patient.switches["--quota-store"] = server.url
    patient.more += ["--allow-insecure-quota-store", "true", "--quota-prefix", "doctor-test/"]
    code, rows = await patient.examined(capsys)
    assert (code, [row["found"] for row in rows if row["check"] == "quota store"]) == (
        0,
        ["redis: can be read and written; 0 holds are open"],
    )
    assert "the quota store" in next(row["found"] for row in rows if row["check"] == "clock")
    assert not [key for key in server.client().keys("doctor-test/*") if b"/doctor/" in key]


async def test_a_sqlite_store_that_is_there(patient, capsys):
    patient.switches["--quota-store"] = f"sqlite://{patient.folder}/there.sqlite"
    (patient.folder / "there.sqlite").touch()
    code, rows = await patient.examined(capsys)
    assert (code, [row["state"] for row in rows if row["check"] == "quota store"]) == (0, ["OK"])


async def test_quotas_in_memory_are_a_warning(patient, capsys):
    patient.switches["--quota-store"] = "memory:"
    await named(patient, capsys, "quota store", "forgets every count", "WARN")


@pytest.mark.parametrize(("ahead_s", "state", "told"), [(-300, "FAIL", "behind"), (10, "WARN", "ahead of")])
async def test_a_clock_that_differs_from_a_providers(patient, capsys, ahead_s, state, told):
    date = formatdate(time() + ahead_s, usegmt=True).encode()
    async with FakeProvider(json_answer(b"{}", 200, [(b"date", date)])) as other:
        patient.objects = patient.objects.replace(str(patient.provider.port), str(other.port))
        assert "NTP" in await named(patient, capsys, "clock", f"{told} this machine's clock", state)


def test_clocks_that_agree_are_one_row_and_without_any_there_is_a_warning():
    (row,) = keeping.clocks([("a", 0.4), ("b", -1.2)])
    assert (row.state, row.found) == ("OK", "agrees with a, b")
    assert [one.state for one in keeping.clocks([])] == ["WARN"]


async def test_an_audit_folder_that_is_not_there(patient, capsys):
    patient.switches["--audit"] = "/absent/audit.jsonl"
    await named(patient, capsys, "audit", "the folder /absent is not there")


async def test_an_audit_file_that_is_a_folder_and_a_key_that_is_none(patient, capsys):
    patient.switches["--audit"] = str(patient.folder)
    await named(patient, capsys, "audit", "is a folder")
    (patient.folder / "key").write_bytes(b"short")
    patient.switches["--audit-key-file"] = str(patient.folder / "key")
    await named(patient, capsys, "audit", "has 5 bytes; a key has at least 32")


async def test_a_disk_that_is_nearly_full_is_a_warning(patient, capsys, monkeypatch):
    monkeypatch.setattr(keeping.shutil, "disk_usage", lambda _: SimpleNamespace(free=5 << 20))
    await named(patient, capsys, "audit", "5 MiB are free", "WARN")


async def test_a_file_that_this_user_may_not_write(patient, capsys, monkeypatch):
    monkeypatch.setattr(keeping.os, "access", lambda path, mode: str(path).startswith(str(patient.folder)) and "audit" not in str(path))
    (patient.folder / "audit.jsonl").touch()
    await named(patient, capsys, "audit", "this user may not write")


# the keys of kept state


def grant(patient: Patient, more: str) -> None:
    assert "models: ['*']}" in patient.objects
    patient.objects = patient.objects.replace("models: ['*']}", f"models: ['*'], {more}}}")


def sealing_keys(patient: Patient, *secrets: bytes, mode: int = 0o600) -> list[str]:
    file = patient.folder / "sealing-keys"
    file.write_bytes(b"".join(base64.b64encode(secret) + b"\n" for secret in secrets))
    file.chmod(mode)
    patient.switches["--sealing-keys"] = str(file)
    return [Key(secret).id.hex() for secret in secrets]


@pytest.mark.parametrize("feature", ["Storage", "Background", "Files"])
async def test_a_policy_that_grants_what_there_are_no_keys_for(patient, capsys, feature):
    grant(patient, f"features: [HostedTools, {feature}]")
    remedy = await named(
        patient, capsys, "sealing keys", "none, and Background, Files or Storage is granted by team1/access: what needs it is refused"
    )
    assert "--sealing-keys" in remedy
    sealing_keys(patient, os.urandom(64))
    code, _ = await patient.examined(capsys)
    assert code == 0


@pytest.mark.parametrize("spec", ["features: [HostedTools, RemoteMedia]", "mode: Shadow, features: [Storage]"])
async def test_a_policy_that_grants_nothing_that_needs_keys_waits_for_none(patient, capsys, spec):
    grant(patient, spec)
    _, rows = await patient.examined(capsys)
    assert [(row["state"], row["found"]) for row in rows if row["check"] == "sealing keys"] == [
        ("OK", "none, and no policy grants what needs them")
    ]


async def test_which_sealing_keys_there_are(patient, capsys):
    one, two, three = (os.urandom(64) for _ in range(3))
    for secrets in ([one], [two, one, three]):
        first, *others = sealing_keys(patient, *secrets)
        _, rows = await patient.examined(capsys)
        also = f"; {', '.join(others)} open too" if others else ""
        assert [(row["state"], row["found"]) for row in rows if row["check"] == "sealing keys"] == [
            ("OK", f"{len(secrets)} of them: {first} seals{also}")
        ]
        assert not any(base64.b64encode(secret).decode()[:12] in str(rows) for secret in secrets)


async def test_sealing_keys_that_cannot_be_used(patient, capsys):
    patient.switches["--sealing-keys"] = "/absent/keys"
    await named(patient, capsys, "sealing keys", "/absent/keys: No such file or directory")
    sealing_keys(patient)
    await named(patient, capsys, "sealing keys", "there is no key in it")
    sealing_keys(patient, os.urandom(64), mode=0o620)
    await named(patient, capsys, "sealing keys", "has mode 0620")


async def test_sealing_keys_that_everybody_may_read_are_a_warning(patient, capsys):
    sealing_keys(patient, os.urandom(64), mode=0o604)
    assert "0400" in await named(patient, capsys, "sealing keys", "everybody on this machine may read", "WARN")


# the doors


@contextlib.asynccontextmanager
async def listening(patient: Patient, answer: bytes) -> AsyncIterator[None]:
    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(say, "127.0.0.1", int(str(patient.switches["--admin"]).rpartition(":")[2]))
    async with server:
        yield


async def test_a_broker_that_is_not_ready_says_itself_why(patient, capsys):
    answer = b"HTTP/1.1 503 Service Unavailable\r\n\r\nno SVID yet: check the SPIFFE agent\nremark: x\n"
    async with listening(patient, answer):
        await named(patient, capsys, "admin port", "is not ready: no SVID yet: check the SPIFFE agent")
    async with listening(patient, b"HTTP/1.1 200 OK\r\n\r\n"):
        code, rows = await patient.examined(capsys)
    assert (code, [row["state"] for row in rows if row["check"] == "admin port"]) == (0, ["OK"])


@pytest.mark.parametrize("answer", [b"HTTP/1.1 404 Not Found\r\n\r\n", b"SSH-2.0\r\n", b"", b"HTTP/1.1 503 X\r\n\r\n"])
async def test_what_listens_at_the_admin_port_and_is_no_broker(patient, capsys, answer):
    async with listening(patient, answer):
        await named(patient, capsys, "admin port", "is no broker's admin port")


async def test_an_admin_door_that_nobody_can_use(patient, capsys):
    patient.switches["--admin-mtls"] = "127.0.0.1:0"
    await named(patient, capsys, "admin door", "--admin-mtls is open for nobody")
    patient.switches["--admin-identities"] = "operator"
    await named(patient, capsys, "admin door", "--admin-identities has an entry that is no SPIFFE ID")
    patient.switches |= {"--admin-identities": BROKER, "--admin-mtls": None}
    await named(patient, capsys, "admin door", "no address where they come in", "WARN")


async def test_an_admin_socket_in_no_folder_or_that_is_a_file(patient, capsys):
    patient.switches["--admin-socket"] = "/absent/admin.sock"
    await named(patient, capsys, "admin door", "the folder /absent of --admin-socket is not there")
    (patient.folder / "admin.sock").touch()
    patient.switches["--admin-socket"] = str(patient.folder / "admin.sock")
    await named(patient, capsys, "admin door", "is a file of another kind")


@pytest.mark.parametrize(("listens", "told"), [(True, "a broker listens at"), (False, "was left by a broker that has ended")])
async def test_an_admin_socket_of_a_broker_that_runs_or_ran(patient, capsys, listens, told):
    path = patient.folder / "admin.sock"
    patient.switches["--admin-socket"] = str(path)
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(path))
        if listens:
            door.listen()
        code, rows = await patient.examined(capsys)
    assert (code, told in next(row["found"] for row in rows if row["check"] == "admin door")) == (0, True)


# the switches, the cluster, the words


async def test_switches_that_are_missing_or_wrong_are_rows_and_the_rest_is_looked_at(patient, capsys):
    patient.switches |= {"--quota-store": None, "--spiffe-endpoint-socket": None, "--max-body": "huge"}
    code, rows = await patient.examined(capsys)
    assert (code, sorted(row["found"].partition(" ")[0] for row in rows if row["check"] == "switches")) == (
        1,
        ["--max-body:", "--quota-store", "--spiffe-endpoint-socket"],
    )
    assert {row["check"] for row in rows} == {
        *("switches", "objects", "provider", "clock", "audit", "sealing keys", "telemetry", "admin port", "admin door")
    }


async def test_a_host_list_that_is_none_is_a_row(patient, capsys):
    patient.switches["--allow-hosts"] = "10.0.0.0/99"
    await named(patient, capsys, "switches", "--allow-hosts: ")


async def test_a_peer_that_is_no_spiffe_id_is_called_wrongly(capsys):
    assert await asyncio.to_thread(cli.main, ["doctor", "--peer", "x"]) == 2
    assert "--peer: a SPIFFE ID starts with" in capsys.readouterr().err


async def test_in_a_cluster_the_namespaces_that_may_not_be_read_are_named(patient, capsys):
    async with api_server() as server:
        patient.switches |= {"--resources": "kubernetes", "--kubeconfig": server.kubeconfig(patient.folder), "--namespaces": "team1,team2"}
        server.refuse = lambda path, query: (403, {}) if "/namespaces/team2/" in path else None
        remedy = await named(patient, capsys, "objects", "namespace team2 may not be read (its models answer 503)")
    assert "ClusterRole" in remedy


async def test_a_cluster_that_is_away(patient, capsys, monkeypatch):
    monkeypatch.setattr("broker.kube.once.PATIENCE_S", 0.5)
    patient.switches |= {"--resources": "kubernetes", "--kubeconfig": str(patient.folder / "absent")}
    assert "--kubeconfig" in await named(patient, capsys, "objects", "the cluster gives no objects")


@contextlib.contextmanager
def running(*words: str) -> Iterator[str]:
    """A process that was started with these words, and does nothing."""
    with subprocess.Popen([sys.executable, "-c", "input()", *words], stdin=subprocess.PIPE) as child:
        yield str(child.pid)
        child.communicate(b"\n")


async def test_the_switches_of_a_broker_that_runs_are_taken_where_none_are_given(patient, capsys):
    bad = {**patient.switches, "--audit": "/absent/audit.jsonl", "--quota-store": "memory:"}
    patient.switches = {"--audit": patient.switches["--audit"]}
    patient.more = ["--ask-providers"]
    with running("serve", *(f"{flag}={value}" for flag, value in bad.items())) as pid:
        patient.more += ["--like", pid]
        code, rows = await patient.examined(capsys)
        assert (code, [row["state"] for row in rows if row["check"] in ("audit", "quota store")]) == (0, ["WARN", "OK"])
        patient.switches, patient.more = {}, ["--like", pid, "--audit", "-"]
        code, rows = await patient.examined(capsys)
        assert (code, [row["found"].partition(";")[0] for row in rows if row["check"] == "audit"]) == (
            0,
            ["lines go to the standard output"],
        )


@pytest.mark.parametrize(
    ("pid", "told"), [("x", "is no process id"), ("99999999", "No such file or directory"), (None, "is no `broker serve`")]
)
def test_a_process_that_is_no_broker_is_called_wrongly(pid, told, capsys):
    with running("gateway") as other, pytest.raises(SystemExit, match="2"):
        cli.main(["doctor", "--like", pid or other])
    assert told in capsys.readouterr().err


async def test_for_eyes_each_row_has_its_remedy_below_and_the_count_ends_it(patient, capsys):
    patient.objects = "a: ["
    (patient.folder / "objects").mkdir()
    (patient.folder / "objects" / "a.yaml").write_text(patient.objects)
    given: list[Any] = [word for pair in patient.switches.items() for word in pair]
    assert await asyncio.to_thread(cli.main, ["doctor", *given]) == 1
    lines = capsys.readouterr().out.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("FAIL  objects "))
    assert lines[at + 1].strip().startswith("-> mend it")
    assert lines[-1].startswith("1 wrong, ")
