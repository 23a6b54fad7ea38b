"""What is counted, and where counts go: a port, so that nothing here knows a telemetry library.

Names follow the conventions of OpenTelemetry (dots, no units in names); labels are few and of few values, never ids.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol, final, runtime_checkable

__all__ = ["BOUNDS", "NO_MEASURES", "BindingMeasures", "Counters", "Distribution", "Measures", "Names", "counter"]

#: Upper bounds, in seconds, of what durations are sorted into: a handler takes milliseconds, a turn may take an hour.
BOUNDS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)


class Names:
    """Every name that this package, the host, its handlers and the script service count under."""

    #: Deliveries by `subscription` and `outcome` (ack, retry, handback, dead_letter).
    SETTLED: Final = "rockbot.messages.settled"
    #: Deliveries of messages that were handled before, by `subscription`.
    DUPLICATES: Final = "rockbot.messages.duplicates"
    #: Dead letters by `subscription` and `error`.
    DEAD_LETTERS: Final = "rockbot.dead_letters"
    #: Gauge: letters that wait, by `queue`.
    DEAD_LETTER_DEPTH: Final = "rockbot.dead_letters.depth"
    #: Gauge: age of the oldest letter in seconds, by `queue`.
    DEAD_LETTER_AGE: Final = "rockbot.dead_letters.oldest"
    #: Letters worked on, by `queue` and `action` (replay, edit, discard, restore, purge, import, expire).
    LETTERS_WORKED: Final = "rockbot.dead_letters.worked"
    #: Gauge: 1 while a subscription only probes because everything fails, by `subscription`.
    OUTAGE: Final = "rockbot.subscription.outage"
    #: Deliveries that waited for the rate limit of their subscription, by `subscription`.
    RATE_LIMITED: Final = "rockbot.subscription.rate_limited"
    #: Deliveries that were dead-lettered because handling them kept killing processes, by `subscription`.
    POISONED: Final = "rockbot.messages.poisoned"
    #: Replies that came after their request had given up.
    LATE_REPLIES: Final = "rockbot.replies.late"
    #: Bodies stored aside, and read back, by `direction` (out, in).
    CLAIMS: Final = "rockbot.claims"
    #: Messages refused because their signature is missing or wrong, by `cause`.
    UNTRUSTED: Final = "rockbot.messages.untrusted"
    #: Gauge: messages of a work queue that nobody has in hand, by `subscription`; the broker's number, the same in every process.
    QUEUE_DEPTH: Final = "rockbot.queue.depth"
    #: Gauge: consumers of a work queue in all processes together, by `subscription`.
    QUEUE_CONSUMERS: Final = "rockbot.queue.consumers"
    #: Ages of messages, from publication to their first handling, by `subscription`.
    QUEUE_WAIT: Final = "rockbot.queue.wait"
    #: Gauge: 1 while the connection to the broker stands.
    CONNECTED: Final = "rockbot.broker.connected"
    #: Gauge: seconds for which a subscription should have been consuming and was not (0: it does), by `subscription`.
    IDLE: Final = "rockbot.subscription.idle"
    #: Durations of handling by `subscription` and `event`, whatever came of it.
    HANDLED: Final = "rockbot.handler.duration"
    #: Tasks by `agent` and `status` (completed, failed, canceled, expired), once each.
    TURNS: Final = "rockbot.turns"
    #: Durations from the task to its end, by `agent` and `status`.
    TURN_DURATION: Final = "rockbot.turn.duration"
    #: Gauge: tasks under way by `agent` and `state` (accepted, stalled, awaiting_approval, awaiting_input); of the whole store.
    TURNS_OPEN: Final = "rockbot.turns.open"
    #: Gauge: seconds for which the task that is longest in its state has been in it, by `agent` and `state`; of the whole store.
    TURN_OLDEST: Final = "rockbot.turn.oldest"
    #: Replies of models that became part of a turn, by `agent`.
    TURN_STEPS: Final = "rockbot.turn.steps"
    #: Calls whose message died, so that their turn stands still, by `agent`.
    TURN_STALLS: Final = "rockbot.turn.stalls"
    #: Turns that went on after they had stood still, by `agent`.
    TURN_RESUMES: Final = "rockbot.turn.resumes"
    #: Calls made, not answered from the ledger, by `provider`, `model` and `outcome` (ok, or the class of the error).
    MODEL_CALLS: Final = "rockbot.model.calls"
    #: Durations of calls by `provider` and `model`.
    MODEL_DURATION: Final = "rockbot.model.duration"
    #: Tokens by `provider`, `model` and `kind` (input, output, cache_read, cache_write).
    MODEL_TOKENS: Final = "rockbot.model.tokens"
    #: Money by `provider` and `model`, in the currency of the price table.
    MODEL_COST: Final = "rockbot.model.cost"
    #: Calls made by `tool` and `outcome` (ok, error, raised).
    TOOL_CALLS: Final = "rockbot.tool.calls"
    #: Durations of calls by `tool`.
    TOOL_DURATION: Final = "rockbot.tool.duration"
    #: Gauge: the part of a day's limit that is neither used nor reserved, 0 to 1, by `limit` (its setting).
    LIMIT_LEFT: Final = "rockbot.limit.left"
    #: Calls that a limit forbade, by `limit` (its setting).
    LIMIT_REFUSALS: Final = "rockbot.limit.refusals"
    #: Runs of scripts by `runtime` and `outcome`.
    SCRIPT_RUNS: Final = "rockbot.script.runs"
    #: Durations of runs by `runtime`, waiting for a sandbox included.
    SCRIPT_DURATION: Final = "rockbot.script.duration"
    #: Gauge: sandboxes by `state` (ready, missing, busy).
    SCRIPT_WORKERS: Final = "rockbot.script.workers"
    #: Sandboxes that ended and were replaced, because they had served their share or because they broke.
    SCRIPT_REPLACED: Final = "rockbot.script.workers.replaced"


class Measures(Protocol):
    """Where counts go. Must not block and must not raise."""

    def count(self, name: str, amount: float = 1, /, **labels: str) -> None:
        """Add to a counter."""
        ...

    def gauge(self, name: str, value: float, /, **labels: str) -> None:
        """Set a gauge."""
        ...

    def observe(self, name: str, value: float, /, **labels: str) -> None:
        """Add a value, in seconds, to a distribution."""
        ...


@runtime_checkable
class BindingMeasures(Protocol):
    """Measures that can look up name and labels once, for what is counted with every message."""

    def bind(self, name: str, /, **labels: str) -> Callable[[], None]:
        """A function that adds one under this name and these labels."""
        ...


def counter(measures: Measures, name: str, /, **labels: str) -> Callable[[], None]:
    """A function that adds one under this name and these labels, as cheaply as `measures` can."""
    if isinstance(measures, BindingMeasures):
        return measures.bind(name, **labels)
    return partial(measures.count, name, 1, **labels)


@final
class _Nowhere:
    def count(self, name: str, amount: float = 1, /, **labels: str) -> None:
        pass

    def gauge(self, name: str, value: float, /, **labels: str) -> None:
        pass

    def observe(self, name: str, value: float, /, **labels: str) -> None:
        pass


#: Counts nothing.
NO_MEASURES: Final[Measures] = _Nowhere()


@final
@dataclass(slots=True)
class Distribution:
    """How many values were at most each of `BOUNDS` and above the one before; the last count is of those above all."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    sum: float = 0

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.counts)


_Key = tuple[str, tuple[tuple[str, str], ...]]


@final
class Counters:
    """Counts in this process, for whoever asks it."""

    def __init__(self) -> None:
        self._values: dict[_Key, float] = {}
        self._distributions: dict[_Key, Distribution] = {}

    def count(self, name: str, amount: float = 1, /, **labels: str) -> None:
        key = (name, tuple(sorted(labels.items())))
        self._values[key] = self._values.get(key, 0) + amount

    def gauge(self, name: str, value: float, /, **labels: str) -> None:
        self._values[name, tuple(sorted(labels.items()))] = value

    def drop(self, name: str, /, **labels: str) -> None:
        """Forget what a gauge said: what it told of is no more."""
        self._values.pop((name, tuple(sorted(labels.items()))), None)

    def observe(self, name: str, value: float, /, **labels: str) -> None:
        key = (name, tuple(sorted(labels.items())))
        found = self._distributions.get(key)
        if found is None:
            found = self._distributions[key] = Distribution()
        found.counts[bisect_left(BOUNDS, value)] += 1
        found.sum += value

    def bind(self, name: str, /, **labels: str) -> Callable[[], None]:
        """See `BindingMeasures.bind`."""
        key, values = (name, tuple(sorted(labels.items()))), self._values

        def count() -> None:
            values[key] = values.get(key, 0) + 1

        return count

    def value(self, name: str, /, **labels: str) -> float:
        """What was counted under this name and exactly these labels."""
        return self._values.get((name, tuple(sorted(labels.items()))), 0)

    def distribution(self, name: str, /, **labels: str) -> Distribution:
        """What was observed under this name and exactly these labels."""
        return self._distributions.get((name, tuple(sorted(labels.items()))), Distribution())

    def copy(self) -> Counters:
        """What was counted so far, which does not change any more."""
        made = Counters()
        made._values = dict(self._values)
        made._distributions = {key: Distribution([*it.counts], it.sum) for key, it in self._distributions.items()}
        return made

    def snapshot(self) -> Mapping[_Key, float]:
        """Everything counted so far, and every gauge."""
        return dict(self._values)

    def distributions(self) -> Mapping[_Key, Distribution]:
        """Everything observed so far; not to be altered."""
        return dict(self._distributions)
