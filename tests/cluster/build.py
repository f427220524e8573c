"""Builds what cluster tests start and this machine lacks, once: `make test-cluster` runs it first."""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from support.cluster.binaries import NotBuilt, build


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)  # noqa: T201  half an hour without a word would look like a fault


if __name__ == "__main__":
    try:
        build(say)
    except NotBuilt as failed:
        sys.exit(str(failed))
    except KeyboardInterrupt:
        sys.exit("stopped; what is compiled stays, and the next run goes on from there")
