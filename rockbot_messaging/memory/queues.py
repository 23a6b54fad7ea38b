"""Queues: what lies ready, who competes for it, and what is dead."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from operator import attrgetter
from typing import Protocol, final

from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.letters import Discarded, Failure
from rockbot_messaging.subscriptions import WATCH_LIMIT
from rockbot_messaging.topics import TopicPattern

__all__ = ["Consumer", "MemoryQueue", "Stored"]


@final
class Stored:
    """One message in one queue, or in the hand of one consumer of it.

    `number` names its row for good; `order` is its place among the messages of the queue, new whenever it is put at the
    end; `returns` counts the deliveries that ended unsettled. `loaded` says that it was left by an earlier process, and that
    nobody knows whether it was delivered there.
    """

    __slots__ = ("discarded", "envelope", "failure", "loaded", "number", "order", "problem", "returns")

    def __init__(self, number: int, envelope: MessageEnvelope, *, problem: str = "", returns: int = 0) -> None:
        self.number = number
        self.order = number
        self.envelope = envelope
        self.problem = problem
        self.returns = returns
        self.loaded = False
        self.failure: Failure | None = None
        self.discarded: Discarded | None = None


class Consumer(Protocol):
    """Takes deliveries while it has credit."""

    credit: int

    def take(self, stored: Stored) -> None:
        """Have one more delivery in hand; costs one credit."""
        ...


@final
class MemoryQueue:
    """A work queue with its dead letters, the transient queue of one process (`watch`), or what only keeps letters
    (`keeper`). Whoever looks at its letters holds `looking`.
    """

    __slots__ = ("_consumers", "dead", "keeper", "looking", "name", "patterns", "ready", "watch")

    def __init__(self, name: str, *, watch: bool, keeper: bool = False) -> None:
        self.name = name
        self.watch = watch
        self.keeper = keeper
        self.looking = asyncio.Lock()
        self.patterns: dict[str, TopicPattern] = {}
        self.ready: deque[Stored] = deque()
        self.dead: dict[int, Stored] = {}
        self._consumers: deque[Consumer] = deque()

    def bind(self, patterns: Iterable[str]) -> bool:
        """Add what is missing; True if anything was."""
        missing = [pattern for pattern in patterns if pattern not in self.patterns]
        self.patterns.update((pattern, TopicPattern(pattern)) for pattern in missing)
        return bool(missing)

    def receives(self, topic: str) -> bool:
        """Whether some binding of this queue matches."""
        return any(pattern.matches(topic) for pattern in self.patterns.values())

    def put(self, stored: Stored) -> None:
        """Append one message and hand it out if somebody has credit; of what a watcher is too slow for the oldest goes."""
        if self.watch and len(self.ready) >= WATCH_LIMIT:
            self.ready.popleft()
        self.ready.append(stored)
        self.dispatch()

    def give_back(self, unsettled: Iterable[Stored]) -> None:
        """Put deliveries that ended unsettled at the head again, in their order."""
        ordered = sorted(unsettled, key=attrgetter("order"), reverse=True)
        for stored in ordered:
            stored.returns += 1
            stored.loaded = False
        self.ready.extendleft(ordered)
        self.dispatch()

    @property
    def consumers(self) -> int:
        """How many compete."""
        return len(self._consumers)

    def join(self, consumer: Consumer) -> None:
        """Let `consumer` compete."""
        self._consumers.append(consumer)
        self.dispatch()

    def leave(self, consumer: Consumer) -> None:
        """Hand nothing more to `consumer`."""
        if consumer in self._consumers:
            self._consumers.remove(consumer)

    def dispatch(self) -> None:
        """Hand out what is ready, in turn, to consumers that have credit."""
        ready, consumers = self.ready, self._consumers
        while ready:
            for _ in range(len(consumers)):
                consumer = consumers[0]
                consumers.rotate(-1)
                if consumer.credit > 0:
                    consumer.take(ready.popleft())
                    break
            else:
                return
