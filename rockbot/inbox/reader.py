"""One process reads an ordered queue, so that messages arrive in the order they were stored; all processes work.

Two consumers of one queue would append at the same time, and the second message of a key could come before the first.
Appending is quick and working is not, so one reader is enough: whoever holds the lease. When it is gone, another takes
over, and the broker gives it what was not acknowledged, in its order.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import final

from rockbot.state.keys import key
from rockbot.state.ports import Lease, StateError, StateStore
from rockbot_messaging.clock import Clock
from rockbot_messaging.errors import MessagingError
from rockbot_messaging.ports import Consumption, MessageHandler, MessageSubscriber
from rockbot_messaging.subscriptions import WorkSubscription

__all__ = ["Reader"]

logger = logging.getLogger(__name__)


@final
class Reader:
    """Implements `Consumption`: consumes while this process holds the lease of reading.

    `lease` is for how many seconds it is held unless it is prolonged, which happens three times as often. A process that is
    not `connected` to the broker leaves it to one that is.
    """

    def __init__(
        self,
        subscriber: MessageSubscriber,
        subscription: WorkSubscription,
        handler: MessageHandler,
        *,
        store: StateStore,
        clock: Clock,
        owner: str,
        namespace: str,
        lease: float,
        connected: Callable[[], bool],
    ) -> None:
        self._subscriber = subscriber
        self._subscription = subscription
        self._handler = handler
        self._store = store
        self._clock = clock
        self._owner = owner
        self._seconds = lease
        self._connected = connected
        self._name = key("host", "lease", "inbox-reader", subscription.name)
        self._lease: Lease | None = None
        self._good_until = 0.0
        self._consumption: Consumption | None = None
        self._loop: asyncio.Task[None] | None = None
        self.address = f"{namespace}.{subscription.name}"

    @property
    def reading(self) -> bool:
        """Whether this process is the one that reads."""
        return self._consumption is not None

    async def start(self) -> None:
        """Read if nobody else does, and go on asking.

        Raises:
            StateUnavailable, TopologyMismatch, BrokerUnreachable, Closed: nothing was begun.
        """
        await self._take()
        self._loop = asyncio.create_task(self._repeat(), name=f"reader of {self.address}")

    async def look(self) -> None:
        """Take or prolong the lease and consume, or stop consuming because the lease is gone or the broker is."""
        if self._connected():
            await self._take()
            return
        # What was in hand went back to the queue with the connection; whoever reads next begins with it.
        await self._leave()
        await self._release()

    async def stop(self, *, timeout: float) -> int:
        """See `Consumption.stop`; somebody else may read at once."""
        await self._end_loop()
        handed_back = await self._leave(timeout=timeout)
        await self._release()
        return handed_back

    async def kill(self) -> None:
        """End as if the process had been killed: the lease stays until it is over. For tests."""
        await self._end_loop()

    async def _take(self) -> None:
        asked = self._clock.monotonic()
        try:
            lease = await self._store.acquire_lease(self._name, owner=self._owner, ttl=self._seconds)
        except StateError:
            if self.reading and self._clock.monotonic() >= self._good_until:
                await self._leave()  # nothing could be appended anyway, and somebody else may read by now
            raise
        self._lease = lease
        if lease is None:
            await self._leave()
            return
        self._good_until = asked + self._seconds
        if self.reading:
            return
        try:
            self._consumption = await self._subscriber.subscribe(self._subscription, self._handler)
        except Exception:
            await self._release()  # who can consume shall
            raise
        logger.info("this process reads an ordered queue", extra={"queue": self.address})
        if self._clock.monotonic() >= self._good_until:
            await self._take()  # that took long: is it still this process's to read?

    async def _repeat(self) -> None:
        while True:
            await asyncio.sleep(self._seconds / 3)
            try:
                await self.look()
            except Exception as exc:  # whatever it is: who stops asking reads for ever, or never again
                logger.warning(
                    "an ordered queue is not read at the moment" if not self.reading else "a lease was not prolonged",
                    exc_info=not isinstance(exc, StateError | MessagingError),
                    extra={"queue": self.address, "error": f"{type(exc).__name__}: {exc}"},
                )

    async def _leave(self, *, timeout: float = 0) -> int:
        consumption, self._consumption = self._consumption, None
        return 0 if consumption is None else await consumption.stop(timeout=timeout)

    async def _release(self) -> None:
        lease, self._lease = self._lease, None
        if lease is None:
            return
        try:
            await self._store.release_lease(lease)
        except StateError as exc:
            logger.info("the lease of reading ends by itself", extra={"queue": self.address, "error": str(exc)})

    async def _end_loop(self) -> None:
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.cancel()
            await asyncio.gather(loop, return_exceptions=True)
