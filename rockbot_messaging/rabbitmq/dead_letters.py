"""Reads and works dead-letter queues over AMQP alone, without a management interface.

Everything is a look at a queue: its letters are taken in their order, and what is not removed is given back in it. A
letter is removed only by an ack, and only after the broker confirmed what it became: the message in its work queue, or
the letter in another dead-letter queue.

While a walk goes on, others see none of its letters, and counts leave out those in hand. If its process dies in the middle,
nothing is lost. Letters that were never looked at before keep their order then (as far as one channel holds them: about 200 MiB);
if they were, those that the walk had taken stand behind the others, because a quorum queue puts what comes back behind what
came back earlier. A walk has to end within the broker's consumer timeout (30 minutes unless configured), or the broker takes
back what it holds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final, final

from aiormq.exceptions import AMQPError

from rockbot_messaging.clock import Clock
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.errors import (
    BrokerUnreachable,
    Closed,
    LetterNotFound,
    MessagingError,
    TopologyMismatch,
    Unroutable,
)
from rockbot_messaging.letters import (
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
from rockbot_messaging.ports import LetterVisitor
from rockbot_messaging.rabbitmq.channel import ChannelLost, Parcel
from rockbot_messaging.rabbitmq.connection import Link
from rockbot_messaging.rabbitmq.counting import count_queues
from rockbot_messaging.rabbitmq.letter_lock import LetterLock
from rockbot_messaging.rabbitmq.letter_look import Look, Taken
from rockbot_messaging.rabbitmq.letter_wire import LetterWire
from rockbot_messaging.rabbitmq.publisher import Packer
from rockbot_messaging.rabbitmq.sender import Sender
from rockbot_messaging.rabbitmq.settings import RabbitSettings
from rockbot_messaging.rabbitmq.topology import Names
from rockbot_messaging.settlement import sent_on
from rockbot_messaging.walking import Search, Tally, check_fates, finished

__all__ = ["RabbitDeadLetters"]

_log = logging.getLogger("rockbot_messaging.rabbitmq")

#: Letters read at a time where nobody says how many.
_BATCH: Final = 200


@final
class RabbitDeadLetters:
    """`DeadLetters` on RabbitMQ."""

    def __init__(
        self,
        link: Link,
        sender: Sender,
        packer: Packer,
        names: Names,
        settings: RabbitSettings,
        clock: Clock,
        known: Callable[[], set[str]],
    ) -> None:
        self._link = link
        self._sender = sender
        self._names = names
        self._settings = settings
        self._clock = clock
        self._known = known
        self._wire = LetterWire(packer, names, clock, settings.user)
        self._lock = LetterLock(link, settings)

    async def queues(self) -> list[DeadLetterQueue]:
        """See `DeadLetters.queues`; depth counts what nobody has in hand right now."""
        names = [self._names.dead_letters(self._names.queue(name)) for name in sorted(self._known())]
        names.append(self._names.unrouted)
        try:
            counts = await count_queues(self._link, names, connect=self._settings.connect_timeout)
        except (AMQPError, ChannelLost) as exc:
            raise self._lost(exc) from None
        return [
            DeadLetterQueue(name=name, subscription=self._names.subscription_of(name), depth=count.ready)
            for name, count in zip(names, counts, strict=True)
        ]

    async def letters(self, queue: str, *, limit: int = 50, offset: int = 0) -> list[Letter]:
        """See `DeadLetters.letters`. It costs as much as the furthest look before it."""
        found: list[Letter] = []
        async with self._look(queue) as (name, look):
            skip = offset
            while len(found) < limit and (batch := await look.take(min(_BATCH, skip + limit - len(found)))):
                found += [self._wire.read(name, one.delivery) for one in batch[skip:]]
                skip -= min(skip, len(batch))
        return found

    async def letter(self, queue: str, letter_id: str) -> Letter:
        """See `DeadLetters.letter`; of several copies of one message the oldest is meant."""
        async with self._look(queue) as (name, look):
            return (await self._find(look, name, letter_id))[1]

    async def replay(self, queue: str, letter_id: str, *, body: bytes | None = None) -> MessageEnvelope:
        """See `DeadLetters.replay`; raises `BodyTooLarge` for a mended body over the limit."""
        async with self._look(queue) as (name, look):
            if name == self._names.discarded:
                raise LetterNotFound(f"letter {letter_id!r} was discarded: restore it, then send it on")
            taken, letter = await self._find(look, name, letter_id)
            envelope = sent_on(letter, now_ms=self._clock.now_ms(), body=body)
            await finished(self._carry_out(look, taken, letter, SendOn(envelope)))
        _log.info("letter %s of %s was sent on", letter.id, name)
        return envelope

    async def discard(self, queue: str, letter_id: str, *, reason: str) -> Letter:
        """See `DeadLetters.discard`."""
        async with self._look(queue) as (name, look):
            taken, letter = await self._find(look, name, letter_id)
            fate = Erase() if name == self._names.discarded else Discard(reason)
            await finished(self._carry_out(look, taken, letter, fate))
        done = "erased" if isinstance(fate, Erase) else "discarded"
        _log.warning("letter %s of %s was %s: %s", letter.id, name, done, reason)
        return letter

    async def walk(self, queue: str, decide: LetterVisitor, *, batch: int = _BATCH) -> Walked:
        """See `DeadLetters.walk`."""
        if batch < 1:
            raise ValueError("a walk needs batches of at least 1 letter")
        tally = Tally()
        async with self._look(queue) as (name, look):
            shown, letters = await self._take(look, name, batch)
            while shown:
                fates = await decide(letters)
                check_fates(fates, shown=len(shown), discarded=name == self._names.discarded)
                # While the broker stores these, the next ones are read; who decides sees them when these are done with.
                carrying = asyncio.create_task(self._carry_out_all(look, shown, letters, fates, tally))
                try:
                    # Whatever is cancelled in the middle of a call closes the channel, and with it what is in hand.
                    shown, letters = await finished(self._take(look, name, batch))
                finally:
                    await finished(_end_of(carrying))
        return tally.walked()

    async def bury(self, queue: str, envelope: MessageEnvelope, failure: Failure, *, problem: str = "") -> None:
        """See `DeadLetters.bury`."""
        name = self._names.resolve_dead_letters(queue)
        if name == self._names.discarded:
            raise LetterNotFound(
                "nothing is buried among the discarded letters: bury it where it died, then discard it"
            )
        (error,) = await self._sender.deliver([self._wire.buried(name, envelope, failure, problem)])
        if isinstance(error, Unroutable):
            raise LetterNotFound(f"there is no dead-letter queue {name!r}")
        if error is not None:
            raise error

    async def _take(self, look: Look, queue: str, batch: int) -> tuple[list[Taken], list[Letter]]:
        taken = await look.take(batch)
        return taken, [self._wire.read(queue, one.delivery) for one in taken]

    @asynccontextmanager
    async def _look(self, queue: str) -> AsyncGenerator[tuple[str, Look]]:
        name = self._names.resolve_dead_letters(queue)
        async with self._lock.turn(name):
            session = await self._lock.claim(name)
            look = Look(session, name, self._settings)

            async def leave() -> None:
                try:
                    await look.end()
                finally:
                    await self._lock.release(session, name)

            try:
                await look.begin()
                yield name, look
            except BaseException:
                with suppress(MessagingError):
                    await finished(leave())
                raise
            await finished(leave())

    async def _find(self, look: Look, queue: str, letter_id: str) -> tuple[Taken, Letter]:
        search = Search[Taken](letter_id)
        certain = False
        while not certain and (batch := await look.take(_BATCH)):
            certain = any(search.offer(self._wire.id_of(one.delivery), one) for one in batch)
        taken = search.result(queue)
        return taken, self._wire.read(queue, taken.delivery)

    async def _carry_out(self, look: Look, taken: Taken, letter: Letter, fate: Fate) -> None:
        parcel = self._wire.carry_out(letter, fate)
        if parcel is not None:
            (error,) = await self._store([parcel], [fate], look)
            if error is not None:
                raise _explained(error, letter, fate, parcel)
        look.remove_one(taken)

    async def _carry_out_all(
        self, look: Look, shown: Sequence[Taken], letters: Sequence[Letter], fates: Sequence[Fate], tally: Tally
    ) -> None:
        """Store what must be stored, with confirms pipelined, and then remove what is stored."""
        gone: set[int] = set()
        parcels: list[Parcel] = []
        places: list[int] = []
        for place, (letter, fate) in enumerate(zip(letters, fates, strict=True)):
            try:
                parcel = self._wire.carry_out(letter, fate)
            except (MessagingError, ValueError) as exc:
                tally.refuse(letter.id, exc)
                continue
            if parcel is not None:
                parcels.append(parcel)
                places.append(place)
                continue
            tally.done(fate)
            if not isinstance(fate, Keep):
                gone.add(place)
        lost: MessagingError | None = None
        errors = await self._store(parcels, [fates[place] for place in places], look)
        await self._keep_originals(letters, fates, places, errors, look)
        for place, parcel, error in zip(places, parcels, errors, strict=True):
            letter, fate = letters[place], fates[place]
            if error is None:
                gone.add(place)
                tally.done(fate)
            elif isinstance(error, BrokerUnreachable | Closed | TopologyMismatch):
                lost = error
            else:
                tally.refuse(letter.id, _explained(error, letter, fate, parcel))
        look.remove(shown, gone)
        if lost is not None:
            raise lost

    async def _keep_originals(
        self,
        letters: Sequence[Letter],
        fates: Sequence[Fate],
        places: Sequence[int],
        errors: list[MessagingError | None],
        look: Look,
    ) -> None:
        """Put away what mended messages were made of, before it is removed. What cannot be put away stays: an error."""
        kept: list[tuple[int, Letter, Discard]] = []
        for at, place in enumerate(places):
            fate = fates[place]
            if errors[at] is None and isinstance(fate, SendOn) and fate.keep_original is not None:
                kept.append((at, letters[place], Discard(fate.keep_original)))
        packed = [self._wire.carry_out(letter, fate) for _, letter, fate in kept]
        parcels = [parcel for parcel in packed if parcel is not None]
        for (at, _, _), error in zip(
            kept, await self._store(parcels, [fate for _, _, fate in kept], look), strict=True
        ):
            errors[at] = error

    async def _store(self, parcels: Sequence[Parcel], fates: Sequence[Fate], look: Look) -> list[MessagingError | None]:
        look.check()
        if not parcels:
            return []
        errors = await self._sender.deliver(parcels)
        homeless = [
            place
            for place, (error, fate) in enumerate(zip(errors, fates, strict=True))
            if isinstance(error, Unroutable) and isinstance(fate, Discard)
        ]
        if homeless:
            # Somebody deleted the queue of discarded letters.
            await self._sender.restore()
            for place, error in zip(
                homeless, await self._sender.deliver([parcels[at] for at in homeless]), strict=True
            ):
                errors[place] = error
        return errors

    def _lost(self, exc: Exception) -> BrokerUnreachable:
        return BrokerUnreachable(f"the connection to RabbitMQ at {self._settings.address} was lost meanwhile: {exc}")


async def _end_of(task: asyncio.Task[None]) -> None:
    await task


def _explained(error: MessagingError, letter: Letter, fate: Fate, parcel: Parcel) -> MessagingError:
    if not isinstance(error, Unroutable):
        return error
    if isinstance(fate, SendOn) and parcel.exchange:
        return Unroutable(parcel.routing_key, f"still nobody receives topic {parcel.routing_key!r}; the letter stays")
    verb = "go back" if isinstance(fate, Restore) else "go"
    return Unroutable(
        letter.envelope.topic, f"there is no queue {parcel.routing_key!r} that it could {verb} to; the letter stays"
    )
