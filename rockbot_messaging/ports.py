"""The ports: what a provider of messaging offers. All pass one conformance suite (`rockbot_messaging.testing`).

Promises, the same in every provider:

* at-least-once: a publish that returned is stored; a delivery that was not settled comes again, marked `redelivered`;
* order: within one queue, first deliveries to one consumer with `concurrency` 1 come in the order they were stored;
* a verdict is carried out by storing first and forgetting then; a crash between the two gives a copy with the same id;
* watchers get what is published while they are subscribed, at most once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, final

from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.letters import DeadLetterQueue, Failure, Fate, Letter, Walked
from rockbot_messaging.settlement import Bury, Delay
from rockbot_messaging.subscriptions import Subscription, WorkSubscription
from rockbot_messaging.verdicts import Verdict

__all__ = [
    "BusHealth",
    "BusObserver",
    "Consumption",
    "DeadLetters",
    "Door",
    "LetterVisitor",
    "MessageBus",
    "MessageHandler",
    "MessagePublisher",
    "MessageSubscriber",
    "WorkQueue",
]

MessageHandler = Callable[[MessageEnvelope], Awaitable[Verdict]]

#: Decides on a batch of letters, one fate for each.
LetterVisitor = Callable[[Sequence[Letter]], Awaitable[Sequence[Fate]]]


class BusObserver(Protocol):
    """Is told what became of deliveries that were not simply acknowledged. Must not block and must not raise."""

    def carried_out(self, subscription: str, outcome: Delay | Bury) -> None:
        """A delivery of this work subscription was stored in a delay or dead-letter queue, confirmed and settled."""
        ...


class Door(StrEnum):
    """Which exchange a message enters by; it decides what becomes of a message nobody receives.

    PUBLIC: kept in the unrouted queue, the publisher is not told. COMMANDS: kept there, then `Unroutable` is raised.
    LOSSY: dropped. Work queues receive from PUBLIC and COMMANDS, watchers from all three.
    """

    PUBLIC = "public"
    COMMANDS = "commands"
    LOSSY = "lossy"


class MessagePublisher(Protocol):
    """Sends messages. Safe to use from many tasks at the same time."""

    async def publish(self, envelope: MessageEnvelope, *, door: Door = Door.COMMANDS) -> None:
        """Store one message in every queue bound to its topic; returns when it is confirmed (LOSSY: at once).

        Raises:
            InvalidTopic: the topic breaks the grammar.
            BodyTooLarge, HeadersTooLarge: the body or the headers exceed the provider's limit.
            Unroutable: COMMANDS only: nobody receives the topic; the message was kept in the unrouted queue.
            NotConfirmed: the broker refused it or did not confirm in time.
            BrokerUnreachable: there is no connection, and none came back within the provider's time limit.
            Closed: the publisher was closed.
        """
        ...

    async def publish_many(self, envelopes: Sequence[MessageEnvelope], *, door: Door = Door.COMMANDS) -> None:
        """Publish several messages with their confirms pipelined; returns when all of them are confirmed.

        Raises:
            The first error of `publish`, after every other message has been tried.
        """
        ...

    async def send(self, envelope: MessageEnvelope, *, address: str) -> None:
        """Store one message in the one queue named `address` (a reply-to), past all exchanges.

        Raises:
            Unroutable: there is no such queue (any more).
            BodyTooLarge, HeadersTooLarge, NotConfirmed, BrokerUnreachable, Closed: as for `publish`.
        """
        ...


class Consumption(Protocol):
    """One running subscription."""

    @property
    def address(self) -> str:
        """The queue's name; for a watch subscription it may be given to others as a reply-to."""
        ...

    async def stop(self, *, timeout: float) -> int:
        """Take no more deliveries, wait up to `timeout` seconds for those in hand, hand the rest back unsettled.

        Returns the number handed back. Handlers still running then are cancelled.
        """
        ...


class MessageSubscriber(Protocol):
    """Receives messages."""

    async def subscribe(self, subscription: Subscription, handler: MessageHandler) -> Consumption:
        """Create what is missing for `subscription` and start handling.

        `handler` is called once for each delivery and its verdict is carried out. An exception from it is a counted
        Retry; cancelling it hands the delivery back. It must finish within the broker's consumer timeout (RabbitMQ:
        30 minutes unless configured).

        Raises:
            TopologyMismatch: the queue exists with other arguments.
            BrokerUnreachable, Closed: as for publishing.
        """
        ...


class DeadLetters(Protocol):
    """Reads and works dead-letter queues. `queue` is a queue's name or its subscription's name.

    Reading changes neither order nor content.
    """

    async def queues(self) -> list[DeadLetterQueue]:
        """Every dead-letter queue that this process knows of, empty ones too; the unrouted queue last.

        The queue of discarded letters is not among them.
        """
        ...

    async def letters(self, queue: str, *, limit: int = 50, offset: int = 0) -> list[Letter]:
        """Letters, oldest first.

        Raises:
            LetterNotFound: there is no such queue.
        """
        ...

    async def letter(self, queue: str, letter_id: str) -> Letter:
        """One letter; `letter_id` may be an unambiguous prefix of at least 6 characters.

        Raises:
            LetterNotFound: no letter, or more than one, is meant; the text says which.
        """
        ...

    async def replay(self, queue: str, letter_id: str, *, body: bytes | None = None) -> MessageEnvelope:
        """Store the message again, same id, attempt 1, optionally with another body, then remove the letter.

        It goes into the one work queue it came from; an unrouted message is published again to its topic.
        Returns what was sent.

        Raises:
            LetterNotFound: as for `letter`.
            Unroutable: the queue it came from is gone, or still nobody receives its topic; the letter stays.
        """
        ...

    async def discard(self, queue: str, letter_id: str, *, reason: str) -> Letter:
        """Move a letter to the queue of discarded letters (`DISCARDED`), where it can be restored for a week.

        Logs its id and the reason. Returns it. A letter that lies there already is erased.

        Raises:
            LetterNotFound: as for `letter`.
        """
        ...

    async def walk(self, queue: str, decide: LetterVisitor, *, batch: int = 200) -> Walked:
        """Show every letter to `decide` once, oldest first, in batches, and carry out the fates it returns.

        The one primitive behind everything that works on many letters: reading all of them, sending on, discarding,
        restoring, erasing. The letters that lie there when the walk begins are visited; what dies meanwhile is not. A
        batch's fates are carried out (stored and confirmed, then removed) before the next batch is shown; so whoever is
        killed in between leaves each letter where it was, or where it was to go, or (killed between storing and removing)
        both, with the same id. What is kept keeps its order. While a walk goes on nobody else sees the queue's letters:
        a second walk or look, also of another process, waits for it. Memory does not grow with the number of letters.
        Cancelled, it carries out the batch in hand and ends.

        `queue` may be `UNROUTED` or `DISCARDED`. An exception from `decide` ends the walk, and what is left stays.

        Raises:
            LetterNotFound: there is no such queue.
            ValueError: `decide` returned another number of fates than it was shown letters, or a fate that this queue does
                not have (`Restore` outside of `DISCARDED`, `SendOn` and `Discard` in it).
            LettersBusy: somebody else's work on this queue did not end in time (every method that looks at letters may
                raise it).
            BrokerUnreachable: the connection was lost; what was carried out stays carried out.
        """
        ...

    async def bury(self, queue: str, envelope: MessageEnvelope, failure: Failure, *, problem: str = "") -> None:
        """Store a letter at the end of a dead-letter queue: one that was exported, or that no delivery stands behind.

        Raises:
            LetterNotFound: there is no such queue. BodyTooLarge, NotConfirmed, BrokerUnreachable: nothing was stored.
        """
        ...


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class BusHealth:
    """How a provider is. `idle_seconds` has, for each subscription that should be consuming and is not, since when."""

    connected: bool
    detail: str
    idle_seconds: dict[str, float]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class WorkQueue:
    """A work queue at an instant. `ready` are the messages that nobody has in hand, those that are delayed not counted."""

    name: str
    subscription: str
    ready: int
    consumers: int


class MessageBus(Protocol):
    """One provider, opened."""

    @property
    def publisher(self) -> MessagePublisher: ...

    @property
    def subscriber(self) -> MessageSubscriber: ...

    @property
    def dead_letters(self) -> DeadLetters: ...

    async def open(self) -> None:
        """Connect.

        Raises:
            BrokerUnreachable: not within the provider's time limit; the text says host, port and cause, no credentials.
        """
        ...

    async def declare(self, subscriptions: Iterable[WorkSubscription]) -> None:
        """Create the missing exchanges and the missing queues of these work subscriptions; alter nothing that exists.

        A process declares what it consumes and what it addresses, so that nothing it sends is unroutable merely because
        the consumer has not started yet.

        Raises:
            TopologyMismatch: something exists with other arguments.
        """
        ...

    async def queues(self) -> list[WorkQueue]:
        """Every work queue that this process consumes or addresses, by name; counts may lag behind by seconds.

        Raises:
            BrokerUnreachable: there is no connection.
        """
        ...

    def health(self) -> BusHealth:
        """Never blocks."""
        ...

    async def close(self) -> None:
        """Stop every subscription (its deliveries in hand go back) and disconnect; idempotent."""
        ...
