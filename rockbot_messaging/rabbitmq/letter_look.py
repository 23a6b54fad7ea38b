"""A look at one dead-letter queue: its letters taken in their order, and given back in it.

What a quorum queue does with returned messages decides how (read in and measured on RabbitMQ 3.10, measured on 4.0):

* returned messages stand before those that were never taken, behind those returned earlier; so a look that gives anything
  back takes *every* letter that was ever returned (they are marked redelivered), or the order turns;
* when a channel ends, what it held comes back sorted by consumer tag and delivery: in order, as long as the queue has at
  most 32 consumers, for then Erlang keeps them sorted. A `nack` for each letter is no way: the channel gathers what it
  cannot send at once into one return, and a return of more than 32 messages comes back shuffled;
* a consumer whose letters are acknowledged is sent more; so each is cancelled when it has what it was to bring;
* from 4.0 on, consumers come back in the order of their making, and what a `get` took behind all of them; so a letter that
  a `get` took has a channel of its own, which is closed first, and none is taken that way if it can be helped: who is
  killed chooses no order;
* what a passive declaration tells is exact when nobody holds letters; it may lag behind by what is being returned, and is 0
  when the queue is busy. Only what a `get` tells is exact at any time.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import Collection, Sequence
from typing import Any, Final, NamedTuple, final

from aiormq.exceptions import AMQPError, ChannelNotFoundEntity

from rockbot_messaging.errors import BrokerUnreachable, LetterNotFound
from rockbot_messaging.rabbitmq.channel import ChannelLost
from rockbot_messaging.rabbitmq.connection import OpenChannel, Session, speaking
from rockbot_messaging.rabbitmq.settings import RabbitSettings
from rockbot_messaging.rabbitmq.wire import Delivery

__all__ = ["Look", "Taken", "count"]

#: Consumers of one channel.
_CONSUMERS: Final = 31
#: Letters that the second consumer brings (the first one brings one, which tells their size), how fast that grows, and the
#: most that one may bring.
_SECOND: Final = 16
_GROWTH: Final = 4
_MOST: Final = 60_000
#: Bytes on their way at the same time, as far as the letters before let one guess.
_BYTES: Final = 8 * 1024 * 1024
#: Bytes of a letter beside its body and properties.
_OVERHEAD: Final = 200
#: Seconds without a letter after which the queue is asked whether it has any.
_SILENCE: Final = 1.0
#: How many such silences in a row a queue that has letters may keep.
_SILENCES: Final = 60
#: Seconds that letters in the hand of somebody who is gone, or knows nothing of our lock, are waited for.
_PATIENCE: Final = 3.0
_PAUSE: Final = 0.005
#: Seconds from which on an answer of 0 and 0 may be that of a queue which did not answer in time: the broker gives it 0.25.
_DOUBTFUL: Final = 0.2
_TIMEOUT: Final = 30.0


@final
class _Hand:
    """What one channel holds. Its delivery tags count from 1; `firsts` has the first one of each of its consumers."""

    def __init__(self, channel: OpenChannel) -> None:
        self.channel = channel
        self.content = channel.content
        self.consumers = 0
        self._next = 1
        self._firsts: list[int] = []
        self._held: list[int] = []
        #: The lowest tag that is to stay; everything below it is removed, or about to be.
        self.lowest_kept = 0

    def begin(self) -> None:
        """What arrives from now on is another consumer's."""
        self._firsts.append(self._next)
        self._held.append(0)

    def arrive(self, tag: int) -> None:
        """One more letter."""
        self._next = tag + 1
        self._held[-1] += 1

    def forget(self, tag: int) -> None:
        """One letter is removed."""
        self._held[bisect_right(self._firsts, tag) - 1] -= 1

    @property
    def holders(self) -> int:
        """Consumers that hold letters."""
        return sum(held > 0 for held in self._held)


class Taken(NamedTuple):
    """A letter, and the channel that holds it."""

    hand: _Hand
    delivery: Delivery


@final
class Look:
    """Letters of one queue in hand. Whoever has one holds the queue's lock, and ends it.

    Every method raises `BrokerUnreachable` when the connection ended.
    """

    def __init__(self, session: Session, queue: str, settings: RabbitSettings) -> None:
        self._session = session
        self._queue = queue
        self._settings = settings
        self._hands: list[_Hand] = []
        #: The channel of a letter that was not brought by a consumer.
        self._gotten: _Hand | None = None
        self._arrived: deque[Taken] = deque()
        self._more = asyncio.Event()
        self._left = 0
        self._chunk = 1
        self._bytes = 0
        self._count = 0
        self._came_back = False
        self._removed = False
        self._enough = False
        self._strangers = 0
        self._taken_back = False

    async def begin(self) -> None:
        """Learn how many letters there are.

        Raises:
            LetterNotFound: there is no such queue.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _PATIENCE
        while True:
            ready, holders = await self._counts(deadline)
            if holders and loop.time() < deadline:
                await asyncio.sleep(_PAUSE)
                continue
            self._strangers = holders
            if ready:
                self._left = ready
                return
            # It is empty, or was too busy to count; a `get` waits until it can tell.
            hand = await self._open()
            first = await self._get(hand)
            if first is None:
                return
            self._take_in(hand, first)
            # Nor did it count who has letters in hand; now that is one at least.
            _, holders = await self._counts(deadline)
            if holders > 1 and loop.time() < deadline:
                self._arrived.clear()
                self._count = self._bytes = 0
                await self._close_all()
                continue
            self._gotten = hand
            self._left = hand.content.left_behind
            self._strangers = max(0, holders - 1)
            return

    async def take(self, count: int) -> list[Taken]:
        """The next letters, at most `count`; none when all were taken that lay there at the beginning."""
        while len(self._arrived) < count and self._left and self._size() < 2 * _BYTES:
            await self._bring()
        self.check()
        return [self._arrived.popleft() for _ in range(min(count, len(self._arrived)))]

    def remove(self, batch: Sequence[Taken], gone: Collection[int]) -> None:
        """Of letters that were taken one after the other, take those at the places `gone` out of the queue for good."""
        self.check()
        self._removed = self._removed or bool(gone)
        run: dict[_Hand, int] = {}
        for place, (hand, delivery) in enumerate(batch):
            tag = delivery.tag
            if place not in gone:
                hand.lowest_kept = hand.lowest_kept or tag
                continue
            hand.forget(tag)
            if hand.lowest_kept:
                hand.content.ack(tag)
            else:
                # As long as nothing was kept, one acknowledgement is enough for all.
                run[hand] = tag
        for hand, tag in run.items():
            hand.content.ack(tag, multiple=True)

    def remove_one(self, taken: Taken) -> None:
        """Take one letter out of the queue for good; those before it stay."""
        self.check()
        self._removed = True
        taken.hand.forget(taken.delivery.tag)
        taken.hand.content.ack(taken.delivery.tag)

    async def end(self) -> None:
        """Give back what was not removed, in its order, and wait until the queue has it.

        Raises:
            BrokerUnreachable, LetterNotFound: what was removed last may have come back, too.
        """
        try:
            self.check()
            if any(hand.holders for hand in self._hands):
                while self._left and self._came_back:
                    self._arrived.clear()
                    await self._bring()
            await self._close_all()
        except (BrokerUnreachable, LetterNotFound):
            # What it held went back with the connection; what was removed last may have, too.
            for hand in self._hands:
                await hand.channel.close()
            if self._removed:
                raise

    # -- taking ----------------------------------------------------------------------------------------------------

    async def _bring(self) -> None:
        """Have some more letters arrive."""
        wanted = self._next_chunk()
        hand = self._hands[-1] if self._hands else None
        if hand is None or hand.consumers >= _CONSUMERS or hand is self._gotten:
            hand = await self._open()
        hand.consumers += 1
        hand.begin()
        tag = f"look-{hand.consumers:02d}"
        before = self._count
        try:
            async with speaking(_TIMEOUT):
                hand.channel.rpc.on_consumer_cancel_callbacks.add(self._on_cancel)
                await hand.channel.rpc.basic_qos(prefetch_count=wanted)
                await hand.channel.rpc.basic_consume(self._queue, _never, consumer_tag=tag)
            silent = 0
            while self._count - before < wanted:
                silent = 0 if await self._arrives() else silent + 1
                if silent and await self._exhausted(hand, wanted):
                    # Somebody else took them, or their time was over. The consumer stays: what may be on its way to one
                    # that is cancelled is returned, and would lie before what is in hand.
                    self._left, self._enough = 0, True
                    return
                if silent > _SILENCES:
                    raise self._lost(ChannelLost("the queue sends nothing"))
            async with speaking(_TIMEOUT):
                await hand.channel.rpc.basic_cancel(tag)
        except (AMQPError, ChannelLost) as exc:
            raise self._lost(exc) from None
        self._left = max(0, self._left - (self._count - before))

    async def _arrives(self) -> bool:
        """Wait for another letter; False when none comes."""
        self._more.clear()
        try:
            async with asyncio.timeout(_SILENCE):
                await self._more.wait()
        except TimeoutError:
            self.check()
            return False
        return True

    async def _exhausted(self, hand: _Hand, prefetch: int) -> bool:
        """Whether the queue has no letters beside those in somebody's hand, and ours have all arrived."""
        ready, holders = await self._counts()
        if ready or not holders:  # it is busy: we are one of the holders
            return False
        arrived = self._count
        async with speaking(_TIMEOUT):
            # The answer comes after whatever is on its way on this channel.
            await hand.channel.rpc.basic_qos(prefetch_count=prefetch)
        return self._count == arrived

    def _next_chunk(self) -> int:
        chunk, self._chunk = self._chunk, max(_SECOND, self._chunk * _GROWTH)
        average = self._bytes // max(1, self._count) + _OVERHEAD
        return max(1, min(chunk, self._left, _MOST, _BYTES // average))

    def _take_in(self, hand: _Hand, delivery: Delivery) -> None:
        hand.arrive(delivery.tag)
        if self._enough:
            return
        self._count += 1
        self._bytes += len(delivery.body) + len(delivery.properties)
        self._came_back = delivery.redelivered
        self._arrived.append(Taken(hand, delivery))
        self._more.set()

    def _size(self) -> int:
        """Bytes that wait to be taken."""
        return len(self._arrived) * (self._bytes // max(1, self._count) + _OVERHEAD)

    async def _get(self, hand: _Hand) -> Delivery | None:
        try:
            async with asyncio.timeout(_TIMEOUT):
                (answer,) = hand.content.get(self._queue, 1)
                return await answer
        except (ChannelLost, TimeoutError) as exc:
            raise self._lost(exc) from None

    # -- channels --------------------------------------------------------------------------------------------------

    async def _open(self) -> _Hand:
        try:
            channel = await self._session.channel(confirms=False)
        except ChannelLost as exc:
            raise self._lost(exc) from None
        hand = _Hand(channel)
        hand.begin()
        self._hands.append(hand)
        channel.content.receive(lambda delivery: self._take_in(hand, delivery))
        return hand

    async def _close_all(self) -> None:
        """Close the channels one after the other, each when the queue has what the one before held."""
        loop = asyncio.get_running_loop()
        while self._hands:
            await self._hands[0].channel.close()
            del self._hands[0]
            holders = self._strangers + sum(hand.holders for hand in self._hands)
            deadline = loop.time() + _PATIENCE
            while (await self._counts(deadline))[1] > holders and loop.time() < deadline:  # noqa: ASYNC110 - a broker tells nobody
                await asyncio.sleep(_PAUSE)

    async def _counts(self, deadline: float = 0.0) -> tuple[int, int]:
        """What `count` tells; a queue that is too busy to answer is asked again until `deadline`."""
        loop = asyncio.get_running_loop()
        while True:
            since = loop.time()
            try:
                ready, holders = await count(self._session, self._queue)
            except ChannelLost as exc:
                raise self._lost(exc) from None
            now = loop.time()
            if ready or holders or now - since < _DOUBTFUL or now >= deadline:
                return ready, holders

    def _on_cancel(self, _: Any) -> None:
        self._taken_back = True

    def check(self) -> None:
        """Raise if what was taken is no longer in hand."""
        if self._taken_back:
            # RabbitMQ 4.3 does so to who holds letters for too long, and takes no notice of later acknowledgements.
            raise self._lost(
                ChannelLost("the broker took back what was in hand (its consumer timeout, or the queue is gone)")
            )
        for hand in self._hands:
            if hand.content.lost is not None:
                raise self._lost(hand.content.lost)
        if not self._session.stands:
            raise self._lost(ChannelLost("the connection ended"))

    def _lost(self, exc: Exception) -> BrokerUnreachable:
        return BrokerUnreachable(
            f"the connection to RabbitMQ at {self._settings.address} was lost while {self._queue} was looked at: "
            f"{str(exc) or 'no answer in time'}"
        )


async def count(session: Session, queue: str) -> tuple[int, int]:
    """Letters that nobody has in hand, and how many have letters in hand or wait for some.

    Raises:
        LetterNotFound: there is no such queue.
        ChannelLost: the connection ended.
    """
    channel = await session.channel(confirms=False)
    try:
        async with speaking(_TIMEOUT):
            answer = await channel.rpc.queue_declare(queue, passive=True)
        return answer.message_count or 0, answer.consumer_count or 0
    except ChannelNotFoundEntity:
        raise LetterNotFound(f"there is no dead-letter queue {queue!r}") from None
    except AMQPError as exc:
        raise ChannelLost(str(exc) or type(exc).__name__) from exc
    finally:
        await channel.close()


async def _never(_: Any) -> None:
    """Deliveries come through our own channel."""
