"""What was counted, as the SDK's exporter sends it. Counting stays ours: there is one number, copied when it is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from rockbot.telemetry.metrics import METRICS
from rockbot_messaging.clock import Clock
from rockbot_messaging.measures import BOUNDS, Counters, Distribution

__all__ = ["MetricBatches"]

_Labels = tuple[tuple[str, str], ...]
_CUMULATIVE = AggregationTemporality.CUMULATIVE


@final
class MetricBatches:
    """Makes batches; sums count from when this was made."""

    def __init__(self, resource: Resource, clock: Clock) -> None:
        self._resource = resource
        self._clock = clock
        self._since = clock.now_ms() * 1_000_000

    def batch(self, counters: Counters) -> MetricsData:
        """Everything in the table that was counted."""
        now = self._clock.now_ms() * 1_000_000
        values: dict[str, list[tuple[_Labels, float]]] = {}
        for (name, labels), value in counters.snapshot().items():
            values.setdefault(name, []).append((labels, value))
        observed: dict[str, list[tuple[_Labels, Distribution]]] = {}
        for (name, labels), found in counters.distributions().items():
            observed.setdefault(name, []).append((labels, found))
        metrics: list[Metric] = []
        for name, metric in METRICS.items():
            data: Sum | Gauge | Histogram | None = None
            if name in observed:
                data = Histogram([self._distribution(*each, now) for each in observed[name]], _CUMULATIVE)
            elif name in values:
                points: Sequence[NumberDataPoint] = [self._number(*each, now) for each in values[name]]
                data = Gauge(points) if metric.kind == "gauge" else Sum(points, _CUMULATIVE, is_monotonic=True)
            if data is not None:
                metrics.append(Metric(name, metric.help, metric.unit, data))
        scope = ScopeMetrics(InstrumentationScope("rockbot"), metrics, "")
        return MetricsData([ResourceMetrics(self._resource, [scope], "")])

    def _number(self, labels: _Labels, value: float, now: int) -> NumberDataPoint:
        return NumberDataPoint(_attributes(labels), self._since, now, value)

    def _distribution(self, labels: _Labels, found: Distribution, now: int) -> HistogramDataPoint:
        return HistogramDataPoint(
            _attributes(labels),
            self._since,
            now,
            found.count,
            found.sum,
            found.counts,
            BOUNDS,
            None,  # type: ignore[arg-type]  # the least and the greatest are not kept, and optional on the wire
            None,  # type: ignore[arg-type]
        )


def _attributes(labels: _Labels) -> Mapping[str, str]:
    return dict(labels)
