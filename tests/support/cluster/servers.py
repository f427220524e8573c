"""A server as a child that dies with us, keeps its port and state over a restart, and says what it said when it fails."""

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

START_S = 60.0
STOP_S = 15.0


@dataclass
class Server:
    """One program with its switches. `ready` says whether it can be used; it may raise OSError for no.

    workload: numbers of the user and of the group that it runs as; None = ours. Root alone can be another.
    """

    name: str
    command: Sequence[str]
    log: Path
    ready: Callable[[], bool]
    environ: Mapping[str, str] = field(default_factory=dict)
    uid: int | None = None
    child: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        self.begin()
        self.until_ready()

    def begin(self) -> None:
        """Start it without waiting, so that others can start beside it."""
        assert self.child is None, f"{self.name} runs"
        assert threading.current_thread() is threading.main_thread(), f"{self.name} would die with this thread"
        with self.log.open("ab") as log:
            self.child = subprocess.Popen([*dying_with_us(self.uid), *self.command], stdout=log, stderr=log, env=dict(self.environ))

    def until_ready(self) -> None:
        assert self.child is not None, f"{self.name} was not started"
        ends_s = time.monotonic() + START_S
        while True:
            assert self.child.poll() is None, f"{self.name} ended:\n{self.last_words()}"
            try:
                if self.ready():
                    return
            except OSError:
                pass
            assert time.monotonic() < ends_s, f"{self.name} is not ready:\n{self.last_words()}"
            time.sleep(0.02)

    def last_words(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]

    def stop(self) -> int:
        """End it with SIGTERM, and with SIGKILL when it does not go; its exit code."""
        if self.child is None:
            return 0
        self.child.send_signal(signal.SIGCONT)
        self.child.terminate()
        try:
            code = self.child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.child.kill()
            code = self.child.wait()
        self.child = None
        return code

    def kill(self) -> None:
        if self.child is not None:
            self.child.kill()
            self.child.wait()
            self.child = None

    def restart(self, *, crash: bool = False) -> None:
        """The same program on the same ports and state; crash: by SIGKILL."""
        (self.kill if crash else self.stop)()
        self.start()


def dying_with_us(uid: int | None = None) -> Sequence[str]:
    """What to put before a command so that it dies when the thread that started it does, and runs as this user.

    Another user may read what only root may: the interpreter and the checkout often lie in root's home.
    """
    words = ["setpriv", "--pdeathsig", "KILL"]
    if uid is None:
        return words
    reads = "+dac_read_search"
    return [*words, "--reuid", str(uid), "--regid", str(uid), "--clear-groups", "--inh-caps", reads, "--ambient-caps", reads]
