"""Usage in answers that are never streamed."""

from collections.abc import Callable, Hashable, Iterable, Mapping

from broker.chat import Usage
from broker.metering import as_object, count


class WholeTally:
    """Usage of one answer that comes whole. Satisfies metering.Tally.

    A provider that streams all the same is refused before its first event, so events say nothing here.

    reads: finds the usage in a complete answer; None = it is not there, or no usage.
    """

    __slots__ = ("_reads", "done", "failed", "usage")

    def __init__(self, reads: Callable[[Mapping[str, object]], Usage | None]) -> None:
        self._reads = reads
        self.usage: Usage | None = None
        self.done = False
        self.failed = False

    def is_plain(self, events: bytes) -> bool:  # noqa: ARG002  none has a meaning
        return True

    def answer(self, value: Mapping[str, object]) -> None:
        self.usage = self._reads(value)
        self.done = self.usage is not None

    def event(self, data: bytes) -> bool:  # noqa: ARG002  none has a meaning
        return True

    def generated(self, data: bytes) -> Iterable[tuple[Hashable, str]]:  # noqa: ARG002  nothing is written piece by piece
        return ()

    def last_words(self, usage: Usage) -> bytes:  # noqa: ARG002  there is no stream to end
        return b""


def embedded(value: Mapping[str, object]) -> Usage | None:
    """Usage of embeddings: a prompt, and no output. What a server reports beyond the prompt is input too."""
    usage = as_object(value.get("usage"))
    prompt, total = count(usage.get("prompt_tokens")), usage.get("total_tokens")
    whole = prompt if total is None else count(total)
    return None if prompt is None or whole is None else Usage(max(prompt, whole), 0)


def counted(value: Mapping[str, object]) -> Usage | None:  # noqa: ARG001  whatever the count says, counting is free
    """Usage of an answer that only says how many tokens a message would have."""
    return Usage(0, 0)


class FreeTally(WholeTally):
    """Usage of what is not billed, whole or streamed: none, however it ends."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(counted)
        self.usage = Usage(0, 0)
        self.done = True
