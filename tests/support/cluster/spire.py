"""A real SPIRE server and agent on loopback, with state that is thrown away; identities go by user number.

with Spire.started(folder) as spire:
    agent = spire.workload("spiffe://example.org/ns/team1/sa/agent")
    Server("gateway", [...], uid=agent.uid)     # this process, and no other, is that agent
"""

import json
import os
import subprocess
import time
from base64 import b64decode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from cryptography import x509
from support.cluster.binaries import find
from support.cluster.servers import Server, dying_with_us
from support.ports import free_port

TRUST_DOMAIN = "example.org"
SVID_TTL = "1m"
FIRST_UID = 21000  # of the workloads; no user of a usual machine has it
PATIENCE_S = 30.0

SERVER = """
server {{
  bind_address = "127.0.0.1"
  bind_port = {port}
  socket_path = "{folder}/server.sock"
  trust_domain = "{trust_domain}"
  data_dir = "{folder}/server"
  log_level = "INFO"
  ca_ttl = "1h"
  ca_key_type = "ec-p256"
  default_x509_svid_ttl = "{svid_ttl}"
  agent_ttl = "1h"
  experimental {{ cache_reload_interval = "1s" }}
}}
plugins {{
  DataStore "sql" {{ plugin_data {{ database_type = "sqlite3", connection_string = "{folder}/server/datastore.sqlite3" }} }}
  KeyManager "disk" {{ plugin_data {{ keys_path = "{folder}/server/keys.json" }} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
}}
"""

# KeyManager "disk", since a restarted agent cannot return without its key: its join token is spent
AGENT = """
agent {{
  server_address = "127.0.0.1"
  server_port = {port}
  socket_path = "{folder}/agent.sock"
  trust_domain = "{trust_domain}"
  trust_bundle_path = "{folder}/bootstrap.pem"
  data_dir = "{folder}/agent"
  log_level = "INFO"
  experimental {{ sync_interval = "1s" }}
}}
plugins {{
  KeyManager "disk" {{ plugin_data {{ directory = "{folder}/agent" }} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
  WorkloadAttestor "unix" {{ plugin_data {{}} }}
}}
"""


class SpireFailed(Exception):
    """A command of SPIRE said no; the message is what it said."""


@dataclass(frozen=True)
class Workload:
    """Who a process is when it runs as this user.

    uid: None = ours. Who is not root cannot be anybody else: then there is no workload but this one, whatever identity was asked for.
    """

    spiffe_id: str
    uid: int | None


@dataclass
class Spire:
    """One trust domain: its server, and the agent of this machine."""

    folder: Path
    trust_domain: str
    server: Server
    agent: Server
    workloads: dict[str, Workload] = field(default_factory=dict)
    believed: list[str] = field(default_factory=list)
    agent_serial: str = ""  # of its own SVID, when another authority began to sign

    @classmethod
    @contextmanager
    def started(cls, folder: Path, trust_domain: str = TRUST_DOMAIN, svid_ttl: str = SVID_TTL) -> Iterator[Self]:
        """Start both; ready in about a second.

        folder: its path must be short, as that of a socket is, and every user must be able to pass through it.
        """
        it = cls._prepared(folder, trust_domain, svid_ttl)
        try:
            it.server.start()
            (folder / "bootstrap.pem").write_text(it.say("bundle", "show"))
            token = json.loads(it.say("token", "generate", "-spiffeID", it.node, "-output", "json"))["value"]
            command = it.agent.command
            it.agent.command = [*command, "-joinToken", token]
            it.agent.start()
            it.agent.command = command  # a token is spent once
            yield it
        finally:
            it.agent.stop()
            it.server.stop()

    @property
    def endpoint(self) -> str:
        """Of the Workload API, as SPIFFE_ENDPOINT_SOCKET has it."""
        return f"unix://{self.folder}/agent.sock"

    @property
    def node(self) -> str:
        return f"spiffe://{self.trust_domain}/node"

    def workload(self, spiffe_id: str) -> Workload:
        """The user who has this identity; from now on, if nobody had it.

        A new one reaches the agent within a second or two, and asking again until then is what every workload does.
        """
        if os.geteuid() != 0:
            return self.myself()
        known = self.workloads.get(spiffe_id)
        return known or self._registered(Workload(spiffe_id, FIRST_UID + len(self.workloads)))

    def myself(self) -> Workload:
        """The user who runs the tests."""
        spiffe_id = f"spiffe://{self.trust_domain}/tests"
        return self.workloads.get(spiffe_id) or self._registered(Workload(spiffe_id, None))

    def _registered(self, workload: Workload) -> Workload:
        self.workloads[workload.spiffe_id] = workload
        self._entry(workload, "create")
        return workload

    def _entry(self, workload: Workload, verb: str) -> None:
        uid = os.geteuid() if workload.uid is None else workload.uid
        words = ["-parentID", self.node, "-spiffeID", workload.spiffe_id, "-selector", f"unix:uid:{uid}", "-entryID", f"uid-{uid}"]
        for trust_domain in self.believed:
            words += ["-federatesWith", trust_domain]
        (result,) = json.loads(self.say("entry", verb, *words, "-output", "json"))["results"]
        if result["status"]["code"]:
            raise SpireFailed(result["status"]["message"])

    def bundle(self, form: str = "spiffe") -> str:
        """What others may believe of this trust domain, as JWKS (`spiffe`) or PEM (`pem`)."""
        return self.say("bundle", "show", "-format", form)

    def believe(self, other: Self) -> None:
        """Federate: every workload, known or to come, gets the other's bundle too."""
        self.believed.append(f"spiffe://{other.trust_domain}")
        self.say("bundle", "set", "-format", "spiffe", "-id", f"spiffe://{other.trust_domain}", stdin=other.bundle())
        for workload in self.workloads.values():
            self._entry(workload, "update")

    def svid(self, workload: Workload) -> x509.Certificate:
        """What the agent gives this workload now.

        Raises:
            SpireFailed: nothing; usual for a second after an entry was made.
        """
        (svid, *_) = json.loads(self._fetch(workload, "x509"))["svids"]
        return x509.load_der_x509_certificate(b64decode(svid["x509_svid"]))

    def until_served(self, workload: Workload, authority_id: str = "") -> None:
        """Wait until the agent has an SVID for it, of this authority if one is given."""
        ends_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                if signer(self.svid(workload)) == authority_id or not authority_id:
                    return
            except SpireFailed:
                pass
            assert time.monotonic() < ends_s, f"{workload.spiffe_id} has no such SVID:\n{self.agent.last_words()}"
            time.sleep(0.1)

    def jwt(self, workload: Workload, audience: str) -> str:
        """A JWT-SVID for this audience."""
        (told, *_) = json.loads(self._fetch(workload, "jwt", "-audience", audience))
        return told["svids"][0]["svid"]

    def _fetch(self, workload: Workload, kind: str, *words: str) -> str:
        command = (str(find("spire-agent")), "api", "fetch", kind, "-output", "json", *words, *self._socket("agent"))
        return _output((*dying_with_us(workload.uid), *command), None)

    # The four steps of a new authority, in the order that no workload notices

    def authorities(self) -> dict[str, str]:
        """Their ids by state: active, prepared, old; only those that there are."""
        told = json.loads(self.say("localauthority", "x509", "show", "-output", "json"))
        return {
            state: told[state]["authority_id"] for state in ("active", "prepared", "old") if (told.get(state) or {}).get("authority_id")
        }

    def prepare(self) -> str:
        """Put a new authority into the bundle, beside the active one; its id."""
        told = json.loads(self.say("localauthority", "x509", "prepare", "-output", "json"))
        return told["prepared_authority"]["authority_id"]

    def activate(self, authority_id: str) -> None:
        """Sign what is new with the prepared one."""
        self.agent_serial = self._agent_serial()
        self._authority("activate", authority_id)

    def taint(self, authority_id: str) -> None:
        """Make every workload take a new SVID, since the old authority will go."""
        self._authority("taint", authority_id)

    def revoke(self, authority_id: str) -> None:
        """Take the old authority out of the bundle: nothing that it signed is believed any more.

        First the agent must have an SVID of the new one; it takes it some seconds after its workloads have theirs. A server would never
        let it in again otherwise, since its join token is spent.
        """
        ends_s = time.monotonic() + PATIENCE_S
        while self._agent_serial() == self.agent_serial:
            assert time.monotonic() < ends_s, f"the agent keeps its old SVID:\n{self.agent.last_words()}"
            time.sleep(0.1)
        self._authority("revoke", authority_id)

    def _agent_serial(self) -> str:
        (agent,) = json.loads(self.say("agent", "list", "-output", "json"))["agents"]
        return agent["x509svid_serial_number"]

    def _authority(self, verb: str, authority_id: str) -> None:
        self.say("localauthority", "x509", verb, "-authorityID", authority_id)

    def say(self, *words: str, stdin: str | None = None) -> str:
        """A command of spire-server; what it prints.

        Raises:
            SpireFailed: it said no.
        """
        return _output((str(find("spire-server")), *words, *self._socket("server")), stdin)

    def _socket(self, name: str) -> Sequence[str]:
        return "-socketPath", str(self.folder / f"{name}.sock")

    @classmethod
    def _prepared(cls, folder: Path, trust_domain: str, svid_ttl: str) -> Self:
        values = {"folder": folder, "port": free_port(), "trust_domain": trust_domain, "svid_ttl": svid_ttl}
        servers = {}
        for name, text in (("server", SERVER), ("agent", AGENT)):
            (folder / name).mkdir()
            config = folder / f"{name}.conf"
            config.write_text(text.format(**values))
            program = str(find(f"spire-{name}"))
            health = [program, "healthcheck", "-socketPath", str(folder / f"{name}.sock")]
            command = [program, "run", "-config", str(config)]
            servers[name] = Server(f"spire-{name}", command, folder / f"{name}.log", lambda health=health: _is_well(health))
        return cls(folder, trust_domain, servers["server"], servers["agent"])


def signer(certificate: x509.Certificate) -> str:
    """The id of the authority that signed it, as `authorities` has it."""
    identifier = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    return (identifier or b"").hex()


def _is_well(command: Sequence[str]) -> bool:
    return subprocess.run(command, capture_output=True, timeout=PATIENCE_S, check=False).returncode == 0


def _output(command: Sequence[str], stdin: str | None) -> str:
    done = subprocess.run(command, input=stdin or "", capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    if done.returncode:
        raise SpireFailed(f"{' '.join(command[1:])}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
