"""One running subscription: it sets itself up on every session, hands deliveries to its handler and settles them."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from typing import Any, Final, final

from aiormq.exceptions import AMQPError

from rockbot_messaging.clock import Clock, IdSource
from rockbot_messaging.errors import BrokerUnreachable, Closed, TopologyMismatch
from rockbot_messaging.rabbitmq.acks import Acks
from rockbot_messaging.rabbitmq.channel import ChannelLost
from rockbot_messaging.rabbitmq.connection import Link, OpenChannel, Session, speaking
from rockbot_messaging.rabbitmq.declaring import NameTaken
from rockbot_messaging.rabbitmq.delivering import Consuming, Deliverer
from rockbot_messaging.rabbitmq.forgotten import Quiet
from rockbot_messaging.rabbitmq.handling import GivenUp, Handling, Item
from rockbot_messaging.rabbitmq.pausing import Pauses
from rockbot_messaging.rabbitmq.policies import version_of
from rockbot_messaging.rabbitmq.wire import Delivery

__all__ = ["RabbitConsumption"]

_log = logging.getLogger("rockbot_messaging.rabbitmq")

#: Seconds between two attempts to consume again while the connection itself stands, at first and at most.
_AGAIN: Final = 0.25
_AGAIN_AT_MOST: Final = 5.0
#: Seconds that a queue gets to accept a consumer.
_CONSUME_TIMEOUT: Final = 20.0
#: Seconds that cancelled handlers get to end.
_GRACE: Final = 5.0


#: From this release on a delivery that was held too long cancels its consumer, and the broker does not say why.
_CANCELS_THE_SLOW_SINCE: Final = (4, 3)
#: What the broker says when it ends a channel for a delivery that was held too long; until 4.2.
_TIMED_OUT: Final = re.compile(r"acknowledgement on channel \d+ timed out(?:\. Timeout value used: (?P<ms>\d+) ms)?")
_TOO_LONG: Final = (
    "a handler held its message longer than the broker's consumer timeout{after}; the message comes again: make the "
    "handler faster, or raise the broker's consumer_timeout or the policy `consumer-timeout`"
)


@final
class RabbitConsumption:
    """`Consumption` on RabbitMQ."""

    def __init__(self, what: Consuming, link: Link, clock: Clock, ids: IdSource, ended: Callable[[], None]) -> None:
        self._what = what
        self._link = link
        self._clock = clock
        self._ended = ended
        self._deliverer = Deliverer(what, clock, ids)
        self._given_up = GivenUp()
        self._handling = Handling(self._handle, what.parallelism, on_idle=self._flush)
        self._quiet = Quiet(what.queue, what.quiet_check, lambda: self._handling.idle, renew=what.settler is not None)
        self._channel: OpenChannel | None = None
        self._acks: Acks | None = None
        self._consumer_tag = ""
        self._cancelled = asyncio.Event()
        self._held_when_cancelled = False
        self._cancels_the_slow = False
        self._keeper: asyncio.Task[None] | None = None
        self._stopping = False
        self._ending: asyncio.Task[int] | None = None
        #: Deliveries whose handlers were cancelled by stopping; they go back together, in their order.
        self._left: list[Item] = []
        self._idle_since: float | None = clock.monotonic()

    @property
    def address(self) -> str:
        """See `Consumption.address`; the same over every reconnect."""
        return self._what.queue

    @property
    def idle_seconds(self) -> float | None:
        """Seconds without a consumer, None while there is one."""
        return None if self._idle_since is None else self._clock.monotonic() - self._idle_since

    async def start(self, timeout: float) -> None:
        """Consume, and keep doing so.

        Raises:
            TopologyMismatch, BrokerUnreachable, Closed: see the subscriber port.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        while True:
            left = deadline - asyncio.get_running_loop().time()
            session = await self._link.session(max(left, 0))
            try:
                await self._consume(session)
                break
            except (ChannelLost, NameTaken) as exc:
                if left <= 0:
                    raise BrokerUnreachable(f"cannot consume {self._what.queue!r}: {exc}") from None
                await asyncio.sleep(_AGAIN)
            except asyncio.CancelledError:
                # Deliveries may have come before the answer did; nobody owns their handlers now.
                self._handling.withdraw()
                self._handling.cancel()
                raise
        self._keeper = asyncio.create_task(self._keep(), name=f"consumer of {self._what.queue}")

    async def stop(self, *, timeout: float) -> int:
        """See `Consumption.stop`; deliveries not begun go back at once.

        Stopping goes on when whoever asked for it is cancelled. Asked for again, it is waited for up to `timeout`
        seconds, then the handlers that still run are cancelled.
        """
        if self._ending is None:
            self._ending = asyncio.create_task(self._end(timeout), name=f"end of the consumer of {self._what.queue}")
            return await asyncio.shield(self._ending)
        await asyncio.wait([self._ending], timeout=timeout)
        self._handling.cancel()
        await asyncio.shield(self._ending)
        return 0

    async def _end(self, timeout: float) -> int:
        self._stopping = True
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        channel = self._channel
        if channel is not None and channel.content.lost is None:
            channel.content.flush()
            try:
                async with speaking(_GRACE):
                    for binding in self._what.bindings:
                        await channel.rpc.queue_unbind(binding.queue, binding.exchange, binding.pattern)
                    await channel.rpc.basic_cancel(self._consumer_tag)
            except (AMQPError, ChannelLost) as exc:
                _log.debug("cancelling the consumer of %s: %s", self._what.queue, exc)
        waiting = self._handling.withdraw()
        if timeout > 0:
            _hand_back(waiting)
            await self._handling.settled(timeout)
        if self._handling.cancel():
            await self._handling.settled(_GRACE)
        _hand_back(self._left if timeout > 0 else [*self._left, *waiting])
        self._flush()
        if channel is not None:
            await channel.close()
        self._idle_since = None
        self._ended()
        return len(waiting) + len(self._left)

    def kill(self) -> None:
        """Stop without settling anything; the connection has been cut before."""
        self._stopping = True
        if self._keeper is not None:
            self._keeper.cancel()
        if self._channel is not None:
            self._channel.content.fail(ChannelLost("killed"))
        self._handling.withdraw()
        self._handling.cancel()

    # -- being a consumer ------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        pauses = Pauses(_AGAIN, _AGAIN_AT_MOST)
        while True:
            assert self._channel is not None
            since = loop.time()
            reason = await self._until_lost(self._channel)
            self._idle_since = self._clock.monotonic()
            if reason is None:
                _log.debug("consuming %s anew after a quiet time", self._what.queue)
            else:
                _log.warning("the consumer of %s is gone (%s); consuming again", self._what.queue, _explain(reason))
            # What was not begun comes again on the next channel; what was begun is left to end, its settlement is void.
            for item in self._handling.withdraw():
                self._given_up.note(item.delivery)
            # The channel may still stand when only its consumer was cancelled.
            self._flush()
            await self._channel.close()
            if loop.time() - since < _AGAIN:
                await asyncio.sleep(pauses.next())
            else:
                pauses.reset()
            told = ""
            while True:
                try:
                    await self._consume(await self._link.session(3600))
                    break
                except (ChannelLost, NameTaken, BrokerUnreachable, TopologyMismatch) as exc:
                    # Once for each trouble: it may last for hours.
                    level = logging.DEBUG if str(exc) == told else logging.WARNING
                    _log.log(level, "cannot consume %s: %s; trying again", self._what.queue, exc)
                    told = str(exc)
                except Closed:
                    return
                await asyncio.sleep(pauses.next())
            _log.info("consuming %s again", self._what.queue)

    async def _until_lost(self, channel: OpenChannel) -> str | None:
        """Wait for the end of the consumer, and say why it ended; None if it only should be renewed."""
        ended = asyncio.create_task(channel.ended.wait())
        cancelled = asyncio.create_task(self._cancelled.wait())
        forgotten = asyncio.create_task(self._quiet.until_forgotten(channel))
        waits = (ended, cancelled, forgotten)
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if cancelled.done() and not ended.done():
                if self._cancels_the_slow and self._held_when_cancelled:
                    return f"the broker cancelled it: the queue was deleted, or {_TOO_LONG.format(after='')}"
                return "the broker cancelled it: the queue was deleted, or lost its leader"
            if ended.done():
                return str(channel.content.lost or "the channel was closed")
            return await forgotten
        finally:
            for wait in waits:
                wait.cancel()

    async def _consume(self, session: Session) -> None:
        await self._what.prepare(session)
        channel = await session.channel(confirms=False)
        acks = Acks(channel.content, batch=max(1, self._what.prefetch // 4))
        content, offer, given_up, quiet = channel.content, self._handling.offer, self._given_up, self._quiet

        def deliver(delivery: Delivery) -> None:
            quiet.deliveries += 1
            alone = delivery.redelivered and not given_up.comes_back(delivery)
            offer(Item(delivery, content, acks, alone=alone))

        quiet.begin()
        self._cancels_the_slow = version_of(session.server_version) >= _CANCELS_THE_SLOW_SINCE
        content.receive(deliver)
        self._cancelled.clear()
        try:
            # A quorum queue without a leader does not answer at all.
            async with speaking(_CONSUME_TIMEOUT):
                await channel.rpc.basic_qos(prefetch_count=self._what.prefetch)
                channel.rpc.on_consumer_cancel_callbacks.add(self._on_cancel)
                consume = await channel.rpc.basic_consume(self._what.queue, _never)
        except (AMQPError, ChannelLost) as exc:
            await channel.close()
            raise ChannelLost(str(exc) or type(exc).__name__) from exc
        except BaseException:
            await channel.close()
            raise
        self._channel, self._acks = channel, acks
        self._consumer_tag = consume.consumer_tag or ""
        self._idle_since = None

    def _on_cancel(self, _: Any) -> None:
        self._held_when_cancelled = not self._handling.idle
        self._cancelled.set()

    def _flush(self) -> None:
        if self._acks is not None:
            self._acks.flush()

    # -- one delivery ----------------------------------------------------------------------------------------------

    async def _handle(self, item: Item) -> None:
        if item.channel.lost is not None:
            # It comes again on the next channel; what is done for it now could not be settled.
            self._given_up.note(item.delivery)
            return
        try:
            await self._deliverer.handle(item)
        except asyncio.CancelledError:
            if self._stopping:
                self._left.append(item)
            else:
                item.acks.hand_back(item.delivery.tag)
            raise


def _explain(reason: str) -> str:
    found = _TIMED_OUT.search(reason)
    if found is None:
        return reason
    return _TOO_LONG.format(after=f" ({int(found['ms']) / 1000:g} s)" if found["ms"] else "")


def _hand_back(items: list[Item]) -> None:
    for item in sorted(items, key=lambda item: item.delivery.tag):
        item.acks.hand_back(item.delivery.tag)


async def _never(_: object) -> None:
    """The library wants a callback; deliveries never reach it."""
