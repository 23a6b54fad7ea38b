"""Asking over the bus and waiting for the reply.

One transient queue receives the replies to all requests of a process; they are told apart by correlation id. That queue
goes with its connection and comes back under the same name, but what lay in it does not: a reply that is lost that way ends
its request by its time limit, like one that was never sent. So no request waits for ever.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Self, final

from rockbot_messaging.clock import Clock, IdSource, RandomIds, SystemClock
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.errors import Closed, TimedOut
from rockbot_messaging.measures import NO_MEASURES, Measures, Names
from rockbot_messaging.ports import Consumption, Door, MessageBus
from rockbot_messaging.subscriptions import WatchSubscription
from rockbot_messaging.verdicts import Ack, Verdict

__all__ = ["Requests", "TimedOut"]

logger = logging.getLogger(__name__)

_ACK: Final = Ack()
#: Requests that are over and whose further replies are still recognised.
_REMEMBERED: Final = 10_000
#: Seconds that closing the reply queue may take.
_STOP_TIMEOUT: Final = 2.0


@final
class Requests:
    """Sends requests and matches their replies; an asynchronous context manager on an opened bus.

    Any number of requests may be in flight, from any number of tasks. A responder sends its reply to the request's
    `reply_to`, with the request's correlation id.

    Args:
        bus: opened by the caller, and not closed here.
        clock: instants of deadlines.
        ids: names the reply queue, and requests without an id.
        measures: counts replies that came too late.
        on_late: is given each of those; must not block.
    """

    def __init__(
        self,
        bus: MessageBus,
        *,
        clock: Clock | None = None,
        ids: IdSource | None = None,
        measures: Measures = NO_MEASURES,
        on_late: Callable[[MessageEnvelope], None] | None = None,
    ) -> None:
        self._bus = bus
        self._clock = clock or SystemClock()
        self._ids = ids or RandomIds()
        self._measures = measures
        self._on_late = on_late
        self._waiting: dict[str, asyncio.Future[MessageEnvelope]] = {}
        #: Correlation ids of requests that are over, and whether they had a reply.
        self._over: OrderedDict[str, bool] = OrderedDict()
        self._told_late = False
        self._consumption: Consumption | None = None
        self._closed = False

    @property
    def address(self) -> str:
        """Where replies go.

        Raises:
            Closed: this is not open.
        """
        if self._consumption is None:
            raise Closed("requests are not open: use `async with Requests(bus) as requests`")
        return self._consumption.address

    @property
    def in_flight(self) -> int:
        """Requests that wait for their reply."""
        return len(self._waiting)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Have a queue for replies.

        Raises:
            BrokerUnreachable, Closed: as for subscribing.
        """
        if self._consumption is None:
            watch = WatchSubscription(name=f"requests-{self._ids.new_id()}")
            self._consumption = await self._bus.subscriber.subscribe(watch, self._received)

    async def close(self) -> None:
        """Give the queue up; requests that still wait end with `Closed`. Idempotent."""
        self._closed = True
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(Closed("the requests were closed before this one had its reply"))
        consumption, self._consumption = self._consumption, None
        if consumption is not None:
            await consumption.stop(timeout=_STOP_TIMEOUT)

    async def request(
        self, envelope: MessageEnvelope, *, timeout: float, door: Door = Door.COMMANDS
    ) -> MessageEnvelope:
        """Publish `envelope` and return its reply.

        The request gets a `reply_to`, a correlation id (its own, else its message id), and a deadline `timeout` seconds
        from now if it has no earlier one, so that nobody begins with it when nobody waits any more.

        Raises:
            TimedOut: no reply within `timeout` seconds.
            Unroutable: nobody receives its topic (`Door.COMMANDS` only), known at once.
            ValueError: another request with its correlation id is in flight, or the timeout is not above 0.
            Closed: this was closed meanwhile. What `MessagePublisher.publish` raises.
        """
        if not timeout > 0:
            raise ValueError(f"a request needs a timeout above 0 seconds, not {timeout}")
        if self._closed:
            raise Closed("the requests were closed")
        address = self.address
        correlation_id = envelope.correlation_id or envelope.message_id or self._ids.new_id()
        if correlation_id in self._waiting:
            raise ValueError(f"a request with the correlation id {correlation_id!r} is in flight already")
        deadline_ms = self._clock.now_ms() + round(timeout * 1000)
        asked = envelope.replace(
            correlation_id=correlation_id,
            reply_to=address,
            deadline_ms=deadline_ms if envelope.deadline_ms is None else min(deadline_ms, envelope.deadline_ms),
        )
        reply: asyncio.Future[MessageEnvelope] = asyncio.get_running_loop().create_future()
        self._waiting[correlation_id] = reply
        self._over.pop(correlation_id, None)
        bound = asyncio.timeout(timeout)
        try:
            async with bound:
                await self._bus.publisher.publish(asked, door=door)
                return await reply
        except TimeoutError:
            if not bound.expired():
                raise
            raise TimedOut(_what_to_look_at(asked, timeout)) from None
        finally:
            del self._waiting[correlation_id]
            self._remember(
                correlation_id, answered=reply.done() and not reply.cancelled() and reply.exception() is None
            )

    def _remember(self, correlation_id: str, *, answered: bool) -> None:
        self._over[correlation_id] = answered
        while len(self._over) > _REMEMBERED:
            self._over.popitem(last=False)

    async def _received(self, envelope: MessageEnvelope) -> Verdict:
        correlation_id = envelope.correlation_id or ""
        waiting = self._waiting.get(correlation_id)
        if waiting is not None:
            if not waiting.done():
                waiting.set_result(envelope)
            return _ACK
        if self._over.get(correlation_id):
            return _ACK  # a copy: its responder may have sent it twice
        self._late(envelope)
        return _ACK

    def _late(self, envelope: MessageEnvelope) -> None:
        self._measures.count(Names.LATE_REPLIES)
        logger.log(
            logging.DEBUG if self._told_late else logging.WARNING,
            "a reply came after its request had given up (further ones are counted and logged at DEBUG only)",
            extra={
                "message_id": envelope.message_id,
                "correlation_id": envelope.correlation_id,
                "reply_type": envelope.type,
                "sender": envelope.source,
            },
        )
        self._told_late = True
        if self._on_late is not None:
            self._on_late(envelope)


def _what_to_look_at(asked: MessageEnvelope, timeout: float) -> str:
    return (
        f"no reply to message {asked.message_id} on topic {asked.topic!r} within {timeout:g} s. It may wait in a queue that"
        " nobody serves, lie among the dead letters of a subscription that receives this topic, or have been answered while"
        " the connection was lost; look at the dead letters (rockbot dlq list) and at whether a responder runs"
    )
