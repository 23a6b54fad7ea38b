"""Starts subscriptions, and keeps the list of those that run."""

from __future__ import annotations

import asyncio
import uuid
from typing import final

from rockbot_messaging.clock import Clock, IdSource
from rockbot_messaging.errors import Closed
from rockbot_messaging.ports import BusObserver, MessageHandler
from rockbot_messaging.rabbitmq import topology
from rockbot_messaging.rabbitmq.connection import Link, Session
from rockbot_messaging.rabbitmq.consumption import RabbitConsumption
from rockbot_messaging.rabbitmq.declaring import declare
from rockbot_messaging.rabbitmq.delivering import Consuming
from rockbot_messaging.rabbitmq.provision import Provision
from rockbot_messaging.rabbitmq.publisher import Packer
from rockbot_messaging.rabbitmq.sender import Sender
from rockbot_messaging.rabbitmq.settings import RabbitSettings
from rockbot_messaging.rabbitmq.settling import Settler
from rockbot_messaging.rabbitmq.topology import Names
from rockbot_messaging.subscriptions import Subscription, WatchSubscription, WorkSubscription

__all__ = ["RabbitSubscriber"]


@final
class RabbitSubscriber:
    """`MessageSubscriber` on RabbitMQ: one channel per subscription, manual acknowledgement.

    A watcher handles one message after another, so that streamed text stays in order.
    """

    def __init__(
        self,
        link: Link,
        sender: Sender,
        packer: Packer,
        provision: Provision,
        names: Names,
        settings: RabbitSettings,
        clock: Clock,
        ids: IdSource,
        observer: BusObserver | None,
    ) -> None:
        self._link = link
        self._sender = sender
        self._packer = packer
        self._provision = provision
        self._names = names
        self._settings = settings
        self._clock = clock
        self._ids = ids
        self._observer = observer
        self._closed = False
        self.running: dict[str, RabbitConsumption] = {}

    async def subscribe(self, subscription: Subscription, handler: MessageHandler) -> RabbitConsumption:
        """See `MessageSubscriber.subscribe`."""
        self._check_open()
        if isinstance(subscription, WorkSubscription):
            what = self._work(subscription, handler)
        else:
            what = self._watch(subscription, handler)
        key = f"{subscription.name} {uuid.uuid4().hex[:8]}"
        consumption = RabbitConsumption(
            what, self._link, self._clock, self._ids, ended=lambda: self.running.pop(key, None) and None
        )
        await consumption.start(self._settings.connect_timeout)
        self.running[key] = consumption
        try:
            self._check_open()
        except Closed:
            await consumption.stop(timeout=0)
            raise
        return consumption

    def idle_seconds(self) -> dict[str, float]:
        """For each subscription without a consumer, how long."""
        idle = {key.partition(" ")[0]: consumption.idle_seconds for key, consumption in self.running.items()}
        return {name: seconds for name, seconds in idle.items() if seconds is not None}

    async def close(self) -> None:
        """Stop every subscription; deliveries in hand go back."""
        self._closed = True
        await asyncio.gather(*(consumption.stop(timeout=0) for consumption in self.running.values()))

    def kill(self) -> None:
        """Cancel everything that runs."""
        self._closed = True
        for consumption in self.running.values():
            consumption.kill()
        self.running.clear()

    def _check_open(self) -> None:
        if self._closed:
            raise Closed("this subscriber was closed")

    def _work(self, subscription: WorkSubscription, handler: MessageHandler) -> Consuming:
        queue = self._names.queue(subscription.name)

        async def prepare(session: Session) -> None:
            await self._provision.one(session, subscription)
            # From now on also whoever publishes makes sure that this queue exists.
            self._provision.work.setdefault(subscription.name, subscription)

        async def restore(step: int | None) -> None:
            session = await self._link.session(self._settings.connect_timeout)
            if step is None:
                await self._provision.one(session, subscription)
            else:
                await self._provision.delay(session, queue, step)

        return Consuming(
            name=subscription.name,
            queue=queue,
            prefetch=subscription.prefetch,
            parallelism=subscription.parallelism,
            retry=subscription.retry,
            settler=Settler(
                queue, self._names, self._packer, self._sender, restore, name=subscription.name, observer=self._observer
            ),
            handler=handler,
            prepare=prepare,
            own_user=self._settings.user,
            max_body_bytes=self._settings.max_body_bytes,
            max_header_bytes=self._settings.max_header_bytes,
            quiet_check=self._settings.quiet_check,
        )

    def _watch(self, subscription: WatchSubscription, handler: MessageHandler) -> Consuming:
        queue = self._names.watch(subscription, uuid.uuid4().hex)
        shape = topology.watch(self._names, subscription, queue)

        async def prepare(session: Session) -> None:
            await declare(session, topology.shared(self._names) + shape)

        return Consuming(
            name=subscription.name,
            queue=queue,
            prefetch=subscription.prefetch,
            parallelism=1,
            retry=None,
            settler=None,
            handler=handler,
            prepare=prepare,
            own_user=self._settings.user,
            max_body_bytes=self._settings.max_body_bytes,
            max_header_bytes=self._settings.max_header_bytes,
            quiet_check=self._settings.quiet_check,
            bindings=shape.bindings,
        )
