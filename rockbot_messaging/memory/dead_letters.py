"""Reading and working the dead-letter queues of the broker inside the process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any, Final, final

from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.errors import Closed, LetterNotFound, LettersBusy, MessagingError, Unroutable
from rockbot_messaging.letters import (
    UNROUTED,
    DeadLetterQueue,
    Discard,
    Erase,
    Failure,
    Fate,
    Keep,
    Letter,
    Restore,
    SendOn,
    Walked,
)
from rockbot_messaging.memory.broker import MemoryBroker
from rockbot_messaging.memory.graves import Graves, letters_name
from rockbot_messaging.memory.outgoing import check_size, on_the_wire
from rockbot_messaging.memory.queues import MemoryQueue, Stored
from rockbot_messaging.ports import LetterVisitor
from rockbot_messaging.settlement import sent_on
from rockbot_messaging.topics import check_topic
from rockbot_messaging.walking import Search, Tally, check_fates, finished

__all__ = ["MemoryDeadLetters"]

_LOG: Final = logging.getLogger("rockbot_messaging.memory")


@final
class MemoryDeadLetters:
    """Implements `DeadLetters`.

    Args:
        broker: what holds the letters.
        check_open: raises what its bus raises when it is not open.
        max_body_bytes: limit of a mended or buried body.
        patience: seconds that a look waits for another one, of whatever connection, to end.
    """

    def __init__(
        self, broker: MemoryBroker, check_open: Callable[[], None], max_body_bytes: int, patience: float
    ) -> None:
        self._broker = broker
        self._graves = Graves(broker)
        self._check_open = check_open
        self._max_body_bytes = max_body_bytes
        self._patience = patience
        self._held: set[asyncio.Lock] = set()

    async def queues(self) -> list[DeadLetterQueue]:
        """Those of every work queue that was declared or has messages; the unrouted queue last."""
        self._check_open()
        prefix = f"{self._broker.namespace}."
        listed = [
            DeadLetterQueue(
                name=letters_name(queue), subscription=queue.name.removeprefix(prefix), depth=len(queue.dead)
            )
            for queue in self._broker.queues.values()
            if not queue.watch
        ]
        unrouted = self._broker.unrouted
        return [*listed, DeadLetterQueue(name=unrouted.name, subscription=UNROUTED, depth=len(unrouted.dead))]

    async def letters(self, queue: str, *, limit: int = 50, offset: int = 0) -> list[Letter]:
        """See `DeadLetters.letters`."""
        async with self._look(queue) as grave:
            return [self._graves.read(grave, one) for one in islice(grave.dead.values(), offset, offset + limit)]

    async def letter(self, queue: str, letter_id: str) -> Letter:
        """See `DeadLetters.letter`; of several copies of one message the oldest is meant."""
        async with self._look(queue) as grave:
            return self._graves.read(grave, _find(grave, letter_id))

    async def replay(self, queue: str, letter_id: str, *, body: bytes | None = None) -> MessageEnvelope:
        """See `DeadLetters.replay`; raises `BodyTooLarge` for a mended body over the limit."""
        async with self._look(queue) as grave:
            if grave is self._broker.discarded:
                raise LetterNotFound(f"letter {letter_id!r} was discarded: restore it, then send it on")
            stored = _find(grave, letter_id)
            letter = self._graves.read(grave, stored)
            again = sent_on(letter, now_ms=self._broker.clock.now_ms(), body=body)
            await finished(self._carry_out(grave, stored, letter, SendOn(again)))
        _LOG.info("letter %s of %s was sent on", letter.id, letter.queue)
        return again

    async def discard(self, queue: str, letter_id: str, *, reason: str) -> Letter:
        """See `DeadLetters.discard`."""
        async with self._look(queue) as grave:
            stored = _find(grave, letter_id)
            letter = self._graves.read(grave, stored)
            fate = Erase() if grave is self._broker.discarded else Discard(reason)
            await finished(self._carry_out(grave, stored, letter, fate))
        done = "erased" if isinstance(fate, Erase) else "discarded"
        _LOG.warning("letter %s of %s was %s: %s", letter.id, letter.queue, done, reason)
        return letter

    async def walk(self, queue: str, decide: LetterVisitor, *, batch: int = 200) -> Walked:
        """See `DeadLetters.walk`."""
        if batch < 1:
            raise ValueError("a walk needs batches of at least 1 letter")
        tally = Tally()
        async with self._look(queue) as grave:
            numbers = list(grave.dead)
            for start in range(0, len(numbers), batch):
                shown = [grave.dead[number] for number in numbers[start : start + batch]]
                letters = [self._graves.read(grave, stored) for stored in shown]
                fates = await decide(letters)
                self._check_open()
                check_fates(fates, shown=len(shown), discarded=grave is self._broker.discarded)
                await finished(self._carry_out_all(grave, shown, letters, fates, tally))
                self._check_open()
                await asyncio.sleep(0)
        return tally.walked()

    async def bury(self, queue: str, envelope: MessageEnvelope, failure: Failure, *, problem: str = "") -> None:
        """See `DeadLetters.bury`."""
        self._check_open()
        grave = self._graves.find(queue)
        if grave is self._broker.discarded:
            raise LetterNotFound(
                "nothing is buried among the discarded letters: bury it where it died, then discard it"
            )
        check_size(envelope, self._max_body_bytes)
        kept = on_the_wire(envelope.replace(durable=True, returns=0), envelope.user_id)
        await self._graves.bury(grave, kept, failure, problem)

    def let_go(self) -> None:
        """End every look of this connection; whoever waits for it may begin."""
        held, self._held = self._held, set()
        for lock in held:
            lock.release()

    @asynccontextmanager
    async def _look(self, name: str) -> AsyncGenerator[MemoryQueue]:
        self._check_open()
        grave = self._graves.find(name)
        lock = grave.looking
        try:
            async with asyncio.timeout(self._patience):
                await lock.acquire()
        except TimeoutError:
            raise LettersBusy(f"somebody else is at work on the letters of {letters_name(grave)}; try again") from None
        self._held.add(lock)
        try:
            self._check_open()
            if grave is self._broker.discarded:
                await self._graves.sweep()
            yield grave
        finally:
            # A connection that was killed holds nothing any more.
            if lock in self._held:
                self._held.remove(lock)
                lock.release()

    async def _carry_out_all(
        self,
        grave: MemoryQueue,
        shown: Sequence[Stored],
        letters: Sequence[Letter],
        fates: Sequence[Fate],
        tally: Tally,
    ) -> None:
        """Begun in their order, so stored in it; a storage writes all of them in one transaction."""
        work: list[Coroutine[Any, Any, None]] = []
        worked: list[tuple[Letter, Fate]] = []
        for stored, letter, fate in zip(shown, letters, fates, strict=True):
            if isinstance(fate, Keep):
                tally.done(fate)
            else:
                work.append(self._carry_out(grave, stored, letter, fate))
                worked.append((letter, fate))
        closed: Closed | None = None
        for (letter, fate), problem in zip(worked, await asyncio.gather(*work, return_exceptions=True), strict=True):
            if problem is None:
                tally.done(fate)
            elif isinstance(problem, Closed):
                closed = problem
            elif isinstance(problem, MessagingError | ValueError):
                tally.refuse(letter.id, problem)
            else:
                raise problem
        if closed is not None:
            raise closed

    async def _carry_out(self, grave: MemoryQueue, stored: Stored, letter: Letter, fate: Fate) -> None:
        match fate:
            case SendOn(envelope, keep_original):
                targets: Sequence[MemoryQueue] = (grave,)
                if envelope.body != letter.envelope.body:
                    check_size(envelope, self._max_body_bytes)
                if grave is self._broker.unrouted:
                    targets = self._broker.route(check_topic(envelope.topic))
                    if not targets:
                        reason = f"still nobody receives topic {envelope.topic!r}; the letter stays where it is"
                        raise Unroutable(envelope.topic, reason)
                sent = on_the_wire(envelope, envelope.user_id)
                await self._graves.send_on(grave, stored, sent, targets, keep_original)
            case Discard(reason):
                await self._graves.discard(grave, stored, reason)
            case Restore():
                await self._graves.restore(stored)
            case Erase():
                await self._graves.erase(grave, (stored,))
            case Keep():
                pass


def _find(grave: MemoryQueue, letter_id: str) -> Stored:
    search = Search[Stored](letter_id)
    for stored in grave.dead.values():
        if search.offer(stored.envelope.message_id, stored):
            break
    return search.result(letters_name(grave))
