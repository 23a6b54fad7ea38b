"""RabbitMQ as a message bus: two connections, so that a broker that blocks publishers still takes acknowledgements."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterable
from typing import final

from aiormq.exceptions import AMQPError

from rockbot_messaging.clock import Clock, IdSource, RandomIds, SystemClock
from rockbot_messaging.errors import BrokerUnreachable
from rockbot_messaging.ports import BusHealth, BusObserver, WorkQueue
from rockbot_messaging.rabbitmq.channel import ChannelLost
from rockbot_messaging.rabbitmq.connection import Link
from rockbot_messaging.rabbitmq.counting import count_queues
from rockbot_messaging.rabbitmq.dead_letters import RabbitDeadLetters
from rockbot_messaging.rabbitmq.pausing import Chance
from rockbot_messaging.rabbitmq.provision import Provision
from rockbot_messaging.rabbitmq.publisher import Packer, RabbitPublisher
from rockbot_messaging.rabbitmq.sender import Sender
from rockbot_messaging.rabbitmq.settings import RabbitSettings
from rockbot_messaging.rabbitmq.subscriber import RabbitSubscriber
from rockbot_messaging.rabbitmq.topology import Names
from rockbot_messaging.subscriptions import WorkSubscription

__all__ = ["RabbitBus"]


@final
class RabbitBus:
    """`MessageBus` on RabbitMQ 3.10 or newer. Opened and used in one event loop.

    Args:
        settings: where the broker is, and the limits.
        clock: instants and delays.
        ids: fresh ids, for foreign messages that carry nothing to tell them by.
        observer: is told what became of deliveries that were not simply acknowledged.
        chance: spreads reconnects.
    """

    def __init__(
        self,
        settings: RabbitSettings,
        clock: Clock | None = None,
        ids: IdSource | None = None,
        *,
        observer: BusObserver | None = None,
        chance: Chance = random.random,
    ) -> None:
        clock = clock or SystemClock()
        names = Names(settings.namespace)
        self._settings = settings
        self._names = names
        self._outward = Link(settings, "publishing", chance)
        self._inward = Link(settings, "consuming", chance)
        self._provision = Provision(names)
        packer = Packer(settings)
        self._sender = Sender(self._outward, settings, self._provision.everything)
        self._publisher = RabbitPublisher(self._sender, packer, names, clock)
        self._subscriber = RabbitSubscriber(
            self._inward, self._sender, packer, self._provision, names, settings, clock, ids or RandomIds(), observer
        )
        self._dead_letters = RabbitDeadLetters(
            self._inward, self._sender, packer, names, settings, clock, self._known_subscriptions
        )
        self._closed = False
        self._closing = asyncio.Lock()

    @property
    def publisher(self) -> RabbitPublisher:
        return self._publisher

    @property
    def subscriber(self) -> RabbitSubscriber:
        return self._subscriber

    @property
    def dead_letters(self) -> RabbitDeadLetters:
        return self._dead_letters

    async def open(self) -> None:
        """See `MessageBus.open`; the exchanges exist afterwards. After a failure it may be tried again.

        Raises:
            TopologyMismatch: an exchange or the unrouted queue exists with other arguments.
        """
        try:
            await self._outward.open()
            await self._inward.open()
            await self._sender.warm()
        except BaseException:
            await self._inward.close()
            await self._outward.close()
            raise

    # Declaring goes over the connection that never publishes, because a blocked broker stops reading from the other.
    async def declare(self, subscriptions: Iterable[WorkSubscription]) -> None:
        """See `MessageBus.declare`."""
        wanted = list(subscriptions)
        while True:
            session = await self._inward.session(self._settings.connect_timeout)
            with contextlib.suppress(ChannelLost):
                await self._provision.add(session, wanted)
                return
            if not session.ended.is_set():
                raise BrokerUnreachable(f"RabbitMQ at {self._settings.address} closed a channel while declaring")

    async def queues(self) -> list[WorkQueue]:
        """See `MessageBus.queues`."""
        subscriptions = sorted(self._known_subscriptions())
        names = [self._names.queue(name) for name in subscriptions]
        try:
            counts = await count_queues(self._inward, names, connect=self._settings.connect_timeout)
        except (AMQPError, ChannelLost) as exc:
            raise BrokerUnreachable(f"RabbitMQ at {self._settings.address} was lost while counting: {exc}") from None
        return [
            WorkQueue(name=name, subscription=subscription, ready=count.ready, consumers=count.consumers)
            for name, subscription, count in zip(names, subscriptions, counts, strict=True)
        ]

    def health(self) -> BusHealth:
        """See `MessageBus.health`."""
        links = (self._outward, self._inward)
        connected = all(link.session_now is not None for link in links)
        if not connected:
            detail = f"{self._settings}: not connected: {next(k.trouble for k in links if k.session_now is None)}"
        elif (session := self._outward.session_now) is not None and session.blocked:
            detail = f"{self._settings}: publishers are blocked (the broker is short of memory or disk)"
        else:
            detail = self._settings.describe(_members(links))
        return BusHealth(connected=connected, detail=detail, idle_seconds=self._subscriber.idle_seconds())

    async def close(self) -> None:
        """See `MessageBus.close`."""
        async with self._closing:
            if self._closed:
                return
            await self._subscriber.close()
            await self._sender.close()
            await self._inward.close()
            await self._outward.close()
            # Only now: a close that was cancelled may be asked for again.
            self._closed = True

    def cut(self) -> None:
        """Break both connections as a failing network would; they come back."""
        for link in (self._inward, self._outward):
            if link.session_now is not None:
                link.session_now.cut()

    def kill(self) -> None:
        """End at once, as a killed process would: handlers are cancelled, nothing is settled, nobody is told."""
        self._closed = True
        for link in (self._inward, self._outward):
            link.kill()
        self._subscriber.kill()

    def _known_subscriptions(self) -> set[str]:
        return {*self._settings.subscriptions, *self._provision.work}


def _members(links: Iterable[Link]) -> str:
    """The members that are in use."""
    sessions = (link.session_now for link in links)
    return " and ".join(dict.fromkeys(str(session.member) for session in sessions if session is not None))
