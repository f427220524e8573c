"""What Prometheus sees: sums in plain numbers, turned into the text format when somebody asks. No clock, no network, no globals.

Everything here runs on the thread of the event loop, so there are no locks: an exchange costs a few dictionary look-ups.
Labels say no more than trust domain, namespace and service account, and a model only after a grant (SECURITY.md, "The admin
port, metrics and logs"); the number of their combinations is bounded, and what comes after is counted under `other`.
"""

from collections.abc import Callable, Iterable
from enum import Enum
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from broker.chat import Usage
from broker.identity import Identity
from broker.series import DIRECTIONS, OTHER, Call, Histogram, Key, Measure, Series

PREFIX: Final = "aiaccess_"
WHO: Final = ("trust_domain", "namespace", "service_account", "model")
CALL: Final = Call._fields
QUOTA: Final = ("namespace", "policy", "quota", "threshold")
NOBODY: Final = ("", "", "")
REASONS: Final = 32  # for refused handshakes; OpenSSL knows some hundred

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
    OTLP_SENT = "otlp_sent", "counter", "Spans, and sets of metrics, that the OpenTelemetry collector took"
    OTLP_DROPPED = "otlp_dropped", "counter", "Those that it will never see: it was away, refused them, or was slower than we"
    SEALING_KEYS = "sealing_keys", "gauge", "Keys that open sealed ids, by what names them; 1 for the one that seals, 0 for the others"
    SEALING_KEYS_STALE = "sealing_keys_stale", "gauge", "1 while the file of sealing keys is broken, and those that were read before count"
    UPSTREAM_REUSED = "upstream_connections_reused", "counter", "Requests that went out on a connection that was there already"


class Telemetry(Collector):
    """All figures of one process, and the registry that exposes them.

    label_sets: how many callers and models are told apart; those that come later are counted as `other`.
    """

    def __init__(self, version: str, label_sets: int = 2000) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self._version = version
        self._label_sets = label_sets
        self._series: dict[tuple[str, ...], Series] = {}
        self._handshakes: dict[str, int] = {}
        self._quotas: dict[tuple[str, str, str], dict[int, int]] = {}
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
            who = OTHER[0], OTHER[1], OTHER[2]
        percents = self._quotas.setdefault(who, {})
        percents[percent] = percents.get(percent, 0) + 1

    def exchange_done(
        self, identity: Identity | None, call: Call, code: str, usage: Usage | None, total_s: float, first_byte_s: float | None
    ) -> None:
        """Count one exchange.

        usage: what was charged; None when nothing was.
        """
        who = (identity.trust_domain, identity.namespace, identity.service_account) if identity else NOBODY
        series = self._series.get((*who, *call))
        if series is None:
            key = Key(*who, *call) if len(self._series) < self._label_sets else OTHER
            series = self._series.setdefault(key, Series())
        series.add(code, usage, total_s, first_byte_s)

    @property
    def series(self) -> Iterable[tuple[Key, Series]]:
        """What was measured of exchanges, by caller, model, provider and operation."""
        return ((Key(*key), series) for key, series in self._series.items())

    def collect(self) -> Iterable[Metric]:
        """One family after another, each as it is when it is asked for: exchanges may be counted in between."""
        yield from self.sums()
        yield from map(self._histogram, Measure)

    def _histogram(self, measure: Measure) -> Metric:
        """By what was asked, not by who asked: a caller more would be eighty lines more."""
        folded: dict[tuple[str, Call], Histogram] = {}
        for key, series in self.series:
            call = Call(key.model, key.provider, key.operation)
            for measured, direction, histogram in series.histograms():
                if measured is measure:
                    folded.setdefault((direction, call), Histogram(measure.bounds)).merge(histogram)
        labels = ("direction", *CALL) if measure is Measure.TOKENS else CALL
        family = HistogramMetricFamily(PREFIX + measure.value[0], measure.value[4], labels=labels)
        for (direction, call), counted in folded.items():
            buckets = list(zip((*map(str, measure.bounds), "+Inf"), map(float, accumulate(counted.counts)), strict=True))
            family.add_metric((direction, *call) if direction else call, buckets, counted.sum)
        return family

    def sums(self) -> Iterable[Metric]:
        """All figures but the histograms."""
        codes: dict[tuple[str, ...], int] = {}
        charged: dict[tuple[str, ...], int] = {}
        for key, series in self.series:
            for code, count in series.codes.items():
                codes[code, *key[:4]] = codes.get((code, *key[:4]), 0) + count
            for direction, count in zip(DIRECTIONS, series.tokens, strict=True) if any(series.tokens) else ():
                charged[direction, *key[:4]] = charged.get((direction, *key[:4]), 0) + count
        requests = CounterMetricFamily(PREFIX + "requests", "Exchanges by how they ended", labels=("code", *WHO))
        for labels, count in codes.items():
            requests.add_metric(labels, count)
        yield requests
        tokens = CounterMetricFamily(PREFIX + "tokens", "Tokens charged; cached is a part of input", labels=("direction", *WHO))
        for labels, count in charged.items():
            tokens.add_metric(labels, count)
        yield tokens
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
        for figure, read in tuple(self._shown.items()):
            name, kind, meaning = figure.value
            family = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
            yield family(PREFIX + name, meaning, read())
        yield from self._labelled()

    def _labelled(self) -> Iterable[Metric]:
        for figure, (labels, read) in tuple(self._each.items()):
            name, kind, meaning = figure.value
            family = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
            each = family(PREFIX + name, meaning, labels=labels)
            for values, value in read():
                each.add_metric(values, value)
            yield each
