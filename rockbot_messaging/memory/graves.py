"""Dead letters as rows that move: into a queue again, among the discarded, back, or away. Each move is one change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, final

from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.errors import LetterNotFound
from rockbot_messaging.letters import DISCARDED, DISCARDED_SECONDS, UNROUTED, Discarded, Failure, Letter
from rockbot_messaging.memory.broker import MemoryBroker
from rockbot_messaging.memory.outgoing import shortened
from rockbot_messaging.memory.queues import MemoryQueue, Stored
from rockbot_messaging.memory.rows import row_of
from rockbot_messaging.memory.storage import Place

__all__ = ["Graves", "letters_name"]

_DLQ: Final = ".dlq"


def letters_name(queue: MemoryQueue) -> str:
    """The name that a queue's letters are spoken of by: its dead-letter queue's."""
    return queue.name if queue.keeper else f"{queue.name}{_DLQ}"


@final
class Graves:
    """The letters of one broker. Every move raises `NotConfirmed` when the storage cannot write it; nothing moved then."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker

    def find(self, name: str) -> MemoryQueue:
        """The queue whose letters are meant by a queue's or subscription's name.

        Raises:
            LetterNotFound: there is none.
        """
        broker = self._broker
        for keeper, plain in ((broker.unrouted, UNROUTED), (broker.discarded, DISCARDED)):
            if name in (plain, keeper.name):
                return keeper
        plain = name.removesuffix(_DLQ)
        for candidate in (plain, f"{broker.namespace}.{plain}"):
            queue = broker.queues.get(candidate)
            if queue is not None and not queue.watch:
                return queue
        raise LetterNotFound(f"there is no dead-letter queue {name!r}")

    def read(self, queue: MemoryQueue, stored: Stored) -> Letter:
        """One letter as it is shown."""
        envelope = stored.envelope
        failure = stored.failure or Failure(reason="", queue=queue.name, topic=envelope.topic, at_ms=0)
        return Letter(
            id=envelope.message_id,
            queue=letters_name(queue),
            envelope=envelope,
            failure=failure,
            problem=stored.problem,
            discarded=stored.discarded,
        )

    async def bury(self, queue: MemoryQueue, envelope: MessageEnvelope, failure: Failure, problem: str) -> None:
        """One more letter."""
        await self._lay(queue, Stored(0, envelope, problem=problem), shortened(failure))

    async def send_on(
        self,
        queue: MemoryQueue,
        stored: Stored,
        envelope: MessageEnvelope,
        targets: Sequence[MemoryQueue],
        keep_original: str | None = None,
    ) -> None:
        """Store `envelope` at the end of these queues, and forget the letter, or put it away for the reason given."""
        broker = self._broker
        copies = [(target, Stored(broker.next_number(), envelope)) for target in targets]
        kept = None if keep_original is None else self._put_away(queue, stored, keep_original)

        def hand_out() -> None:
            queue.dead.pop(stored.number, None)
            if kept is not None:
                broker.discarded.dead[kept.number] = kept
            for target, copy in copies:
                target.put(copy)

        durable = [(target, copy) for target, copy in copies if broker.storage and not target.watch]
        rows = [row_of(target, copy, Place.READY) for target, copy in durable]
        if kept is not None and broker.storage:
            rows.append(row_of(broker.discarded, kept, Place.DEAD))
        await broker.commit(rows, (stored.number,), hand_out)

    def _put_away(self, queue: MemoryQueue, stored: Stored, reason: str) -> Stored:
        """A letter as it will lie among the discarded ones."""
        kept = Stored(self._broker.next_number(), stored.envelope, problem=stored.problem)
        kept.failure = self.read(queue, stored).failure
        kept.discarded = Discarded(queue=letters_name(queue), at_ms=self._broker.clock.now_ms(), reason=reason)
        return kept

    async def discard(self, queue: MemoryQueue, stored: Stored, reason: str) -> None:
        """Put a letter away."""
        put_away = Discarded(queue=letters_name(queue), at_ms=self._broker.clock.now_ms(), reason=reason)
        await self._move(queue, stored, self._broker.discarded, put_away)

    async def restore(self, stored: Stored) -> None:
        """Put a discarded letter back.

        Raises:
            LetterNotFound: nobody knows the queue that it lay in.
        """
        if stored.discarded is None:
            raise LetterNotFound(f"letter {stored.envelope.message_id} does not say in which queue it lay")
        await self._move(self._broker.discarded, stored, self.find(stored.discarded.queue), None)

    async def erase(self, queue: MemoryQueue, gone: Sequence[Stored]) -> None:
        """Forget letters for good."""
        numbers = [stored.number for stored in gone]

        def forget() -> None:
            for number in numbers:
                queue.dead.pop(number, None)

        await self._broker.commit((), numbers, forget)

    async def sweep(self) -> None:
        """Erase discarded letters whose time is over."""
        oldest_kept = self._broker.clock.now_ms() - DISCARDED_SECONDS * 1000
        dead = self._broker.discarded.dead
        gone = [one for one in dead.values() if one.discarded is not None and one.discarded.at_ms <= oldest_kept]
        if gone:
            await self.erase(self._broker.discarded, gone)

    async def _move(self, source: MemoryQueue, stored: Stored, target: MemoryQueue, put_away: Discarded | None) -> None:
        moved = Stored(0, stored.envelope, problem=stored.problem)
        moved.discarded = put_away
        await self._lay(target, moved, self.read(source, stored).failure, source, stored.number)

    async def _lay(
        self,
        queue: MemoryQueue,
        stored: Stored,
        failure: Failure,
        source: MemoryQueue | None = None,
        number: int | None = None,
    ) -> None:
        """Add `stored` at the end of `queue`, and take letter `number` away from `source`."""
        stored.number = stored.order = self._broker.next_number()
        stored.failure = failure

        def lay_down() -> None:
            queue.dead[stored.number] = stored
            if source is not None and number is not None:
                source.dead.pop(number, None)

        row = row_of(queue, stored, Place.DEAD) if self._broker.storage else None
        await self._broker.commit((row,) if row else (), () if number is None else (number,), lay_down)
