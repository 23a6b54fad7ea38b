"""What a process has counted, as Prometheus reads it: the text format 0.0.4, made of the table of metrics."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import accumulate
from typing import Final, final

from rockbot.telemetry.metrics import METRICS, Metric
from rockbot_messaging.measures import BOUNDS, Counters, Measures, Names
from rockbot_messaging.ports import BusHealth, MessageBus

__all__ = ["CONTENT_TYPE", "Exposition", "exposition_of", "tell_health", "tell_queues"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_Labels = tuple[tuple[str, str], ...]
_BOUNDS: Final = (*(f"{bound:g}" for bound in BOUNDS), "+Inf")


@final
class Exposition:
    """The text of one process's counts. `looks` are called before each: they set the gauges that nobody sets in passing."""

    def __init__(self, counters: Counters, looks: Sequence[Callable[[], None]] = ()) -> None:
        self.counters = counters
        self._looks = list(looks)

    def add(self, look: Callable[[], None]) -> None:
        """Call this one too."""
        self._looks.append(look)

    def refresh(self) -> None:
        """Set the gauges."""
        for look in self._looks:
            look()

    def text(self) -> str:
        """Everything there is to tell, in the order of the table."""
        self.refresh()
        lines: dict[str, list[str]] = {name: [] for name in METRICS}
        for (name, labels), value in sorted(self.counters.snapshot().items()):
            if name in lines:
                lines[name].append(f"{METRICS[name].prometheus}{_braces(labels)} {_number(value)}")
        for (name, labels), found in sorted(self.counters.distributions().items(), key=lambda item: item[0]):
            if name in lines:
                lines[name] += _buckets(METRICS[name].prometheus, labels, found.counts, found.sum)
        told = [part for name, some in lines.items() if some for part in (*_head(METRICS[name]), *some)]
        return "".join(f"{line}\n" for line in told)


def exposition_of(measures: Measures) -> Exposition | None:
    """The text of what these measures count; None when they keep nothing here."""
    return Exposition(measures) if isinstance(measures, Counters) else None


async def tell_queues(counters: Counters, bus: MessageBus, retired: Collection[str]) -> None:
    """Set the gauges of work queues; of those that are retired there are none. Raises `BrokerUnreachable`."""
    for queue in await bus.queues():
        name = queue.subscription
        if name in retired:
            for gauge in (Names.QUEUE_DEPTH, Names.QUEUE_CONSUMERS, Names.IDLE):
                counters.drop(gauge, subscription=name)
        else:
            counters.gauge(Names.QUEUE_DEPTH, queue.ready, subscription=name)
            counters.gauge(Names.QUEUE_CONSUMERS, queue.consumers, subscription=name)


def tell_health(
    measures: Measures, health: Callable[[], BusHealth], subscriptions: Callable[[], Sequence[str]]
) -> None:
    """Set the gauges of a bus: whether it is connected, and which of these subscriptions have no consumer for how long."""
    found = health()
    measures.gauge(Names.CONNECTED, int(found.connected))
    for name in subscriptions():
        measures.gauge(Names.IDLE, found.idle_seconds.get(name, 0), subscription=name)


def _head(metric: Metric) -> tuple[str, str]:
    return f"# HELP {metric.prometheus} {metric.help}", f"# TYPE {metric.prometheus} {metric.kind}"


def _buckets(name: str, labels: _Labels, counts: Sequence[int], total: float) -> Iterator[str]:
    for bound, count in zip(_BOUNDS, accumulate(counts), strict=True):
        yield f"{name}_bucket{_braces((*labels, ('le', bound)))} {count}"
    yield f"{name}_sum{_braces(labels)} {_number(total)}"
    yield f"{name}_count{_braces(labels)} {sum(counts)}"


def _braces(labels: _Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels) + "}"


def _escaped(value: str) -> str:
    text = value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
    return text.encode("utf-8", "backslashreplace").decode()


def _number(value: float) -> str:
    return repr(int(value)) if value == int(value) else repr(float(value))
