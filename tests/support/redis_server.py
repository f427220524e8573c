"""Real Redis servers on loopback, with state that is thrown away: one, one with TLS and users, or a cluster of three.

with redis_server(folder) as server:
    server.url
"""

import atexit
import functools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from support.ports import free_port

START_S = 30.0
PREFIX = "aiaccess/"

# The rights of the product's own user, word for word as docs/quotas.md gives them (a test compares).
LEAST_RIGHTS = (
    "~aiaccess/* resetchannels -@all +info +select +script|load +evalsha +cluster|slots +time +exists +hmget +hget +hset +hsetnx +hexists "
    "+hdel +hincrby +hscan +zadd +zrem +zcard +zcount +zscore +zrangebyscore +sadd +srem +smembers +unlink"
)


def program() -> str:
    found = shutil.which("redis-server")
    assert found, "redis-server is missing, and quotas in Redis cannot be tested without it: apt install redis-server"
    return found


@dataclass(frozen=True)
class TlsFiles:
    """An authority of a test's own, and a certificate of it for localhost, which clients may show too."""

    ca: Path
    cert: Path
    key: Path


@dataclass
class RedisServer:
    """One server, which can be killed, stopped in its tracks, and started again with the state that it has kept.

    Attributes:
        options: of the command line, beside those that every one gets.
        tls: has a TLS port alone, with these files; clients need a certificate with `--tls-auth-clients yes` alone.
        environ: of the process, beside ours.
    """

    folder: Path
    options: tuple[str, ...] = ()
    tls: TlsFiles | None = None
    port: int = field(default_factory=free_port)
    environ: Mapping[str, str] = field(default_factory=dict)
    child: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        ports = ("--port", str(self.port))
        if self.tls:
            files = (("--tls-ca-cert-file", self.tls.ca), ("--tls-cert-file", self.tls.cert), ("--tls-key-file", self.tls.key))
            ports = (
                "--port",
                "0",
                "--tls-port",
                str(self.port),
                "--tls-auth-clients",
                "no",
                *(str(word) for pair in files for word in pair),
            )
        keeps_nothing = () if "--appendonly" in self.options else ("--appendonly", "no")
        command = [program(), *ports, "--bind", "127.0.0.1", "--save", "", *keeps_nothing, "--dir", str(self.folder), *self.options]
        with (self.folder / "redis.log").open("ab") as log:
            # it dies with us, also when we are killed
            killed = ["setpriv", "--pdeathsig", "KILL", *command]
            self.child = subprocess.Popen(killed, stdout=log, stderr=log, env={**os.environ, **self.environ})
        ends = time.monotonic() + START_S
        while not self.answers():
            assert self.child.poll() is None, (self.folder / "redis.log").read_text()
            assert time.monotonic() < ends, "redis-server does not answer"
            time.sleep(0.01)

    def answers(self) -> bool:
        """It is there and has loaded what it kept; that it wants a password first is an answer too."""
        try:
            with self.client() as client:
                client.ping()
        except redis.AuthenticationError:
            return True
        except redis.RedisError:
            return False
        return True

    def client(self, **options: object) -> redis.Redis:
        """Of a library that is not ours."""
        if self.tls:
            of_tls = {"ssl_ca_certs": str(self.tls.ca), "ssl_certfile": str(self.tls.cert), "ssl_keyfile": str(self.tls.key)}
            options = {"ssl": True, **of_tls, **options}
        return redis.Redis(port=self.port, socket_timeout=5, **options)

    def kill(self) -> None:
        if self.child is not None:
            self.child.send_signal(signal.SIGCONT)
            self.child.kill()
            self.child.wait()
            self.child = None

    def pause(self) -> None:
        self.child.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.child.pid, os.WSTOPPED | os.WNOWAIT)

    def go_on(self) -> None:
        self.child.send_signal(signal.SIGCONT)

    def cpu_s(self) -> float:
        times = Path(f"/proc/{self.child.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def redis_server(
    folder: Path, *options: str, tls: TlsFiles | None = None, environ: Mapping[str, str] | None = None
) -> Iterator[RedisServer]:
    server = RedisServer(folder, options, tls, environ=environ or {})
    server.start()
    try:
        yield server
    finally:
        server.kill()


@functools.cache
def shared_server() -> RedisServer:
    """One for all tests that harm nobody: each has a prefix of its own."""
    folder = Path(tempfile.mkdtemp(prefix="redis-"))
    server = RedisServer(folder)
    server.start()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(server.kill)
    return server


@contextmanager
def redis_clusters(folder: Path, count: int = 1) -> Iterator[list[list[RedisServer]]]:
    """Three primaries each that share the slots; a node counts as failing after a second.

    A new primary takes no writes for two seconds, which many clusters wait for together.
    """
    with ExitStack() as stack:
        clusters = [[stack.enter_context(_node(folder / f"node-{cluster}-{number}")) for number in range(3)] for cluster in range(count)]
        for servers in clusters:
            _introduce(servers)
        _until_joined([server for servers in clusters for server in servers])
        yield clusters


@contextmanager
def redis_replica(folder: Path, servers: list[RedisServer], primary: RedisServer) -> Iterator[RedisServer]:
    """A further node of a cluster, which has what the primary has, and takes its place when that fails."""
    with _node(folder) as server, server.client() as here, primary.client() as there:
        for other in servers:
            here.execute_command("CLUSTER MEET", "127.0.0.1", other.port, other.options[-1])
        name = there.execute_command("CLUSTER MYID").decode()
        ends = time.monotonic() + START_S
        while (said := here.info("replication")).get("master_link_status") != "up":
            assert time.monotonic() < ends, "the replica does not follow"
            with suppress(redis.ResponseError):  # it does not know that node yet
                if said["role"] == "master":
                    here.execute_command("CLUSTER REPLICATE", name)
            time.sleep(0.02)
        while not all(_has_replica(other, server.port) for other in servers):  # else it gets no votes
            assert time.monotonic() < ends, "not all know the replica"
            time.sleep(0.02)
        yield server


def _has_replica(server: RedisServer, port: int) -> bool:
    with server.client() as client:
        nodes = client.execute_command("CLUSTER NODES")
    return any(address.endswith(f":{port}") and "slave" in node["flags"] for address, node in nodes.items())


@contextmanager
def _node(folder: Path) -> Iterator[RedisServer]:
    folder.mkdir()
    alone = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-require-full-coverage", "no")
    server = RedisServer(folder, (*alone, "--repl-diskless-sync-delay", "0", "--cluster-port", str(free_port())))
    server.start()
    try:
        yield server
    finally:
        server.kill()


def tls_files(folder: Path) -> TlsFiles:
    ca_key, leaf_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test Redis CA")])
    ca = _certificate(authority, authority, ca_key.public_key()).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    leaf = _certificate(x509.Name([]), authority, leaf_key.public_key())
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    files = TlsFiles(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
    files.ca.write_bytes(ca.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    signed = leaf.add_extension(names, critical=True).sign(ca_key, hashes.SHA256())
    files.cert.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    pkcs8, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    files.key.write_bytes(leaf_key.private_bytes(serialization.Encoding.PEM, pkcs8, plain))
    return files


def _certificate(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    return (
        builder.serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
    )


def _introduce(servers: list[RedisServer]) -> None:
    for number, server in enumerate(servers):
        first, last = 16384 * number // 3, 16384 * (number + 1) // 3 - 1
        with server.client() as client:
            client.execute_command("CLUSTER ADDSLOTSRANGE", first, last)
            client.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
    with servers[0].client() as client:
        for server in servers[1:]:
            client.execute_command("CLUSTER MEET", "127.0.0.1", server.port, server.options[-1])


def _until_joined(servers: list[RedisServer]) -> None:
    ends = time.monotonic() + START_S
    for server in servers:
        with server.client() as client:
            while not _agrees(client):
                assert time.monotonic() < ends, "the nodes do not become a cluster"
                time.sleep(0.02)


def _agrees(client: redis.Redis) -> bool:
    state = client.execute_command("CLUSTER INFO")
    text = str(state)
    return "ok" in str(state.get("cluster_state", text)) and len(client.execute_command("CLUSTER SLOTS")) >= 3
