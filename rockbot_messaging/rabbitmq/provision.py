"""Which declarations this process has taken on, and when they are made: on demand, and again on every new session."""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

from rockbot_messaging.errors import TopologyMismatch
from rockbot_messaging.rabbitmq import topology
from rockbot_messaging.rabbitmq.connection import Session
from rockbot_messaging.rabbitmq.declaring import NameTaken, declare
from rockbot_messaging.rabbitmq.topology import Names, Topology
from rockbot_messaging.subscriptions import WorkSubscription

__all__ = ["Provision"]


@final
class Provision:
    """The work subscriptions that this process consumes or addresses, and their queues."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self.work: dict[str, WorkSubscription] = {}

    async def everything(self, session: Session) -> None:
        """Declare the exchanges and all queues known so far.

        Raises:
            TopologyMismatch, BrokerUnreachable, ChannelLost: see `declaring.declare`.
        """
        await self._declare(session, self.work.values())

    async def add(self, session: Session, subscriptions: Iterable[WorkSubscription]) -> None:
        """Take on more subscriptions and declare them; raises as `everything`."""
        new = list(subscriptions)
        await self._declare(session, new)
        self.work.update((subscription.name, subscription) for subscription in new)

    async def one(self, session: Session, subscription: WorkSubscription) -> None:
        """Declare what one subscription needs; raises as `everything`."""
        await self._declare(session, (subscription,))

    async def delay(self, session: Session, queue: str, step: int) -> None:
        """Declare one delay queue; raises as `everything`."""
        await _declare_durable(session, topology.delay(self._names, queue, step))

    async def _declare(self, session: Session, subscriptions: Iterable[WorkSubscription]) -> None:
        wanted: Topology = topology.shared(self._names)
        for subscription in subscriptions:
            wanted += topology.work(self._names, subscription)
        await _declare_durable(session, wanted)


async def _declare_durable(session: Session, wanted: Topology) -> None:
    try:
        await declare(session, wanted)
    except NameTaken as exc:
        raise TopologyMismatch(f"a queue of ours belongs to another connection alone: {exc}") from None
