"""What receives messages, as data.

A *work* subscription is one named durable queue with competing consumers and a dead-letter queue of its own. A *watch*
subscription is one exclusive, transient queue per process: broadcasts, status, streamed text. Work is never lost;
what a watcher misses while it is away is gone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, final

from rockbot_messaging.errors import InvalidTopic
from rockbot_messaging.retries import RetryPolicy
from rockbot_messaging.topics import check_pattern, check_topic

__all__ = ["RESERVED_WORDS", "Subscription", "WatchSubscription", "WorkSubscription"]

#: First words that queue names of ours use for something else.
RESERVED_WORDS: Final = frozenset({"reply", "watch", "unrouted"})


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class WorkSubscription:
    """One durable queue ``<namespace>.<name>`` whose consumers compete.

    Args:
        name: topic words, without reserved first or last words (``reply watch unrouted``; ``dlq``, ``delay``).
        patterns: what it receives.
        prefetch: deliveries a process holds at most.
        concurrency: deliveries a process handles at the same time, at most `prefetch`; None means `prefetch`.
        retry: what a counted Retry leads to.
    """

    name: str
    patterns: tuple[str, ...]
    prefetch: int = 100
    concurrency: int | None = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)

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

    @property
    def parallelism(self) -> int:
        """Deliveries handled at the same time."""
        return min(self.concurrency or self.prefetch, self.prefetch)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class WatchSubscription:
    """One exclusive transient queue for this process; without patterns it receives only what is sent to its address.

    A handler's Retry or DeadLetter is logged and the message is dropped: nothing of a watcher outlives it.
    """

    name: str
    patterns: tuple[str, ...] = ()
    prefetch: int = 1000

    def __post_init__(self) -> None:
        check_topic(self.name)
        for pattern in self.patterns:
            check_pattern(pattern)


Subscription = WorkSubscription | WatchSubscription
