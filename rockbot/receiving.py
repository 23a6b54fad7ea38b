"""What a delivery passes before it reaches the dispatcher, put together for one host.

Regulation goes around the handling itself. For an ordered subscription that is the work on the head of a key, not the
arrival: arrivals are only written down, and nothing about that needs a slot, a rate or a guard.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, final

from rockbot.dispatcher import Dispatcher
from rockbot.errors import ConfigError
from rockbot_messaging.measures import NO_MEASURES, Measures
from rockbot_messaging.ports import Consumption, MessageHandler, MessageSubscriber
from rockbot_messaging.regulation import OutageStatus, Regulation
from rockbot_messaging.regulation.settled import counted
from rockbot_messaging.subscriptions import Subscription, WorkSubscription

__all__ = ["OrderedReceiving", "Receiving"]


class OrderedReceiving(Protocol):
    """Keeps the arrivals of ordered subscriptions and has the head of each key handled."""

    def receive(self, subscription: WorkSubscription, handle: MessageHandler) -> MessageHandler:
        """The handler of the subscription's deliveries: it writes each down and acknowledges it.

        `handle` is called with the heads and its verdict is carried out on them. A head that is begun again because whoever
        was at it is gone is marked `redelivered`, so that one that kills its process is found out.
        """
        ...

    async def subscribe(self, subscription: WorkSubscription, handler: MessageHandler) -> Consumption:
        """Have what `receive` made receive; of several processes one at a time does."""
        ...

    async def start(self) -> None:
        """Begin with what waits since before."""
        ...

    async def close(self, *, timeout: float) -> int:
        """Begin nothing more and finish what is under way; returns how many handlers were ended after `timeout` seconds."""
        ...


@final
class Receiving:
    """Handlers for a host's subscriptions. `inboxes` None: no subscription may be ordered."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        regulation: Regulation,
        *,
        measures: Measures = NO_MEASURES,
        inboxes: OrderedReceiving | None = None,
    ) -> None:
        self._dispatcher = dispatcher
        self._regulation = regulation
        self._measures = measures
        self._inboxes = inboxes
        self._handlers: dict[str, tuple[Subscription, MessageHandler]] = {}

    def handler(self, subscription: Subscription) -> MessageHandler:
        """What the subscription's deliveries are handled by; made once per subscription, also when it goes and comes back.

        Raises:
            ConfigError: it asks for what this host has not, or it collides with another one.
        """
        known = self._handlers.get(subscription.name)
        if known is None or known[0] != subscription:
            known = self._handlers[subscription.name] = (subscription, self._handler(subscription))
        return known[1]

    def _handler(self, subscription: Subscription) -> MessageHandler:
        handle = self._dispatcher.handler(subscription)
        if not isinstance(subscription, WorkSubscription):
            return counted(subscription.name, handle, measures=self._measures)
        try:
            handle = self._regulation.around(subscription, handle)
        except ValueError as exc:
            raise ConfigError(f"subscription {subscription.name!r} cannot be received: {exc}") from None
        if subscription.ordered is None:
            return handle
        if self._inboxes is None:
            raise ConfigError(f"subscription {subscription.name!r} is ordered, and this host keeps no inboxes")
        return self._inboxes.receive(subscription, handle)

    async def subscribe(self, subscriber: MessageSubscriber, subscription: Subscription) -> Consumption:
        """Consume a subscription. Raises ConfigError, and what `MessageSubscriber.subscribe` raises."""
        handler = self.handler(subscription)
        if (
            isinstance(subscription, WorkSubscription)
            and subscription.ordered is not None
            and self._inboxes is not None
        ):
            return await self._inboxes.subscribe(subscription, handler)
        return await subscriber.subscribe(subscription, handler)

    async def start(self) -> None:
        """Begin with what waits in inboxes; everything is subscribed."""
        if self._inboxes is not None:
            await self._inboxes.start()

    async def close(self, *, timeout: float) -> int:
        """End the work on inboxes as `Consumption.stop` ends that on deliveries; returns how many handlers were ended."""
        return 0 if self._inboxes is None else await self._inboxes.close(timeout=timeout)

    def outages(self) -> Sequence[OutageStatus]:
        """The subscriptions that only probe at present."""
        return self._regulation.outages()

    def drain(self) -> None:
        """From here on no delivery waits in hand."""
        self._regulation.drain()
