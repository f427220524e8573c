"""What Prometheus sees: sums in plain numbers, turned into the text format when somebody asks. No clock, no network, no globals.

Everything here runs on the thread of the event loop, so there are no locks: an exchange costs a few dictionary look-ups.
Labels say no more than trust domain, namespace and service account, and a model only after a grant (design.md, "What the
network may see"); the number of their combinations is bounded, and what comes after is counted under `other`.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable
from enum import Enum
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from broker.chat import Usage
from broker.identity import Identity

PREFIX: Final = "aiaccess_"
WHO: Final = ("trust_domain", "namespace", "service_account", "model")
OTHER: Final = ("other", "other", "other", "other")
QUOTA: Final = ("namespace", "policy", "quota", "threshold")
NOBODY: Final = ("", "", "", "")
SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
DIRECTIONS: Final = ("input", "output", "cached")
REASONS: Final = 32  # for refused handshakes; OpenSSL knows some hundred

_Who = tuple[str, str, str, str]
_Labelled = Callable[[], Iterable[tuple[tuple[str, ...], float]]]


class Figure(Enum):
    """What other rooms know and show through `show`: name, kind, meaning. A figure that nobody shows does not appear."""

    HOLDS_OPEN = "holds_open", "gauge", "Holds in the quota store that are not settled yet, counted every few seconds"
    IN_FLIGHT = "exchanges_in_flight", "gauge", "Exchanges that have begun and not ended"
    LOOP_TASKS = "event_loop_tasks", "gauge", "Tasks of the event loop; at rest a small number that does not grow"
    SVID_EXPIRY = "svid_expiry_timestamp_seconds", "gauge", "When the SVID in use ends, as a Unix timestamp; 0 without one"
    SNAPSHOT_GENERATION = "snapshot_generation", "gauge", "Counts the policy snapshots that this process has built"
    SNAPSHOT_AGE = "snapshot_age_seconds", "gauge", "Seconds since the policy snapshot in force was built"
    SETTLE_QUEUE = "settle_queue_length", "gauge", "Settlements that wait for the quota store"
    SETTLE_DROPPED = "settlements_dropped", "counter", "Settlements that never reached the quota store: their holds are spent whole"
    TOKENS_OVER_HOLD = "tokens_over_hold", "counter", "Tokens that providers billed beyond what was held"
    AUDIT_FAILURES = "audit_failures", "counter", "Writes to the audit log that the system refused"
    AUDIT_LOST = "audit_lost_lines", "counter", "Audit lines that were not kept while nothing could be written"
    AUDIT_SEQ = "audit_head_seq", "gauge", "Number of the last line of the audit chain"
    AUDIT_HASH = "audit_head_hash_prefix", "gauge", "The first 13 hexadecimal digits of that line's hash, as a number"
    UPSTREAM_OPENED = "upstream_connections_opened", "counter", "Connections opened to providers"
    RETRIES = "retries", "counter", "Further attempts at a provider, after one that came to nothing"
    BACKENDS_RESTING = "backends_resting", "gauge", "Backends that are left alone for a while, because they failed or said so"
    STALENESS = "kubernetes_staleness_seconds", "gauge", "Seconds since the API server last gave a sign of life, by what is watched"
    EVENTS_WRITTEN = "kubernetes_events_written", "counter", "Events written to the API server: new ones, and further counts of those"
    EVENTS_DROPPED = "kubernetes_events_dropped", "counter", "Refusals and warnings that no Event tells of"
    UPSTREAM_REUSED = "upstream_connections_reused", "counter", "Requests that went out on a connection that was there already"


class _Times:
    """A histogram: how many fell into each bucket, and their sum."""

    __slots__ = ("_buckets", "_sum_s")

    def __init__(self) -> None:
        self._buckets = [0] * (len(SECONDS) + 1)
        self._sum_s = 0.0

    def add(self, seconds: float) -> None:
        self._buckets[bisect_left(SECONDS, seconds)] += 1
        self._sum_s += seconds

    def family(self, name: str, meaning: str) -> Metric:
        bounds = [*map(str, SECONDS), "+Inf"]
        pairs = list(zip(bounds, map(float, accumulate(self._buckets)), strict=True))
        return HistogramMetricFamily(PREFIX + name, meaning, buckets=pairs, sum_value=self._sum_s)


class Telemetry(Collector):
    """All figures of one process, and the registry that exposes them.

    label_sets: how many callers and models are told apart; those that come later are counted as `other`.
    """

    def __init__(self, version: str, label_sets: int = 2000) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self._version = version
        self._label_sets = label_sets
        self._known: dict[_Who, dict[str, int]] = {}
        self._tokens: dict[_Who, list[int]] = {}
        self._handshakes: dict[str, int] = {}
        self._quotas: dict[tuple[str, str, str], dict[int, int]] = {}
        self._total, self._first_byte = _Times(), _Times()
        self._shown: dict[Figure, Callable[[], float]] = {}
        self._each: dict[Figure, tuple[tuple[str, ...], _Labelled]] = {}
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    def show(self, figure: Figure, read: Callable[[], float]) -> None:
        """From now on the figure is what `read` says at the time of asking."""
        self._shown[figure] = read

    def show_each(self, figure: Figure, labels: tuple[str, ...], read: _Labelled) -> None:
        """As `show`, a value for each set of labels; their number is bounded by who reads."""
        self._each[figure] = labels, read

    def handshake_refused(self, reason: str) -> None:
        """Count a TLS handshake that we ended. Of the reason only OpenSSL's own names become labels: the rest quotes strangers."""
        label = reason.lower() if reason.isupper() else "certificate"
        if label not in self._handshakes and len(self._handshakes) >= REASONS:
            label = "other"
        self._handshakes[label] = self._handshakes.get(label, 0) + 1

    def quota_warned(self, namespace: str, policy: str, quota: str, percent: int) -> None:
        """Count a counter of this quota that reached so much of its limit, whosever it is."""
        who = namespace, policy, quota
        if who not in self._quotas and len(self._quotas) >= self._label_sets:
            who = OTHER[:3]
        percents = self._quotas.setdefault(who, {})
        percents[percent] = percents.get(percent, 0) + 1

    def exchange_done(
        self, identity: Identity | None, model: str, code: str, usage: Usage | None, total_s: float, first_byte_s: float | None
    ) -> None:
        """Count one exchange.

        model: the granted virtual model, or "" when nothing was granted (never the caller's own words).
        usage: what was charged; None when nothing was.
        """
        who = (identity.trust_domain, identity.namespace, identity.service_account, model) if identity else NOBODY
        codes = self._known.get(who)
        if codes is None:
            who = who if len(self._known) < self._label_sets else OTHER
            codes = self._known.setdefault(who, {})
        codes[code] = codes.get(code, 0) + 1
        self._total.add(total_s)
        if first_byte_s is not None:
            self._first_byte.add(first_byte_s)
        if usage is not None:
            sums = self._tokens.get(who)
            if sums is None:
                sums = self._tokens[who] = [0, 0, 0]
            sums[0] += usage.input_tokens
            sums[1] += usage.output_tokens
            sums[2] += usage.cached_tokens

    def collect(self) -> Iterable[Metric]:
        requests = CounterMetricFamily(PREFIX + "requests", "Exchanges by how they ended", labels=("code", *WHO))
        for who, codes in self._known.items():
            for code, count in codes.items():
                requests.add_metric((code, *who), count)
        tokens = CounterMetricFamily(PREFIX + "tokens", "Tokens charged; cached is a part of input", labels=("direction", *WHO))
        for who, sums in self._tokens.items():
            for direction, count in zip(DIRECTIONS, sums, strict=True):
                tokens.add_metric((direction, *who), count)
        yield requests
        yield tokens
        yield self._total.family("request_duration_seconds", "From the first byte of a request to the end of its answer")
        yield self._first_byte.family("first_byte_seconds", "From the first byte of a request to the first byte of the provider's answer")
        handshakes = CounterMetricFamily(PREFIX + "handshakes_refused", "TLS handshakes of callers that were refused", labels=("reason",))
        for reason, count in self._handshakes.items():
            handshakes.add_metric((reason,), count)
        yield handshakes
        warnings = CounterMetricFamily(
            PREFIX + "quota_warnings", "Counters of a quota that reached this percentage of its limit in a window", labels=QUOTA
        )
        for quota, percents in self._quotas.items():
            for percent, count in percents.items():
                warnings.add_metric((*quota, str(percent)), count)
        yield warnings
        build = GaugeMetricFamily(PREFIX + "build_info", "1; the version is in the label", labels=("version",))
        build.add_metric((self._version,), 1)
        yield build
        for figure, read in self._shown.items():
            name, kind, meaning = figure.value
            family = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
            yield family(PREFIX + name, meaning, read())
        yield from self._labelled()

    def _labelled(self) -> Iterable[Metric]:
        for figure, (labels, read) in self._each.items():
            name, kind, meaning = figure.value
            family = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
            each = family(PREFIX + name, meaning, labels=labels)
            for values, value in read():
                each.add_metric(values, value)
            yield each
