"""The work of the chaos test of order: each entry is written at the end of its page, so that its order can be read there."""

from __future__ import annotations

import asyncio
from typing import ClassVar, final

from rockbot.chain import Order
from rockbot.context import Context
from rockbot.errors import PermanentFailure
from rockbot.events import Event
from rockbot.handler import CallNext
from rockbot.plugins import Contribution, Link, Services
from rockbot.state.keys import Key, key
from rockbot.state.ports import StateStore
from rockbot_messaging.ports import Door
from rockbot_messaging.retries import Fixed, RetryPolicy
from rockbot_messaging.subscriptions import Ordered, OutageGuard, Rate, WorkSubscription


class Entry(Event):
    """Number `number` of a page; `fails` is how many of its attempts do."""

    type_name: ClassVar[str] = "storm.entry"
    topics: ClassVar[tuple[str, ...]] = ("storm.entry",)
    page: str
    number: int
    fails: int = 0
    refused: bool = False


class Written(Event):
    """It was written."""

    type_name: ClassVar[str] = "storm.written"
    topics: ClassVar[tuple[str, ...]] = ("storm.written",)
    door: ClassVar[Door] = Door.PUBLIC
    page: str
    number: int


#: Everything at once: order, effects once, a guard, a rate, poison marks (every host has them) and claims (by the settings).
ENTRIES = WorkSubscription(
    name="storm-entries",
    patterns=("storm.entry",),
    prefetch=40,
    concurrency=10,
    retry=RetryPolicy(max_attempts=4, backoff=Fixed(0.2)),
    ordered=Ordered(by="conversation", on_dead="skip", lease=1.5, scan=0.3),
    guard=OutageGuard(failures=10, probe=0.2, longest=1),
    rate=Rate(per_second=400, burst=40),
    remember=3600,
)
WRITTEN = WorkSubscription(name="storm-written", patterns=("storm.written",), prefetch=200)


def page_key(page: str) -> Key:
    """Where a page is kept."""
    return key("default", "storm-page", page)


@final
class Writer:
    """Writes entries."""

    handles = (Entry,)

    def __init__(self, store: StateStore) -> None:
        self._store = store

    async def handle(self, event: Entry, context: Context, call_next: CallNext) -> None:
        if event.refused:
            raise PermanentFailure("illegible")
        if context.envelope.attempt <= event.fails:
            raise RuntimeError("not yet")
        where = page_key(event.page)
        before = await self._store.get(where)
        await asyncio.sleep(0)
        written = f"{before.value.decode()} {event.number}" if before is not None else str(event.number)
        context.effects.put(where, written.encode(), expect=before.version if before is not None else 0)
        context.emit(Written(page=event.page, number=event.number), topic="storm.written")


def plugin(services: Services) -> Contribution:
    """The writer and its queues."""
    return Contribution(
        links=(Link(Order.WORK, "storm", Writer(services.state)),),
        subscriptions=(ENTRIES,),
        addressed=(WRITTEN,),
        events=(Entry, Written),
    )
