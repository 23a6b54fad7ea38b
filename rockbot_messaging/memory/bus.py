"""The in-memory provider: one connection to a broker inside the process."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Sequence
from typing import Final, final

from rockbot_messaging.clock import Clock, IdSource
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.errors import Closed, MessagingError, Unroutable
from rockbot_messaging.headers import DEFAULT_MAX_HEADER_BYTES
from rockbot_messaging.memory.broker import MemoryBroker
from rockbot_messaging.memory.consumption import MemoryConsumption
from rockbot_messaging.memory.dead_letters import MemoryDeadLetters
from rockbot_messaging.memory.outgoing import check_size, on_the_wire
from rockbot_messaging.memory.storage import BusStorage
from rockbot_messaging.ports import BusHealth, BusObserver, Door, MessageHandler, WorkQueue
from rockbot_messaging.retries import RetryPolicy
from rockbot_messaging.subscriptions import Subscription, WorkSubscription
from rockbot_messaging.topics import check_topic

__all__ = ["MemoryBus"]

_DEFAULT_BODY_LIMIT: Final = 16 * 1024 * 1024

#: A publisher that never waits for anything lets others run after so many messages.
_YIELD_EVERY: Final = 64


@final
class MemoryBus:
    """Implements `MessageBus`, publisher and subscriber included.

    Args:
        namespace: first part of every queue's name; the broker's, if one is given.
        clock: instants and delays; the broker's, if one is given.
        ids: fresh ids; the broker's, if one is given.
        storage: makes durable queues survive the process; the broker's, if one is given.
        max_body_bytes: longer bodies are neither sent nor handled.
        max_header_bytes: larger headers are neither sent nor handled.
        user_id: what the broker vouches for on messages of this connection; None vouches for nobody.
        broker: share it between connections; by default each bus has its own.
        observer: is told what became of deliveries that were not simply acknowledged.
        letters_wait: seconds that a look at dead letters waits for another one to end.
    """

    def __init__(
        self,
        *,
        namespace: str = "rockbot",
        clock: Clock | None = None,
        ids: IdSource | None = None,
        storage: BusStorage | None = None,
        max_body_bytes: int = _DEFAULT_BODY_LIMIT,
        max_header_bytes: int = DEFAULT_MAX_HEADER_BYTES,
        user_id: str | None = None,
        broker: MemoryBroker | None = None,
        observer: BusObserver | None = None,
        letters_wait: float = 30.0,
    ) -> None:
        self.broker = broker or MemoryBroker(namespace=namespace, clock=clock, ids=ids, storage=storage)
        self._max_body_bytes = max_body_bytes
        self._max_header_bytes = max_header_bytes
        self._observer = observer
        self._user_id = user_id
        self._state = "not opened"
        self._running: list[MemoryConsumption] = []
        self._published = itertools.count(1)
        self._dead_letters = MemoryDeadLetters(self.broker, self._check_open, max_body_bytes, letters_wait)
        self._closing = asyncio.Lock()

    @property
    def publisher(self) -> MemoryBus:
        """This object."""
        return self

    @property
    def subscriber(self) -> MemoryBus:
        """This object."""
        return self

    @property
    def dead_letters(self) -> MemoryDeadLetters:
        """The broker's dead letters, of all connections."""
        return self._dead_letters

    async def open(self) -> None:
        """Connect; the first connection of a broker opens its storage. Raises `BrokerUnreachable` if that cannot be."""
        if self._state == "open":
            return
        if self._state != "not opened":
            raise Closed("this bus was closed; make another one")
        await self.broker.connect()
        self._state = "open"

    async def declare(self, subscriptions: Iterable[WorkSubscription]) -> None:
        """Make missing queues and bindings; bindings are not kept in a storage, so a process declares at each start."""
        self._check_open()
        for subscription in subscriptions:
            self.broker.work_queue(subscription.name, subscription.patterns)

    async def publish(self, envelope: MessageEnvelope, *, door: Door = Door.COMMANDS) -> None:
        """See `MessagePublisher.publish`; with a storage it returns after the commit."""
        self._check_open()
        check_topic(envelope.topic)
        check_size(envelope, self._max_body_bytes, self._max_header_bytes)
        await self.broker.publish(on_the_wire(envelope, self._user_id), door)
        if next(self._published) % _YIELD_EVERY == 0:
            await asyncio.sleep(0)

    async def publish_many(self, envelopes: Sequence[MessageEnvelope], *, door: Door = Door.COMMANDS) -> None:
        """See `MessagePublisher.publish_many`; with a storage few commits take them all."""
        self._check_open()
        if self.broker.storage is not None and door is not Door.LOSSY:
            # Started in order, so stored in order, and one transaction takes whatever is waiting.
            results = await asyncio.gather(
                *(self.publish(envelope, door=door) for envelope in envelopes), return_exceptions=True
            )
            problems = [result for result in results if isinstance(result, BaseException)]
        else:
            problems = []
            for envelope in envelopes:
                try:
                    await self.publish(envelope, door=door)
                except (MessagingError, ValueError) as exc:
                    problems.append(exc)
        if problems:
            raise problems[0]

    async def send(self, envelope: MessageEnvelope, *, address: str) -> None:
        """See `MessagePublisher.send`."""
        self._check_open()
        check_topic(envelope.topic)
        check_size(envelope, self._max_body_bytes, self._max_header_bytes)
        queue = self.broker.queues.get(address)
        if queue is None:
            raise Unroutable(envelope.topic, f"there is no queue {address!r} (any more)")
        await self.broker.store(on_the_wire(envelope, self._user_id), (queue,))

    async def subscribe(self, subscription: Subscription, handler: MessageHandler) -> MemoryConsumption:
        """See `MessageSubscriber.subscribe`."""
        self._check_open()
        work = isinstance(subscription, WorkSubscription)
        make = self.broker.work_queue if work else self.broker.watch_queue
        consumption = MemoryConsumption(
            self.broker,
            make(subscription.name, subscription.patterns),
            handler,
            retry=subscription.retry if isinstance(subscription, WorkSubscription) else RetryPolicy(),
            prefetch=subscription.prefetch,
            parallelism=subscription.parallelism
            if isinstance(subscription, WorkSubscription)
            else subscription.prefetch,
            max_body_bytes=self._max_body_bytes,
            max_header_bytes=self._max_header_bytes,
            name=subscription.name,
            observer=self._observer,
            on_end=self._running.remove,
        )
        self._running.append(consumption)
        consumption.start()
        return consumption

    async def queues(self) -> list[WorkQueue]:
        """See `MessageBus.queues`; those of every connection."""
        self._check_open()
        return [
            WorkQueue(
                name=queue.name,
                subscription=queue.name.removeprefix(f"{self.broker.namespace}."),
                ready=len(queue.ready),
                consumers=queue.consumers,
            )
            for _, queue in sorted(self.broker.queues.items())
            if not queue.watch
        ]

    def health(self) -> BusHealth:
        """Connected from `open` to `close`; nothing here can be idle."""
        connected = self._state == "open"
        return BusHealth(connected=connected, detail=f"in memory, {self._state}", idle_seconds={})

    async def close(self) -> None:
        """Hand back what is in hand and disconnect; the last connection closes the storage."""
        async with self._closing:
            was_open, self._state = self._state == "open", "closed"
            self._dead_letters.let_go()
            for consumption in tuple(self._running):
                await consumption.stop(timeout=0)
            if was_open:
                await self.broker.disconnect()

    async def kill(self) -> None:
        """Be gone as a process that was killed is: nothing is settled, what was in hand goes back marked. For tests."""
        was_open, self._state = self._state == "open", "killed"
        self._dead_letters.let_go()
        for consumption in tuple(self._running):
            consumption.cut()
        if was_open:
            await self.broker.disconnect()

    def _check_open(self) -> None:
        if self._state != "open":
            raise Closed(f"this bus is {self._state}")
