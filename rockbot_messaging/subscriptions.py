"""What receives messages, as data.

A *work* subscription is one named durable queue with competing consumers and a dead-letter queue of its own. A *watch*
subscription is one exclusive, transient queue per process: broadcasts, status, streamed text. Work is never lost;
what a watcher misses while it is away is gone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal, final

from rockbot_messaging.errors import InvalidTopic
from rockbot_messaging.retries import RetryPolicy
from rockbot_messaging.topics import check_pattern, check_topic

__all__ = [
    "RESERVED_WORDS",
    "WATCH_LIMIT",
    "Lane",
    "Ordered",
    "OutageGuard",
    "Rate",
    "Subscription",
    "WatchSubscription",
    "WorkSubscription",
]

#: First words that queue names of ours use for something else.
RESERVED_WORDS: Final = frozenset({"reply", "watch", "unrouted", "discarded"})

#: Messages that wait for one watcher at most. What it is too slow for is dropped, the oldest first.
WATCH_LIMIT: Final = 10_000


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Ordered:
    """Messages with the same key are handled one after another, in the order of their arrival; other keys go on.

    Args:
        by: what the key is: ``conversation``, ``correlation``, ``topic`` or ``header:<name>``. A message without one is
            its own key.
        on_dead: whether a dead letter holds up its key until it is replayed or discarded (``block``), or not (``skip``).
        lease: seconds after the death of a process until another goes on with its keys, and with reading the queue.
        scan: seconds between two looks for keys that nobody works; each costs a listing of the keys that wait, and when so
            many do that this takes long, it is done more rarely.
        most: messages of one key that may wait; what comes beyond is handed back, and may then be overtaken.
    """

    by: str = "conversation"
    on_dead: Literal["block", "skip"] = "block"
    lease: float = 15.0
    scan: float = 5.0
    most: int = 10_000

    def __post_init__(self) -> None:
        if not 0 < self.lease < float("inf") or not 0 < self.scan < float("inf") or self.most < 1:
            raise ValueError("an order needs lease > 0, scan > 0 and most >= 1")
        kind, _, header = self.by.partition(":")
        if self.by not in ("conversation", "correlation", "topic") and not (kind == "header" and header):
            raise ValueError("an order is by conversation, correlation, topic or header:<name>")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """One of several subscriptions that share a process's slots.

    Args:
        group: subscriptions of one group share `slots` of them.
        rank: the smallest rank goes first.
        slots: deliveries of the whole group handled at the same time.
        ageing: seconds of waiting that lift a delivery by one rank, so that the last lane is slow but never starves.
    """

    group: str
    rank: int
    slots: int
    ageing: float = 30.0

    def __post_init__(self) -> None:
        if self.slots < 1 or self.ageing <= 0:
            raise ValueError(f"lane {self.rank} of {self.group!r}: slots must be at least 1 and ageing above 0")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """At most `per_second` deliveries begun on average by one process, and `burst` at once."""

    per_second: float
    burst: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.per_second < float("inf") or self.burst < 1:
            raise ValueError("a rate needs per_second above 0 and a burst of at least 1")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class OutageGuard:
    """When handling fails for every message, probe instead of burning attempts.

    Args:
        failures: that many counted retries in a row, of different messages, without one success begin an outage. In it a
            failure costs no attempt, unless its error speaks of the message itself (a ValueError, a KeyError).
        probe: seconds between two probes at first; doubles up to `longest`.
        longest: see `probe`.
    """

    failures: int = 10
    probe: float = 1.0
    longest: float = 60.0

    def __post_init__(self) -> None:
        if self.failures < 1 or not 0 < self.probe <= self.longest:
            raise ValueError("an outage guard needs failures >= 1 and 0 < probe <= longest")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class WorkSubscription:
    """One durable queue ``<namespace>.<name>`` whose consumers compete.

    Args:
        name: topic words, without reserved words (first: ``reply watch unrouted discarded``; anywhere: ``dlq delay``).
        patterns: what it receives.
        prefetch: deliveries a process holds at most.
        concurrency: deliveries a process handles at the same time, at most `prefetch`; None means `prefetch`.
        retry: what a counted Retry leads to.
        ordered: messages of one key one after another; None for no order.
        lane: slots shared with other subscriptions; None for its own.
        rate: how many deliveries a process begins per second; None for no limit.
        guard: what happens when handling fails for every message; None for nothing.
        remember: seconds for which the ids of handled messages are remembered, so that a copy is acknowledged without
            being handled again; None for not at all (handlers that are idempotent by themselves).

    Queue and providers know `prefetch`, `concurrency` and `retry`; the others are kept by the host around its handler.
    """

    name: str
    patterns: tuple[str, ...]
    prefetch: int = 100
    concurrency: int | None = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    ordered: Ordered | None = None
    lane: Lane | None = None
    rate: Rate | None = None
    guard: OutageGuard | None = field(default_factory=OutageGuard)
    remember: float | None = None

    def __post_init__(self) -> None:
        words = check_topic(self.name).split(".")
        if words[0] in RESERVED_WORDS or "dlq" in words or "delay" in words:
            raise InvalidTopic(f"{self.name!r} cannot name a subscription: its queue would collide with one of ours")
        if not self.patterns:
            raise InvalidTopic(f"work subscription {self.name!r} receives nothing: give it at least one pattern")
        for pattern in self.patterns:
            check_pattern(pattern)
        if self.prefetch < 1 or (self.concurrency is not None and self.concurrency < 1):
            raise ValueError(f"subscription {self.name!r}: prefetch and concurrency must be at least 1")
        if self.remember is not None and self.remember <= 0:
            raise ValueError(f"subscription {self.name!r}: remember must be above 0 seconds")

    @property
    def parallelism(self) -> int:
        """Deliveries handled at the same time."""
        return min(self.concurrency or self.prefetch, self.prefetch)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class WatchSubscription:
    """One exclusive transient queue for this process; without patterns it receives only what is sent to its address.

    A handler's Retry or DeadLetter is logged and the message is dropped: nothing of a watcher outlives it. At most
    `WATCH_LIMIT` messages wait for it.
    """

    name: str
    patterns: tuple[str, ...] = ()
    prefetch: int = 1000

    def __post_init__(self) -> None:
        check_topic(self.name)
        for pattern in self.patterns:
            check_pattern(pattern)


Subscription = WorkSubscription | WatchSubscription
