"""A clock that goes where a test puts it."""

from datetime import UTC, datetime


class Clock:
    """Called, it says Unix seconds. Starts at a round hour, 12:00 of a day in the middle of a month."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 17, 12, tzinfo=UTC).timestamp()

    def __call__(self) -> float:
        return self.now

    def move(self, seconds: float) -> None:
        self.now += seconds
