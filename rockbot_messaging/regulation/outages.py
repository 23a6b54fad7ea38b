"""When does everything fail, and when is it worth a try: a state machine without time, tasks or messages of its own.

One message that fails says something about that message. Many different ones in a row, without one success between them,
say something about what handling depends on; attempts spent while that is away are spent for nothing, and sound messages
become dead letters. So an outage begins, and until one message succeeds only one at a time is tried, ever more rarely.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from rockbot_messaging.subscriptions import OutageGuard

__all__ = ["Outage", "OutageStatus"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class OutageStatus:
    """An outage as people are told of it. `error` is the last one, `probe_in` the seconds until the next probe."""

    subscription: str
    since_ms: int
    error: str
    probes: int
    waiting: int
    probe_in: float


@final
class Outage:
    """One subscription's. Instants (`now`) are seconds on a clock that never goes back.

    `quiet` says that nothing has failed since the last success: then a success changes nothing.
    """

    __slots__ = ("_failed", "_guard", "_interval", "_probe_at", "_probing", "error", "on", "probes", "quiet", "since")

    def __init__(self, guard: OutageGuard) -> None:
        self._guard = guard
        self._failed: set[str] = set()
        self._interval = guard.probe
        self._probe_at = 0.0
        self._probing = False
        self.on = False
        self.quiet = True
        self.since = 0.0
        self.probes = 0
        self.error = ""

    def failed(self, message: str, error: str, now: float) -> bool:
        """A counted failure of `message` (its identity); True when an outage begins with it."""
        self.error = error
        if self.on:
            return False
        self.quiet = False
        self._failed.add(message)
        if len(self._failed) < self._guard.failures:
            return False
        self._failed.clear()
        self.on = True
        self.since = now
        self.probes = 0
        self._probing = False
        self._interval = self._guard.probe
        self._probe_at = now + self._interval
        return True

    def succeeded(self) -> bool:
        """A message was handled; True when that ends an outage."""
        ended = self.on
        self._failed.clear()
        self.on = False
        self.quiet = True
        return ended

    def may_probe(self, now: float) -> bool:
        """Whether a delivery may be tried now."""
        return self.on and not self._probing and now >= self._probe_at

    def probe_in(self, now: float) -> float:
        """Seconds until the next probe; as if the one under way, if any, failed now."""
        return self._interval if self._probing else max(0.0, self._probe_at - now)

    def probe_begins(self) -> None:
        """One delivery is tried; no other until it is over."""
        self._probing = True
        self.probes += 1

    def probe_failed(self, error: str, now: float) -> None:
        """Still away: the next probe waits twice as long as this one did."""
        self.error = error
        self._interval = min(2 * self._interval, self._guard.longest)
        self._over(now + self._interval)

    def probe_said_nothing(self, now: float, *, wait: bool) -> None:
        """It ended without success or failure (bad input, a hand-back); `wait` for the next as long as for this one."""
        self._over(now + self._interval if wait else now)

    def _over(self, next_at: float) -> None:
        self._probing = False
        self._probe_at = next_at
