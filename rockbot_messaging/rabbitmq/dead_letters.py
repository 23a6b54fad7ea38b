"""Reads and works dead-letter queues over AMQP alone, without a management interface.

A look takes letters with `basic.get` on a channel of its own and gives them back. A quorum queue with a delivery limit
puts what comes back behind what came back earlier and before what was never taken; so order is kept only if a look takes
*every* letter that ever came back, and gives them back one by one: closing the channel, or one `multiple`, returns them
sorted by the text of an internal tag, the tenth before the second. A letter is removed only by an ack, and a replay acks
only after the broker confirmed the message in its work queue.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Final, final

from rockbot_messaging.clock import Clock
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.errors import BrokerUnreachable, LetterNotFound, Undecodable, Unroutable
from rockbot_messaging.letters import DeadLetterQueue, Letter
from rockbot_messaging.ports import Door
from rockbot_messaging.rabbitmq.channel import ChannelLost
from rockbot_messaging.rabbitmq.connection import Link, OpenChannel
from rockbot_messaging.rabbitmq.declaring import depth
from rockbot_messaging.rabbitmq.failures import problem_of, read_failure
from rockbot_messaging.rabbitmq.fields import Properties, decode_properties
from rockbot_messaging.rabbitmq.publisher import Packer
from rockbot_messaging.rabbitmq.sender import Sender
from rockbot_messaging.rabbitmq.settings import RabbitSettings
from rockbot_messaging.rabbitmq.topology import Names
from rockbot_messaging.rabbitmq.wire import ContentIds, Delivery, decode
from rockbot_messaging.settlement import sent_on

__all__ = ["RabbitDeadLetters"]

_log = logging.getLogger("rockbot_messaging.rabbitmq")

_BATCH: Final = 100
#: Letters asked for at a time to find the first one that never came back.
_FURTHER: Final = 20
_PREFIX: Final = 6
_EVERYTHING: Final = 2**31


@final
class _Look:
    """Letters in hand, and the channel that holds them."""

    def __init__(self, channel: OpenChannel) -> None:
        self.content = channel.content
        self.taken: list[Delivery] = []
        self._channel = channel
        self._removed: set[int] = set()

    def remove(self, delivery: Delivery) -> None:
        """Take a letter out of its queue for good."""
        self._removed.add(delivery.tag)
        self.content.ack(delivery.tag)

    async def end(self) -> None:
        """Give back what was not removed, in its order."""
        for delivery in self.taken:
            if delivery.tag not in self._removed:
                self.content.hand_back(delivery.tag)
        await self._channel.close()


@final
class RabbitDeadLetters:
    """`DeadLetters` on RabbitMQ. One look at a time per process: what a look holds, another one does not see."""

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
        self._packer = packer
        self._names = names
        self._settings = settings
        self._clock = clock
        self._known = known
        self._looking = asyncio.Lock()

    async def queues(self) -> list[DeadLetterQueue]:
        """See `DeadLetters.queues`; depth counts what nobody is looking at right now."""
        names = [self._names.dead_letters(self._names.queue(name)) for name in sorted(self._known())]
        found = []
        async with self._looking:
            for name in (*names, self._names.unrouted):
                count = await self._depth(name)
                found.append(
                    DeadLetterQueue(name=name, subscription=self._names.subscription_of(name), depth=count or 0)
                )
        return found

    async def letters(self, queue: str, *, limit: int = 50, offset: int = 0) -> list[Letter]:
        """See `DeadLetters.letters`."""
        async with self._look(queue) as (name, look):
            await self._take(look, name, offset + limit)
            return [self._letter(name, delivery) for delivery in look.taken[offset : offset + limit]]

    async def letter(self, queue: str, letter_id: str) -> Letter:
        """See `DeadLetters.letter`."""
        async with self._look(queue) as (name, look):
            return (await self._find(look, name, letter_id))[1]

    async def replay(self, queue: str, letter_id: str, *, body: bytes | None = None) -> MessageEnvelope:
        """See `DeadLetters.replay`."""
        async with self._look(queue) as (name, look):
            delivery, letter = await self._find(look, name, letter_id)
            envelope = sent_on(letter, now_ms=self._clock.now_ms(), body=body)
            if body is not None:
                self._packer.check_body(envelope, letter.failure.queue or envelope.topic)
            await self._send(name, letter, envelope)
            look.remove(delivery)
            _log.info("dead letter %s of %s was replayed", letter.id, name)
            return envelope

    async def discard(self, queue: str, letter_id: str, *, reason: str) -> Letter:
        """See `DeadLetters.discard`."""
        async with self._look(queue) as (name, look):
            delivery, letter = await self._find(look, name, letter_id)
            look.remove(delivery)
            _log.warning("dead letter %s of %s was discarded: %s", letter.id, name, reason)
            return letter

    # -- the queue -------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _look(self, queue: str) -> AsyncGenerator[tuple[str, _Look]]:
        name = await self._resolve(queue)
        async with self._looking:
            look = _Look(await self._channel())
            try:
                yield name, look
            finally:
                await look.end()

    async def _resolve(self, queue: str) -> str:
        name = self._names.resolve_dead_letters(queue)
        if await self._depth(name) is None:
            raise LetterNotFound(f"there is no dead-letter queue {name!r}")
        return name

    async def _depth(self, queue: str) -> int | None:
        session = await self._link.session(self._settings.connect_timeout)
        try:
            return await depth(session, queue)
        except ChannelLost as exc:
            raise self._lost(exc) from None

    async def _channel(self) -> OpenChannel:
        session = await self._link.session(self._settings.connect_timeout)
        try:
            return await session.channel(confirms=False)
        except ChannelLost as exc:
            raise self._lost(exc) from None

    def _lost(self, exc: ChannelLost) -> BrokerUnreachable:
        return BrokerUnreachable(f"the connection to RabbitMQ at {self._settings.address} was lost meanwhile: {exc}")

    async def _take(self, look: _Look, queue: str, count: int) -> None:
        """Take at least `count` letters if there are so many, oldest first, and every one that ever came back."""
        taken = look.taken
        while len(taken) < count or (taken and taken[-1].redelivered):
            batch = await self._get(look, queue, min(_BATCH, max(_FURTHER, count - len(taken))))
            taken += batch
            if not batch:
                break

    async def _get(self, look: _Look, queue: str, count: int) -> list[Delivery]:
        try:
            async with asyncio.timeout(self._settings.confirm_timeout):
                answers = await asyncio.gather(*look.content.get(queue, count))
        except ChannelLost as exc:
            raise self._lost(exc) from None
        except TimeoutError:
            raise BrokerUnreachable(
                f"RabbitMQ at {self._settings.address} did not answer a look at {queue!r}"
            ) from None
        return [delivery for delivery in answers if delivery is not None]

    async def _find(self, look: _Look, queue: str, letter_id: str) -> tuple[Delivery, Letter]:
        if len(letter_id) < _PREFIX:
            raise LetterNotFound(f"{letter_id!r} is too short: give at least {_PREFIX} characters of the letter's id")
        found: dict[str, Delivery] = {}
        await self._take(look, queue, _EVERYTHING)
        for delivery in look.taken:
            name = self._id(delivery)
            if name == letter_id:
                return delivery, self._letter(queue, delivery)
            if name.startswith(letter_id):
                found.setdefault(name, delivery)
        if len(found) == 1:
            (delivery,) = found.values()
            return delivery, self._letter(queue, delivery)
        if not found:
            raise LetterNotFound(f"no dead letter {letter_id!r} lies in {queue!r}")
        raise LetterNotFound(f"{letter_id!r} is ambiguous in {queue!r}: {', '.join(sorted(found)[:5])}")

    # -- one letter ------------------------------------------------------------------------------------------------

    def _id(self, delivery: Delivery) -> str:
        return self._decode(delivery)[0].message_id

    def _letter(self, queue: str, delivery: Delivery) -> Letter:
        envelope, properties, problem = self._decode(delivery)
        source = "" if queue == self._names.unrouted else queue.removesuffix(".dlq")
        failure = read_failure(properties, queue=source, topic=envelope.topic, timestamp_ms=envelope.timestamp_ms)
        if failure.topic != envelope.topic:
            envelope = envelope.replace(topic=failure.topic)
        problem = problem_of(properties) or problem
        return Letter(id=envelope.message_id, queue=queue, envelope=envelope, failure=failure, problem=problem)

    def _decode(self, delivery: Delivery) -> tuple[MessageEnvelope, Properties, str]:
        ids = ContentIds(delivery)
        try:
            envelope = decode(delivery, ids, own_user=self._settings.user)
            return envelope.replace(redelivered=False), decode_properties(delivery.properties), ""
        except Undecodable as exc:
            bare = Properties()
            envelope = MessageEnvelope(
                topic=delivery.routing_key, body=delivery.body, message_id=ids.new_id(), type="",
                content_type="application/octet-stream",
            )  # fmt: skip
            return envelope, bare, str(exc)

    async def _send(self, queue: str, letter: Letter, envelope: MessageEnvelope) -> None:
        if queue == self._names.unrouted:
            exchange = self._names.exchange(Door.COMMANDS)
            parcel = self._packer.for_exchange(envelope, exchange, mandatory=True)
        else:
            parcel = self._packer.for_queue(
                envelope, letter.failure.queue or queue.removesuffix(".dlq"), passed_on=True
            )
        (error,) = await self._sender.deliver([parcel])
        if isinstance(error, Unroutable):
            where = f"topic {envelope.topic!r}" if queue == self._names.unrouted else f"queue {parcel.routing_key!r}"
            raise Unroutable(envelope.topic, f"nothing receives {where}; the letter stays where it is")
        if error is not None:
            raise error
