"""Which backend takes an attempt: by priority and weight, among those that do not rest. Pure: clock and draw are arguments.

A backend that fails again and again rests, longer each time, and comes back by a trickle; one whose provider says when to come
back rests until then. What is learned here is this process's own: replicas do not tell each other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from broker.errors import BrokerError, NoBackend, ProviderRateLimited
from broker.grant import Backend, Cause, Failover

PATIENCE: Final = 5  # failures in a row before a backend rests
FIRST_REST_S: Final = 1.0  # doubled for each rest that no success followed
LONGEST_REST_S: Final = 30.0
TRICKLE_S: Final = 5.0  # after a rest the share of requests grows from TRICKLE to all of them in this time
TRICKLE: Final = 0.1
LONGEST_RETRY_AFTER_S: Final = 600.0  # what asks for longer is asked again after this, should it have been mended
RETRY_SHARE: Final = 0.2  # a backend is asked twice by one exchange for at most this share of the exchanges that ask it,
RETRY_RESERVE: Final = 10.0  # and this many times more
KNOWN: Final = 4096  # backends with something to remember

AILING_STATUSES: Final = frozenset((502, 503, 504, 529))  # 500 may be what this one request does to it
RATE_LIMITED: Final = 429

_Name = tuple[str, str, str, int, str]


@dataclass(slots=True)
class _Ailment:
    """What is remembered of a backend from its first failure to its recovery."""

    failures: int = 0  # in a row
    rests: int = 0
    until_s: float = 0.0
    trickle_until_s: float = 0.0
    rate_limited: bool = False
    retries: float = RETRY_RESERVE


class Router:
    """What this process knows of the health of backends.

    now_s: monotonic seconds. draw: uniform in [0, 1).
    retries: further attempts that were made, so far.
    """

    def __init__(self, now_s: Callable[[], float], draw: Callable[[], float]) -> None:
        self.retries = 0
        self._now_s = now_s
        self._draw = draw
        self._ailments: dict[_Name, _Ailment] = {}

    @property
    def resting(self) -> int:
        now_s = self._now_s()
        return sum(1 for ailment in self._ailments.values() if ailment.until_s > now_s)

    def first(self, backends: Sequence[Backend]) -> Backend:
        """The backend to try first.

        backends: at least one, weights above 0 (policy leaves the others out of a Grant).

        Raises:
            ProviderRateLimited, NoBackend: all of them rest; `retry_after_s` says how long the first of them still does.
        """
        if self._ailments:
            awake = [backend for backend in backends if self._takes(backend)]
            if not awake:
                raise self._all_rest(backends)
            backends = awake
        chosen = choose(backends, self._draw)
        if self._ailments and (ailment := self._ailments.get(_name(chosen))) is not None:
            ailment.retries = min(ailment.retries + RETRY_SHARE, RETRY_RESERVE)
        return chosen

    def next(self, backends: Sequence[Backend], tried: Sequence[Backend], rules: Failover) -> tuple[Backend, float] | None:
        """The backend to try after a failure, and the seconds to wait before; None = none, so the failure stands.

        One that this exchange has not tried yet is asked at once. One that it has tried is asked after a backoff, as often as the
        retry budget of that backend allows. One that rests is waited for where that takes no longer than the longest backoff.
        """
        now_s = self._now_s()
        awake = [backend for backend in backends if self._rest_s(backend, now_s) == 0]
        fresh = [backend for backend in awake if backend not in tried]
        if fresh:
            self.retries += 1
            return choose(fresh, self._draw), 0.0
        wait_s = min(rules.backoff_base_s * 2.0 ** (len(tried) - 1), rules.backoff_max_s)
        wait_s *= 0.5 + self._draw() / 2  # else all that failed together come back together
        if awake:
            chosen = choose(awake, self._draw)
        else:
            chosen = min(backends, key=lambda backend: self._rest_s(backend, now_s))
            rest_s = self._rest_s(chosen, now_s)
            if rest_s > rules.backoff_max_s:
                return None
            wait_s = max(wait_s, rest_s)
        if chosen in tried and not self._may_repeat(chosen):
            return None
        self.retries += 1
        return chosen, wait_s

    def succeeded(self, backend: Backend) -> None:
        """It answered, to the end. Where its way back is over as well, nothing need be remembered."""
        if not self._ailments:
            return
        ailment = self._ailments.get(_name(backend))
        if ailment is not None:
            ailment.failures = 0
            if self._now_s() >= ailment.trickle_until_s:
                ailment.rests = 0
                if ailment.retries >= RETRY_RESERVE:
                    del self._ailments[_name(backend)]

    def failed(self, backend: Backend, cause: Cause, retry_after_s: float | None) -> float:
        """It failed for a reason that may be its own.

        Returns:
            How long it rests from now on, when this failure made it rest; else 0.
        """
        if isinstance(cause, int) and cause != RATE_LIMITED and cause not in AILING_STATUSES:
            return 0.0  # an answer to this request, which says nothing of the next
        if cause == RATE_LIMITED and backend.provider.auth == "Passthrough":
            return 0.0  # it limits the caller's own account, and others bring theirs
        now_s = self._now_s()
        ailment = self._remember(_name(backend))
        if isinstance(cause, int) and retry_after_s:
            rest_s = min(retry_after_s, LONGEST_RETRY_AFTER_S)
            ailment.rate_limited = cause == RATE_LIMITED
        elif cause == RATE_LIMITED:
            return 0.0  # it did not say for how long, and is well otherwise
        else:
            ailment.failures += 1
            if ailment.failures < PATIENCE or ailment.until_s > now_s:
                return 0.0
            rest_s = min(FIRST_REST_S * 2.0**ailment.rests, LONGEST_REST_S) * (0.9 + self._draw() / 5)
            ailment.rests = min(ailment.rests + 1, KNOWN)
            ailment.rate_limited = False
            ailment.trickle_until_s = now_s + rest_s + TRICKLE_S
        ailment.until_s = max(ailment.until_s, now_s + rest_s)
        return rest_s

    def _takes(self, backend: Backend) -> bool:
        """It does not rest, and, when it is on its way back, this request is of its share."""
        ailment = self._ailments.get(_name(backend))
        if ailment is None:
            return True
        now_s = self._now_s()
        if now_s < ailment.until_s:
            return False
        ahead_s = ailment.trickle_until_s - now_s
        return ahead_s <= 0 or self._draw() < max(TRICKLE, 1 - ahead_s / TRICKLE_S)

    def _rest_s(self, backend: Backend, now_s: float) -> float:
        ailment = self._ailments.get(_name(backend))
        return 0.0 if ailment is None else max(0.0, ailment.until_s - now_s)

    def _may_repeat(self, backend: Backend) -> bool:
        ailment = self._remember(_name(backend))
        if ailment.retries < 1:
            return False
        ailment.retries -= 1
        return True

    def _all_rest(self, backends: Sequence[Backend]) -> BrokerError:
        now_s = self._now_s()
        first = min(backends, key=lambda backend: self._rest_s(backend, now_s))
        rest_s = max(1.0, self._rest_s(first, now_s))  # on its way back it rests no more, but takes few
        ailment = self._ailments.get(_name(first))
        if ailment is not None and ailment.rate_limited:
            return ProviderRateLimited("the provider limits our rate and said when to come back; ask again then", retry_after_s=rest_s)
        return NoBackend("the providers of this model failed again and again and are left alone for a while", retry_after_s=rest_s)

    def _remember(self, name: _Name) -> _Ailment:
        ailment = self._ailments.get(name)
        if ailment is None:
            if len(self._ailments) >= KNOWN:  # of objects that are no more, most of them
                now_s = self._now_s()
                self._ailments = {n: a for n, a in self._ailments.items() if a.until_s > now_s and n != name}
            ailment = self._ailments[name] = _Ailment()
        return ailment


def choose(backends: Sequence[Backend], draw: Callable[[], float]) -> Backend:
    """Of the lowest priority number one, by weight.

    backends: at least one, weights above 0.
    """
    if len(backends) == 1:
        return backends[0]
    lowest = min(backend.priority for backend in backends)
    peers = [backend for backend in backends if backend.priority == lowest]
    mark = draw() * sum(backend.weight for backend in peers)
    for backend in peers:
        mark -= backend.weight
        if mark < 0:
            return backend
    return peers[-1]


def _name(backend: Backend) -> _Name:
    """What tells backends apart here: an object that is edited to lead elsewhere is another one."""
    end = backend.provider.endpoint
    return backend.provider.namespace, backend.provider.name, end.host, end.port, backend.model
