"""Which exchanges and queues there are, as data: names, arguments, bindings. Nothing here talks to a broker.

Everything that keeps a message safe is an argument of its queue, because policies cannot be set over AMQP; arguments
cannot be altered later, so this table changes only together with a migration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, final

from rockbot_messaging.letters import DISCARDED, DISCARDED_SECONDS, UNROUTED
from rockbot_messaging.ports import Door
from rockbot_messaging.subscriptions import WATCH_LIMIT, WatchSubscription, WorkSubscription

__all__ = ["Binding", "Exchange", "Names", "Queue", "Topology", "delay", "shared", "watch", "work"]

#: Deliveries of one copy that may end without being settled before the broker itself buries it.
DELIVERY_LIMIT: Final = 20

#: A dead-letter queue must survive being read. -1 means "no limit" from 4.0 on, and on 3.x it drops a letter at its first
#: return; a number that nobody reaches means the same on all of them, so that a broker may be upgraded under its queues.
_UNREACHABLE: Final = 1_000_000


@final
@dataclass(frozen=True, slots=True)
class Exchange:
    """A durable exchange."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    kind: str = "topic"


@final
@dataclass(frozen=True, slots=True)
class Queue:
    """A queue; `transient` ones are exclusive to their connection and go with it."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    transient: bool = False


@final
@dataclass(frozen=True, slots=True)
class Binding:
    """What brings messages of `exchange` with a key like `pattern` into `queue`."""

    queue: str
    exchange: str
    pattern: str


@final
@dataclass(frozen=True, slots=True)
class Topology:
    """What must exist, in the order in which it is declared: queues, exchanges, bindings."""

    queues: tuple[Queue, ...] = ()
    exchanges: tuple[Exchange, ...] = ()
    bindings: tuple[Binding, ...] = ()

    def __add__(self, other: Topology) -> Topology:
        return Topology(
            (*self.queues, *other.queues), (*self.exchanges, *other.exchanges), (*self.bindings, *other.bindings)
        )


@final
@dataclass(frozen=True, slots=True)
class Names:
    """Every name that this namespace uses."""

    namespace: str

    @property
    def unrouted(self) -> str:
        return f"{self.namespace}.{UNROUTED}"

    @property
    def discarded(self) -> str:
        return f"{self.namespace}.{DISCARDED}"

    def exchange(self, door: Door) -> str:
        """The exchange behind a door."""
        return self.namespace if door is Door.PUBLIC else f"{self.namespace}.{door.value}"

    def queue(self, subscription: str) -> str:
        """A work subscription's queue."""
        return f"{self.namespace}.{subscription}"

    def dead_letters(self, queue: str) -> str:
        """The dead-letter queue of a work queue."""
        return f"{queue}.dlq"

    def delay(self, queue: str, step: int) -> str:
        """The delay queue of a work queue for a step in seconds."""
        return f"{queue}.delay.{step}"

    def watch(self, subscription: WatchSubscription, unique: str) -> str:
        """The queue of one running watch subscription; one without patterns is a reply queue."""
        kind = f"watch.{subscription.name}" if subscription.patterns else "reply"
        return f"{self.namespace}.{kind}.{unique}"

    def subscription_of(self, dead_letter_queue: str) -> str:
        """The subscription whose failures a dead-letter queue keeps; the unrouted queue's is `UNROUTED`."""
        if dead_letter_queue in (self.unrouted, self.discarded):
            return dead_letter_queue.removeprefix(f"{self.namespace}.")
        return dead_letter_queue.removeprefix(f"{self.namespace}.").removesuffix(".dlq")

    def resolve_dead_letters(self, name: str) -> str:
        """The dead-letter queue meant by a queue's or a subscription's name."""
        if name in (UNROUTED, self.unrouted):
            return self.unrouted
        if name in (DISCARDED, self.discarded):
            return self.discarded
        queue = name if name.startswith(f"{self.namespace}.") else self.queue(name)
        return queue if queue.endswith(".dlq") else self.dead_letters(queue)


def _keeper(name: str, *, seconds: int | None = None) -> Queue:
    arguments: dict[str, Any] = {"x-queue-type": "quorum", "x-delivery-limit": _UNREACHABLE}
    if seconds is not None:
        arguments["x-message-ttl"] = seconds * 1000
    return Queue(name, arguments)


def shared(names: Names) -> Topology:
    """The three exchanges, the queue of messages that nobody receives and that of discarded letters."""
    return Topology(
        queues=(
            _keeper(names.unrouted),
            _keeper(names.discarded, seconds=DISCARDED_SECONDS),
        ),
        exchanges=(
            Exchange(names.unrouted, kind="fanout"),
            Exchange(names.exchange(Door.PUBLIC), {"alternate-exchange": names.unrouted}),
            Exchange(names.exchange(Door.COMMANDS)),
            Exchange(names.exchange(Door.LOSSY)),
        ),
        bindings=(Binding(names.unrouted, names.unrouted, ""),),
    )


def work(names: Names, subscription: WorkSubscription) -> Topology:
    """A work subscription's queue, its dead-letter queue and its bindings; delay queues are made when first needed."""
    name = names.queue(subscription.name)
    buried = names.dead_letters(name)
    queue = Queue(
        name,
        {
            "x-queue-type": "quorum",
            "x-delivery-limit": DELIVERY_LIMIT,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": buried,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        },
    )
    doors = (names.exchange(Door.PUBLIC), names.exchange(Door.COMMANDS))
    return Topology(
        # The dead-letter queue exists before anything can be dead-lettered into it.
        queues=(_keeper(buried), queue),
        bindings=tuple(Binding(name, door, pattern) for pattern in subscription.patterns for door in doors),
    )


def delay(names: Names, queue: str, step: int) -> Topology:
    """The delay queue of a work queue for one step in seconds.

    The time to live belongs to the queue, not to its messages, so none waits behind one that is due later.
    """
    arguments = {
        "x-queue-type": "quorum",
        "x-message-ttl": step * 1000,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": queue,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }
    return Topology(queues=(Queue(names.delay(queue, step), arguments),))


def watch(names: Names, subscription: WatchSubscription, queue: str) -> Topology:
    """The transient queue of one running watch subscription."""
    return Topology(
        queues=(Queue(queue, {"x-max-length": WATCH_LIMIT, "x-overflow": "drop-head"}, transient=True),),
        bindings=tuple(
            Binding(queue, names.exchange(door), pattern) for pattern in subscription.patterns for door in Door
        ),
    )
