"""The broker's command line under cProfile, between two signals: `python profiled.py OUT serve …`.

SIGUSR1 begins, SIGUSR2 ends and writes OUT. So a profile has the requests in it, and neither imports nor handshakes.
"""

import cProfile
import signal
import sys

from broker.cli import main


def profile_into(path: str) -> None:
    profiler = cProfile.Profile()

    def write(*_: object) -> None:
        profiler.disable()
        profiler.dump_stats(path)

    signal.signal(signal.SIGUSR1, lambda *_: profiler.enable())
    signal.signal(signal.SIGUSR2, write)


if __name__ == "__main__":
    profile_into(sys.argv[1])
    sys.exit(main(sys.argv[2:]))
