"""The ordered subscriptions of one host."""

from __future__ import annotations

import asyncio
import logging
from typing import final

from rockbot.errors import ConfigError
from rockbot.inbox.blocked import BlockedKeys
from rockbot.inbox.line import BlockedKey, LineId
from rockbot.inbox.reader import Reader
from rockbot.inbox.shelf import Shelf
from rockbot.inbox.worker import Inbox, Terms
from rockbot.machines.recovery import repeat
from rockbot.state.ports import StateStore
from rockbot_messaging.clock import Clock
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.identity import DEFAULT_TENANT
from rockbot_messaging.letters import Failure
from rockbot_messaging.measures import NO_MEASURES, Measures
from rockbot_messaging.ports import Consumption, MessageBus, MessageHandler
from rockbot_messaging.subscriptions import WorkSubscription

__all__ = ["OrderedInboxes"]

logger = logging.getLogger(__name__)


@final
class OrderedInboxes:
    """Receives for ordered subscriptions, and works what they received.

    `owner` names this process and is never used again. `lease`, `scan_every` and `most` are as each subscription's order has
    them (`Ordered`), unless they are given for all.
    """

    def __init__(
        self,
        store: StateStore,
        bus: MessageBus,
        *,
        clock: Clock,
        owner: str,
        namespace: str = "rockbot",
        measures: Measures = NO_MEASURES,
        lease: float | None = None,
        scan_every: float | None = None,
        most: int | None = None,
    ) -> None:
        self._store = store
        self._owner = owner
        self._blocked = BlockedKeys(store)
        self._bus = bus
        self._clock = clock
        self._namespace = namespace
        self._measures = measures
        self._lease, self._scan_every, self._most = lease, scan_every, most
        self._inboxes: dict[str, Inbox] = {}
        self._readers: list[Reader] = []
        self._stop = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []

    def receive(self, subscription: WorkSubscription, handle: MessageHandler) -> MessageHandler:
        """What is to receive the deliveries of an ordered subscription, so that `handle` gets them key by key in order.

        Raises:
            ConfigError: the subscription has no order.
        """
        ordered = subscription.ordered
        if ordered is None:
            raise ConfigError(f"the subscription {subscription.name!r} has no order to keep")
        terms = Terms(
            namespace=self._namespace,
            bury=self._bury,
            clock=self._clock,
            measures=self._measures,
            lease=self._lease or ordered.lease,
            scan=self._scan_every or ordered.scan,
            most=self._most or ordered.most,
        )
        shelf = Shelf(self._store, owner=self._owner, lease=terms.lease)
        inbox = Inbox(subscription, ordered, handle, shelf, terms)
        self._inboxes[subscription.name] = inbox
        return inbox.receive

    async def subscribe(self, subscription: WorkSubscription, handler: MessageHandler) -> Consumption:
        """Have `handler` (made by `receive`) receive, on the one process that reads the subscription's queue.

        Raises:
            StateUnavailable, and what `MessageSubscriber.subscribe` raises.
        """
        reader = Reader(
            self._bus.subscriber,
            subscription,
            handler,
            store=self._store,
            clock=self._clock,
            owner=self._owner,
            namespace=self._namespace,
            lease=self._inboxes[subscription.name].lease,
            connected=lambda: self._bus.health().connected,
        )
        await reader.start()
        self._readers.append(reader)
        return reader

    async def start(self) -> None:
        """Begin with what is waiting in the store, and go on looking for it. The store and the bus are open."""
        if self._loops:
            return
        for name, inbox in self._inboxes.items():
            what = f"scan of the inbox {name}"
            scanning = repeat(what, inbox.scan_in_turn, every=inbox.scan_every, stop=self._stop)
            self._loops.append(asyncio.create_task(scanning, name=what))

    async def scan(self) -> int:
        """Look once for lines that nobody works; returns how many were begun.

        Raises:
            StateUnavailable: nothing is lost, look again.
        """
        return sum([await inbox.scan() for inbox in self._inboxes.values()])

    async def close(self, *, timeout: float) -> int:
        """Begin nothing more, wait up to `timeout` seconds for what is under way and end the rest; returns how many.

        Other processes go on with the keys of this one at once. What reads was stopped before.
        """
        await self._end_scan()
        return sum(await asyncio.gather(*(inbox.close(timeout=timeout) for inbox in self._inboxes.values())))

    async def kill(self) -> None:
        """Be gone as a process that was killed is: keys are kept until their leases end. For tests."""
        await self._end_scan()
        for reader in self._readers:
            await reader.kill()
        for inbox in self._inboxes.values():
            await inbox.kill()

    async def blocked(self, subscription: str) -> list[BlockedKey]:
        """See `BlockedKeys.list`."""
        return await self._blocked.list(subscription)

    async def release(
        self, subscription: str, key: str, *, tenant: str = DEFAULT_TENANT, message_id: str | None = None
    ) -> bool:
        """See `BlockedKeys.release`; this process goes on with the key at once."""
        released = await self._blocked.release(subscription, key, tenant=tenant, message_id=message_id)
        if released and (inbox := self._inboxes.get(subscription)) is not None:
            inbox.wake(LineId(subscription, tenant, key))
        return released

    async def _bury(self, queue: str, envelope: MessageEnvelope, failure: Failure) -> None:
        await self._bus.dead_letters.bury(queue, envelope, failure)

    async def _end_scan(self) -> None:
        self._stop.set()
        for inbox in self._inboxes.values():
            inbox.stop()
        loops, self._loops = self._loops, []
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
