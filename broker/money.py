"""Money in whole numbers: what tokens cost at a price. Pure; no float anywhere, and what must be rounded is rounded up.

Amounts are micro-dollars, the smallest that an object can name. Prices are pico-dollars for one token, which is the same number as
micro-dollars for a million of them: the cheapest price that can be written, "0.000001" for a million tokens, is 1.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from broker.chat import Usage

DIGITS: Final = 6
PICO: Final = 10**6  # pico-dollars in a micro-dollar
MOST_MICROUSD: Final = 10**15  # no exchange is counted dearer; every limit that can be written is lower, so none is passed unseen


class Rates(NamedTuple):
    """The most that an input token, an output token and a request cost, in pico-dollars."""

    input: int
    output: int
    request: int

    def microusd(self, input_tokens: int, output_tokens: int) -> int:
        """What an exchange costs at most."""
        return _microusd(self.input * input_tokens + self.output * output_tokens + self.request)

    def output_for(self, microusd: int, input_tokens: int) -> int | None:
        """How many output tokens an amount pays for beside this input; below 0 where it does not pay for that. None = any number."""
        return (microusd * PICO - self.request - self.input * input_tokens) // self.output if self.output else None

    def input_for(self, microusd: int, output_tokens: int) -> int | None:
        """As output_for, of the input tokens."""
        return (microusd * PICO - self.request - self.output * output_tokens) // self.input if self.input else None


@dataclass(frozen=True, slots=True)
class Price:
    """What one backend bills, in pico-dollars for a token; `request` for each question that it was asked.

    cached_input, cache_write: for those input tokens that were read from a cache or written to one.
    """

    input: int
    output: int
    cached_input: int
    cache_write: int
    request: int = 0

    def cost(self, usage: Usage) -> int:
        """Micro-dollars of one answer."""
        plain = usage.input_tokens - usage.cached_tokens - usage.cache_write_tokens
        return _microusd(
            self.input * plain
            + self.cached_input * usage.cached_tokens
            + self.cache_write * usage.cache_write_tokens
            + self.output * usage.output_tokens
            + self.request
        )


def dearest(prices: Iterable[Price | None]) -> Rates | None:
    """What bounds the cost of an exchange that any of these may answer, whatever of its input is cached; None where a price is missing."""
    most_input = most_output = most_request = -1
    for price in prices:
        if price is None:
            return None
        most_input = max(most_input, price.input, price.cached_input, price.cache_write)
        most_output = max(most_output, price.output)
        most_request = max(most_request, price.request)
    return None if most_input < 0 else Rates(most_input, most_output, most_request)


def read_microusd(decimal: str) -> int:
    """Dollars as objects write them ("2.50"; objects.words.MONEY). Of a price for a million tokens it is the price of a token."""
    whole, _, part = decimal.partition(".")
    return int(whole + part.ljust(DIGITS, "0"))


def dollars(microusd: int) -> str:
    """As people write it: at least two decimals, and no more than it has."""
    whole, part = divmod(microusd, 10**DIGITS)
    return f"{whole}.{f'{part:06}'.rstrip('0').ljust(2, '0')}"


def _microusd(pico: int) -> int:
    return min(MOST_MICROUSD, -(-pico // PICO))
