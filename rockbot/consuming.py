"""What a host consumes: fixed when it is composed, but for the subscriptions of those plug-ins that say theirs may change.

Only work subscriptions come and go, and only by the word of the plug-in that contributed them: which ones it wants is asked
at the start, whenever it says that something changed, and from time to time. Queues and bindings stay when a subscription
goes; its deliveries in hand are finished.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, final

from rockbot.receiving import Receiving
from rockbot_messaging.ports import Consumption, MessageBus
from rockbot_messaging.subscriptions import Subscription, WorkSubscription

__all__ = ["Consuming", "LiveSubscriptions", "Wanted"]

logger = logging.getLogger(__name__)


@final
@dataclass(frozen=True, slots=True)
class Wanted:
    """What a plug-in wants at present: to consume, and to have declared because it sends there."""

    work: tuple[WorkSubscription, ...] = ()
    addressed: tuple[WorkSubscription, ...] = field(default=())


class LiveSubscriptions(Protocol):
    """A plug-in's subscriptions that may change while the host runs."""

    async def wanted(self) -> Wanted:
        """All of them. May raise StateUnavailable: nothing changes then, and it is asked again."""
        ...

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call this when `wanted` would say something else."""
        ...


@final
class Consuming:
    """The running subscriptions of one host."""

    def __init__(
        self,
        bus: MessageBus,
        receiving: Receiving,
        *,
        subscriptions: Sequence[Subscription],
        addressed: Sequence[WorkSubscription],
        live: Sequence[LiveSubscriptions] = (),
        drain_seconds: float,
    ) -> None:
        self._bus = bus
        self._receiving = receiving
        self._first = tuple(subscriptions)
        self._addressed = tuple(addressed)
        self._live = tuple(live)
        self._drain_seconds = drain_seconds
        self._running: dict[str, tuple[Subscription, Consumption]] = {}
        #: Names that came from a live plug-in: what of them is wanted no more is stopped, nothing else ever is.
        self._movable: set[str] = set()
        #: Names that were consumed and are not wanted any more.
        self.retired: set[str] = set()
        self._changed = asyncio.Event()
        self._lock = asyncio.Lock()
        for each in self._live:
            each.on_change(self._changed.set)

    @property
    def names(self) -> list[str]:
        """What is consumed, or will be when it has started."""
        return sorted(self._running) if self._running else sorted(item.name for item in self._first)

    @property
    def active(self) -> bool:
        """Whether anything is consumed."""
        return bool(self._running)

    async def start(self) -> None:
        """Declare and consume what the host was composed with.

        Raises:
            BrokerUnreachable, TopologyMismatch, ConfigError: as for subscribing.
        """
        work = [item for item in self._first if isinstance(item, WorkSubscription)]
        names = {item.name for item in work}
        await self._bus.declare([*work, *(item for item in self._addressed if item.name not in names)])
        for subscription in self._first:
            await self._consume(subscription)

    async def follow(self) -> None:
        """Consume what is wanted now, and stop what is not.

        Raises:
            StateUnavailable, MessagingError: what was not done is done by the next call.
        """
        async with self._lock:
            self._changed.clear()
            wanted = [await each.wanted() for each in self._live]
            work = {item.name: item for part in wanted for item in part.work}
            new = [item for name, item in work.items() if name not in self._running]
            self._movable |= work.keys()
            if new:
                addressed = [item for part in wanted for item in part.addressed if item.name not in work]
                await self._bus.declare([*new, *addressed])
            for item in new:
                await self._consume(item)
                self.retired.discard(item.name)
                logger.info("subscription is consumed from now on", extra={"subscription": item.name})
            for name in sorted(self._running.keys() & self._movable - work.keys()):
                _, consumption = self._running.pop(name)
                self.retired.add(name)
                await consumption.stop(timeout=self._drain_seconds)
                logger.info("subscription is consumed no more", extra={"subscription": name})

    async def wait(self, stop: asyncio.Event, *, every: float) -> None:
        """Return when something changed, when `stop` is set, or after `every` seconds."""
        waits = [asyncio.create_task(event.wait()) for event in (self._changed, stop)]
        try:
            await asyncio.wait(waits, timeout=every, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def stop(self, *, timeout: float) -> int:
        """Consume nothing more; returns how many deliveries were handed back."""
        async with self._lock:
            running = [consumption for _, consumption in self._running.values()]
            self._running.clear()
        return sum(await asyncio.gather(*(item.stop(timeout=timeout) for item in running)))

    async def _consume(self, subscription: Subscription) -> None:
        consumption = await self._receiving.subscribe(self._bus.subscriber, subscription)
        self._running[subscription.name] = (subscription, consumption)
