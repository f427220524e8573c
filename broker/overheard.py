"""What goes to a provider and what comes back, kept for the span of that attempt where the operator wants it (`--otel-content`).

Memory is bounded for all of it together: what has no room is left out, and its span says so. Nothing is read here, so nothing waits;
broker/otlp reads, redacts and cuts it. Where the switch is off none of this is made.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from broker.chat import Header
from broker.tracecontext import SAMPLED

ROOM_BYTES: Final = 32 << 20  # of all exchanges in flight, and of all spans that wait
BODY_BYTES: Final = 2 << 20  # of one request; a larger one is left out whole, since half a body says nothing
ANSWER_BYTES: Final = 512 << 10  # of one answer; what comes after is left out
_TRACEPARENT: Final = b"traceparent"

Hear = Callable[[bytes], None]


@dataclass(slots=True, eq=False, repr=False)
class Words:
    """The bytes of one attempt: what was asked, and what was answered as far as it was kept. Never shown as they are.

    cut: something of it is missing.
    freed: where `release` says how much room there is again.
    """

    freed: deque[int]
    asked: bytes = b""
    answered: list[bytes] = field(default_factory=list[bytes])
    size: int = 0
    cut: bool = False

    def release(self) -> None:
        """Called once, by whoever has read them or throws them away; from any thread."""
        self.freed.append(self.size)


class Overheard:
    """The words of attempts that belong to recorded traces, by the id of the attempt's span. Used on the event loop."""

    def __init__(self, room_bytes: int = ROOM_BYTES) -> None:
        self._room_bytes = room_bytes
        self._words: dict[str, Words] = {}
        self._freed: deque[int] = deque()  # by other threads

    def hear(self, trace: Sequence[Header], body: bytes) -> Hear | None:
        """Keep what is asked.

        trace: the headers that go with it, which name its span.

        Returns:
            What takes the answer piece by piece; None where the trace is not recorded.
        """
        parent = next((value for name, value in trace if name == _TRACEPARENT), b"")
        _, _, rest = parent.partition(b"-")
        _, _, rest = rest.partition(b"-")
        span_id, _, flags = rest.partition(b"-")
        if not flags or not int(flags, 16) & SAMPLED:
            return None
        words = Words(self._freed)
        self._words[span_id.decode("ascii")] = words
        if len(body) <= BODY_BYTES and self._take(words, len(body)):
            words.asked = body
        else:
            words.cut = True

        def heard(piece: bytes) -> None:
            fits = words.size - len(words.asked) + len(piece) <= ANSWER_BYTES
            if not words.cut and fits and self._take(words, len(piece)):
                words.answered.append(piece)
            else:
                words.cut = True

        return heard

    def take(self, span_id: str) -> Words | None:
        """The words of this span, which belong to the caller from now on."""
        return self._words.pop(span_id, None)

    def _take(self, words: Words, size: int) -> bool:
        while self._freed:
            self._room_bytes += self._freed.popleft()
        if size > self._room_bytes:
            return False
        self._room_bytes -= size
        words.size += size
        return True
