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
from rockbot_messaging.letters import DeadLetterQueue, Letter
from rockbot_messaging.subscriptions import Subscription, WorkSubscription
from rockbot_messaging.verdicts import Verdict

__all__ = [
    "BusHealth",
    "Consumption",
    "DeadLetters",
    "Door",
    "MessageBus",
    "MessageHandler",
    "MessagePublisher",
    "MessageSubscriber",
]

MessageHandler = Callable[[MessageEnvelope], Awaitable[Verdict]]


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
            BodyTooLarge: the body exceeds the provider's limit.
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
            BodyTooLarge, NotConfirmed, BrokerUnreachable, Closed: as for `publish`.
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
        """Every dead-letter queue that this process knows of, the unrouted queue last; empty ones too."""
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
        """Remove a letter for good; logs its id and the reason. Returns it.

        Raises:
            LetterNotFound: as for `letter`.
        """
        ...


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class BusHealth:
    """How a provider is. `idle_seconds` has, for each subscription that should be consuming and is not, since when."""

    connected: bool
    detail: str
    idle_seconds: dict[str, float]


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

    def health(self) -> BusHealth:
        """Never blocks."""
        ...

    async def close(self) -> None:
        """Stop every subscription (its deliveries in hand go back) and disconnect; idempotent."""
        ...
