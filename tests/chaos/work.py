"""The work of the chaos test: an event whose handling goes as its `need` says, and leaves one countable effect."""

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
from rockbot_messaging.retries import Exponential, RetryPolicy
from rockbot_messaging.subscriptions import WorkSubscription

#: What messages may need; the last two never succeed.
NEEDS = ("sound", "slow", "once", "twice", "refused", "broken")
DYING = frozenset({"refused", "broken"})


class Work(Event):
    """One piece of work."""

    type_name: ClassVar[str] = "chaos.work"
    topics: ClassVar[tuple[str, ...]] = ("chaos.work",)
    name: str
    need: str


class Done(Event):
    """It was handled."""

    type_name: ClassVar[str] = "chaos.done"
    topics: ClassVar[tuple[str, ...]] = ("chaos.done",)
    door: ClassVar[Door] = Door.PUBLIC
    name: str


WORK = WorkSubscription(
    name="chaos-work",
    patterns=("chaos.work",),
    prefetch=60,
    concurrency=16,
    retry=RetryPolicy(max_attempts=4, backoff=Exponential(first=1, longest=2)),
    remember=3600,
    # Half of all failures here are meant; a guard would take a run of them for an outage.
    guard=None,
)
DONE = WorkSubscription(name="chaos-done", patterns=("chaos.done",), prefetch=200)


def effect_key(name: str) -> Key:
    """Where the effect of one piece of work is counted."""
    return key("default", "chaos-effect", name)


@final
class Worker:
    """Does the work; its effect counts how often it was done."""

    handles = (Work,)

    def __init__(self, store: StateStore) -> None:
        self._store = store

    async def handle(self, event: Work, context: Context, call_next: CallNext) -> None:
        attempt = context.envelope.attempt
        if event.need == "refused":
            raise PermanentFailure("this is refused")
        if (
            event.need == "broken"
            or (event.need == "once" and attempt == 1)
            or (event.need == "twice" and attempt <= 2)
        ):
            raise RuntimeError(f"{event.need} in attempt {attempt}")
        where = effect_key(event.name)
        before = await self._store.get(where)
        if event.need == "slow":
            for _ in range(50):
                await asyncio.sleep(0)
        count = int(before.value) if before is not None else 0
        context.effects.put(where, str(count + 1).encode(), expect=before.version if before is not None else 0)
        context.emit(Done(name=event.name), topic="chaos.done")


def plugin(services: Services) -> Contribution:
    """The worker and its queues."""
    return Contribution(
        links=(Link(Order.WORK, "chaos", Worker(services.state)),),
        subscriptions=(WORK,),
        addressed=(DONE,),
        events=(Work, Done),
    )
