"""What is measured of exchanges, defined once, for Prometheus and for OpenTelemetry: each is added up here, and read by both. Pure."""

from bisect import bisect_left
from enum import Enum
from typing import Final, NamedTuple

from broker import genai
from broker.chat import Usage

SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
TOKENS: Final = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0, 4194304.0)
DIRECTIONS: Final = ("input", "output", "cached")


class Measure(Enum):
    """A histogram of exchanges: its name here, its name in OpenTelemetry, its unit there, its bounds, its meaning."""

    DURATION = (
        "request_duration_seconds", genai.OPERATION_DURATION, "s", SECONDS,
        "From the first byte of a request to the end of its answer",
    )  # fmt: skip
    FIRST_BYTE = (
        "first_byte_seconds", genai.TIME_TO_FIRST_TOKEN, "s", SECONDS,
        "From the first byte of a request to the first byte of the provider's answer",
    )  # fmt: skip
    TOKENS = "request_tokens", genai.TOKEN_USAGE, "{token}", TOKENS, "Tokens that one request was charged"

    @property
    def bounds(self) -> tuple[float, ...]:
        bounds: tuple[float, ...] = self.value[3]
        return bounds


class Call(NamedTuple):
    """What was asked of whom: the granted virtual model, the provider's well-known name, the operation's. "" = it did not come to that.

    None of them is ever the caller's own words.
    """

    model: str = ""
    provider: str = ""
    operation: str = ""


class Key(NamedTuple):
    """Whose sums these are. The first four are "" for somebody whom we do not know, or whose SPIFFE ID has another shape."""

    trust_domain: str
    namespace: str
    service_account: str
    model: str
    provider: str
    operation: str


OTHER: Final = Key(*("other",) * 6)
NO_CALL: Final = Call()


class Histogram:
    """How many fell into each bucket, and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def merge(self, other: "Histogram") -> None:
        self.counts = [mine + its for mine, its in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum


class Series:
    """All sums of one caller, model, provider and operation."""

    __slots__ = ("codes", "duration", "first_byte", "input", "output", "tokens")

    def __init__(self) -> None:
        self.codes: dict[str, int] = {}
        self.tokens = [0, 0, 0]  # in the order of DIRECTIONS
        self.duration = Histogram(SECONDS)
        self.first_byte = Histogram(SECONDS)
        self.input = Histogram(TOKENS)
        self.output = Histogram(TOKENS)

    def add(self, code: str, usage: Usage | None, total_s: float, first_byte_s: float | None) -> None:
        self.codes[code] = self.codes.get(code, 0) + 1
        self.duration.add(total_s)
        if first_byte_s is not None:
            self.first_byte.add(first_byte_s)
        if usage is not None:
            self.tokens[0] += usage.input_tokens
            self.tokens[1] += usage.output_tokens
            self.tokens[2] += usage.cached_tokens
            self.input.add(usage.input_tokens)
            self.output.add(usage.output_tokens)

    def histograms(self) -> tuple[tuple[Measure, str, Histogram], ...]:
        """Each with the direction that it counts, "" where there is only one."""
        return (
            (Measure.DURATION, "", self.duration),
            (Measure.FIRST_BYTE, "", self.first_byte),
            (Measure.TOKENS, DIRECTIONS[0], self.input),
            (Measure.TOKENS, DIRECTIONS[1], self.output),
        )
