"""The broker inside the process: exchanges, queues, delays and dead letters, with the semantics of the real topology.

Connections (`MemoryBus`) share it as processes share RabbitMQ. It is used from one event loop. With a storage, each change
of a durable queue is written first and takes effect when it is durable.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, final

from rockbot_messaging.clock import Clock, IdSource, RandomIds, SystemClock
from rockbot_messaging.envelope import HeaderValue, MessageEnvelope
from rockbot_messaging.errors import Unroutable
from rockbot_messaging.letters import DISCARDED, UNROUTED, Failure
from rockbot_messaging.memory.alarms import Alarm
from rockbot_messaging.memory.outgoing import from_foreign, shortened
from rockbot_messaging.memory.queues import MemoryQueue, Stored
from rockbot_messaging.memory.rows import row_of, stored_of
from rockbot_messaging.memory.storage import BusStorage, Place, Row
from rockbot_messaging.ports import Door
from rockbot_messaging.settlement import Bury, Delay, Forget, Outcome

__all__ = ["MemoryBroker"]

_ROUTES_KEPT: Final = 4096


@final
class MemoryBroker:
    """Holds what connections share.

    Args:
        namespace: first part of every queue's name.
        clock: instants and delays; a `FakeClock` makes delays due by being advanced.
        ids: fresh ids, for foreign messages that carry nothing to tell them by and for transient queues.
        storage: where durable queues are written through to; None loses everything with the process.
    """

    def __init__(
        self,
        *,
        namespace: str = "rockbot",
        clock: Clock | None = None,
        ids: IdSource | None = None,
        storage: BusStorage | None = None,
    ) -> None:
        self.namespace = namespace
        self.clock: Clock = clock or SystemClock()
        self.ids: IdSource = ids or RandomIds()
        self.storage = storage
        self.queues: dict[str, MemoryQueue] = {}
        self.unrouted = MemoryQueue(f"{namespace}.{UNROUTED}", watch=False, keeper=True)
        self.discarded = MemoryQueue(f"{namespace}.{DISCARDED}", watch=False, keeper=True)
        self._routes: dict[str, tuple[MemoryQueue, ...]] = {}
        self._lossy_routes: dict[str, tuple[MemoryQueue, ...]] = {}
        self._delayed: list[tuple[int, int, MemoryQueue, Stored]] = []
        self._alarm = Alarm(self.clock, self._wake)
        self._numbers = itertools.count(1)
        self._connections = 0
        self._opening = asyncio.Lock()

    async def connect(self) -> None:
        """One more connection; the first one opens the storage and loads what lies in it.

        Raises:
            BrokerUnreachable: the storage cannot be opened.
        """
        async with self._opening:
            if self._connections == 0 and self.storage is not None:
                self._load(await self.storage.open())
            self._connections += 1

    async def disconnect(self) -> None:
        """One connection less; the last one closes the storage. Without a storage everything stays as it is."""
        async with self._opening:
            self._connections -= 1
            if self._connections == 0 and self.storage is not None:
                await self.storage.close()
                self._forget_all()

    def work_queue(self, name: str, patterns: Iterable[str]) -> MemoryQueue:
        """The durable queue of the work subscription `name`, made and bound as far as it is not."""
        queue = self._durable(f"{self.namespace}.{name}")
        self._bind(queue, patterns)
        return queue

    def watch_queue(self, name: str, patterns: Iterable[str]) -> MemoryQueue:
        """A new transient queue."""
        queue = MemoryQueue(f"{self.namespace}.watch.{name}.{self.ids.new_id()}", watch=True)
        self.queues[queue.name] = queue
        self._bind(queue, patterns)
        return queue

    def drop(self, queue: MemoryQueue) -> None:
        """Delete a transient queue."""
        self.queues.pop(queue.name, None)
        self._routes.clear()
        self._lossy_routes.clear()

    def route(self, topic: str) -> tuple[MemoryQueue, ...]:
        """Queues that receive `topic` from the doors for the public and for commands."""
        found = self._routes.get(topic)
        if found is None:
            found = tuple(queue for queue in self.queues.values() if queue.receives(topic))
            if len(self._routes) >= _ROUTES_KEPT:
                self._routes.clear()
            self._routes[topic] = found
        return found

    def route_lossy(self, topic: str) -> tuple[MemoryQueue, ...]:
        """Queues that receive `topic` from the lossy door."""
        found = self._lossy_routes.get(topic)
        if found is None:
            found = tuple(queue for queue in self.route(topic) if queue.watch)
            if len(self._lossy_routes) >= _ROUTES_KEPT:
                self._lossy_routes.clear()
            self._lossy_routes[topic] = found
        return found

    async def publish(self, envelope: MessageEnvelope, door: Door, *, problem: str = "") -> None:
        """Store a message that went through `door`.

        Raises:
            Unroutable: COMMANDS only; the message lies in the unrouted queue.
            NotConfirmed: the storage could not write it.
        """
        if door is Door.LOSSY:
            for queue in self.route_lossy(envelope.topic):
                queue.put(Stored(next(self._numbers), envelope))
            return
        queues = self.route(envelope.topic)
        if queues:
            await self.store(envelope, queues, problem=problem)
            return
        untaken = Unroutable(envelope.topic)
        failure = Failure(
            reason=str(untaken), queue="", topic=envelope.topic, at_ms=self.clock.now_ms(), attempt=envelope.attempt
        )
        await self._bury(self.unrouted, Stored(next(self._numbers), envelope, problem=problem), envelope, failure)
        if door is Door.COMMANDS:
            raise untaken

    async def store(self, envelope: MessageEnvelope, queues: Sequence[MemoryQueue], *, problem: str = "") -> None:
        """Store a message at the end of these queues.

        Raises:
            NotConfirmed: the storage could not write it.
        """
        if self.storage is None:
            for queue in queues:
                queue.put(Stored(next(self._numbers), envelope, problem=problem))
            return
        copies = [(queue, Stored(next(self._numbers), envelope, problem=problem)) for queue in queues]
        rows = [row_of(queue, stored, Place.READY) for queue, stored in copies if not queue.watch]

        def hand_out() -> None:
            for queue, stored in copies:
                queue.put(stored)

        await self.commit(rows, (), hand_out)

    async def settle(self, queue: MemoryQueue, stored: Stored, outcome: Outcome) -> None:
        """Carry out what was decided on a delivery from a work queue.

        Raises:
            NotConfirmed: the storage could not write it; the delivery is still unsettled.
        """
        match outcome:
            case Forget():
                if self.storage is not None:
                    await self.commit((), (stored.number,), _nothing)
            case Delay(0, envelope):
                await self._put_behind(queue, stored, envelope)
            case Delay(step, envelope):
                await self._delay(queue, stored, envelope, self.clock.now_ms() + step * 1000)
            case Bury(envelope, failure):
                await self._bury(queue, stored, envelope, failure)

    def postpone(self, queue: MemoryQueue, stored: Stored, seconds: float) -> None:
        """Bring a delivery back later without writing anything; its row, if any, stays as it is."""
        stored.returns += 1
        self._push(queue, stored, self.clock.now_ms() + round(seconds * 1000))

    def next_number(self) -> int:
        """A number that no message has."""
        return next(self._numbers)

    async def commit(self, puts: Sequence[Row], removals: Sequence[int], then: Callable[[], Any]) -> None:
        """Make a change durable, then have it take effect, also when whoever asked for it is cancelled meanwhile.

        Raises:
            NotConfirmed: the storage could not write it; it takes no effect.
        """
        if self.storage is None or not (puts or removals):
            then()
            return
        written = self.storage.apply(puts, removals)
        written.add_done_callback(lambda done: then() if not done.cancelled() and done.exception() is None else None)
        await asyncio.shield(written)

    async def publish_foreign(
        self,
        topic: str,
        body: bytes,
        *,
        reply_to: str | None = None,
        correlation_id: str | None = None,
        message_id: str | None = None,
        content_type: str | None = None,
        headers: Mapping[str, HeaderValue] | None = None,
        app_id: str | None = None,
    ) -> None:
        """Publish at the public door as a plain AMQP client would: no metadata of ours is needed."""
        envelope = from_foreign(
            topic,
            body,
            ids=self.ids,
            reply_to=reply_to,
            correlation_id=correlation_id,
            message_id=message_id,
            content_type=content_type,
            headers=MappingProxyType(dict(headers or {})),
            app_id=app_id,
        )
        await self.publish(envelope, Door.PUBLIC)

    async def publish_garbage(self, topic: str, body: bytes = b"", *, problem: str = "unreadable properties") -> None:
        """Publish at the public door a message whose properties nobody can read; `problem` says what is wrong."""
        envelope = MessageEnvelope(topic=topic, body=body, message_id=self.ids.new_id(), type="")
        await self.publish(envelope, Door.PUBLIC, problem=problem)

    def _durable(self, name: str) -> MemoryQueue:
        queue = self.queues.get(name)
        if queue is None:
            queue = self.queues[name] = MemoryQueue(name, watch=False)
        return queue

    def _bind(self, queue: MemoryQueue, patterns: Iterable[str]) -> None:
        if queue.bind(patterns):
            self._routes.clear()
            self._lossy_routes.clear()

    async def _put_behind(self, queue: MemoryQueue, stored: Stored, envelope: MessageEnvelope) -> None:
        # Another object: the delivery is still in the hand that settles it.
        again = Stored(stored.number, envelope, problem=stored.problem)
        row = row_of(queue, again, Place.READY) if self.storage else None

        def put() -> None:
            again.order = next(self._numbers)
            queue.put(again)

        await self.commit((row,) if row else (), (), put)

    async def _delay(self, queue: MemoryQueue, stored: Stored, envelope: MessageEnvelope, until_ms: int) -> None:
        # Another object, as above: it may be due again before the hand that settles it hears that it is written.
        again = Stored(stored.number, envelope, problem=stored.problem)
        row = row_of(queue, again, Place.DELAYED, due_ms=until_ms) if self.storage else None

        def wait() -> None:
            self._push(queue, again, until_ms)

        await self.commit((row,) if row else (), (), wait)

    async def _bury(self, queue: MemoryQueue, stored: Stored, envelope: MessageEnvelope, failure: Failure) -> None:
        failure = shortened(failure)
        if envelope.redelivered or envelope.returns:
            envelope = envelope.replace(redelivered=False, returns=0)
        # A number of its own, so that letters lie in the order of their deaths after a restart, too.
        before, number = stored.number, next(self._numbers)
        letter = Stored(number, envelope, problem=stored.problem)
        letter.failure = failure
        row = row_of(queue, letter, Place.DEAD) if self.storage else None

        def lay_down() -> None:
            queue.dead[number] = letter

        await self.commit((row,) if row else (), (before,), lay_down)

    def _push(self, queue: MemoryQueue, stored: Stored, until_ms: int) -> None:
        heapq.heappush(self._delayed, (until_ms, next(self._numbers), queue, stored))
        self._alarm.set(until_ms)

    def _wake(self) -> None:
        now_ms = self.clock.now_ms()
        while self._delayed and self._delayed[0][0] <= now_ms:
            _, _, queue, stored = heapq.heappop(self._delayed)
            stored.order = next(self._numbers)
            queue.put(stored)
        if self._delayed:
            self._alarm.set(self._delayed[0][0])

    def _load(self, rows: Sequence[Row]) -> None:
        self._numbers = itertools.count(max((row.number for row in rows), default=0) + 1)
        keepers = {keeper.name: keeper for keeper in (self.unrouted, self.discarded)}
        for row in rows:
            queue = keepers.get(row.queue) or self._durable(row.queue)
            stored = stored_of(row)
            if row.place is Place.DEAD:
                queue.dead[stored.number] = stored
                if stored.discarded is not None and stored.discarded.queue not in keepers:
                    # Where it can be restored to must exist even if nobody declares it any more.
                    self._durable(stored.discarded.queue.removesuffix(".dlq"))
            elif row.place is Place.DELAYED and row.due_ms is not None:
                self._push(queue, stored, row.due_ms)
            else:
                # Whether it was in a hand when the process ended is not written down: that would cost a write a delivery.
                stored.returns = 1
                stored.loaded = True
                queue.put(stored)

    def _forget_all(self) -> None:
        self._alarm.cancel()
        self._delayed.clear()
        self.queues.clear()
        self.unrouted.dead.clear()
        self.discarded.dead.clear()
        self._routes.clear()
        self._lossy_routes.clear()


def _nothing() -> None:
    pass
