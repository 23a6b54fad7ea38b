"""What is counted, and where counts go: a port, so that nothing here knows a telemetry library.

Names follow the conventions of OpenTelemetry (dots, no units in names); labels are few and of few values, never ids.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, Protocol, final, runtime_checkable

__all__ = ["NO_MEASURES", "BindingMeasures", "Counters", "Measures", "Names", "counter"]


class Names:
    """Every name that this package and the host count under."""

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


class Measures(Protocol):
    """Where counts go. Must not block and must not raise."""

    def count(self, name: str, amount: float = 1, /, **labels: str) -> None:
        """Add to a counter."""
        ...

    def gauge(self, name: str, value: float, /, **labels: str) -> None:
        """Set a gauge."""
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


#: Counts nothing.
NO_MEASURES: Final[Measures] = _Nowhere()


@final
class Counters:
    """Counts in this process, for tests and for people who ask it."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}

    def count(self, name: str, amount: float = 1, /, **labels: str) -> None:
        key = (name, tuple(sorted(labels.items())))
        self._values[key] = self._values.get(key, 0) + amount

    def gauge(self, name: str, value: float, /, **labels: str) -> None:
        self._values[name, tuple(sorted(labels.items()))] = value

    def bind(self, name: str, /, **labels: str) -> Callable[[], None]:
        """See `BindingMeasures.bind`."""
        key, values = (name, tuple(sorted(labels.items()))), self._values

        def count() -> None:
            values[key] = values.get(key, 0) + 1

        return count

    def value(self, name: str, /, **labels: str) -> float:
        """What was counted under this name and exactly these labels."""
        return self._values.get((name, tuple(sorted(labels.items()))), 0)

    def snapshot(self) -> Mapping[tuple[str, tuple[tuple[str, str], ...]], float]:
        """Everything counted so far."""
        return dict(self._values)
