"""Processes whose wall clock goes where a test puts it: libfaketime, steered through a file. Their monotonic clock runs on as it is.

time = FakeTime(tmp_path)
with redis_server(folder, environ=time.environ) as server:
    time.put(datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC))
"""

import time
from datetime import datetime
from pathlib import Path

PLACES = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))


class FakeTime:
    def __init__(self, folder: Path) -> None:
        assert PLACES, "libfaketime is missing, and clocks cannot be tested without it: apt install libfaketime"
        self._file = folder / f"time-{id(self)}"
        self.move(0.0)

    @property
    def environ(self) -> dict[str, str]:
        # libc's own malloc comes before jemalloc, which asks the time before libfaketime can say it
        return {
            "LD_PRELOAD": f"{PLACES[0]} libc.so.6",
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def put(self, at: datetime) -> None:
        """From now on it is `at`, and later by as much as passes."""
        self.move(at.timestamp() - time.time())

    def move(self, seconds: float) -> None:
        """From now on it is so much later than the true time, or earlier."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+.6f}")
        new.replace(self._file)
