"""The host's life: start, drain, close, and what goes wrong on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from core.links import Act, Link, Ping, envelope

from rockbot.chain import Order
from rockbot.container import compose
from rockbot.context import Context
from rockbot.events import Event
from rockbot.handler import CallNext
from rockbot.host import Host
from rockbot.plugins import Contribution, Services
from rockbot.plugins import Link as Registration
from rockbot.settings import Settings
from rockbot.state.keys import key
from rockbot.state.memory import MemoryStateStore
from rockbot_messaging.memory import MemoryBroker, MemoryBus
from rockbot_messaging.subscriptions import WorkSubscription
from rockbot_messaging.testing import FakeClock, SequenceIds

WORK = WorkSubscription(name="pings", patterns=("test.ping",))
ELSEWHERE = WorkSubscription(name="elsewhere", patterns=("test.elsewhere",))


class House:
    def __init__(
        self,
        act: Act,
        *,
        drain_seconds: float = 5,
        closers: tuple[Any, ...] = (),
        warm_ups: tuple[Callable[[], Coroutine[Any, Any, None]], ...] = (),
    ) -> None:
        self.clock = FakeClock()
        self.broker = MemoryBroker(namespace="rockbot", clock=self.clock, ids=SequenceIds(1))
        self.client = MemoryBus(broker=self.broker)
        self.bus = MemoryBus(broker=self.broker)
        self.store = MemoryStateStore(self.clock)

        def plugin(services: Services) -> Contribution:
            link = Registration(Order.WORK, "pings", Link(act, Ping))
            return Contribution(links=(link,), events=(Ping,), subscriptions=(WORK,), addressed=(ELSEWHERE, WORK))

        def closing(close: Any) -> Any:
            return lambda services: Contribution(close=close)

        def warming(warm_up: Any) -> Any:
            return lambda services: Contribution(warm_up=warm_up)

        self.host: Host = compose(
            Settings(host={"drain_seconds": drain_seconds}),
            bus=self.bus,
            store=self.store,
            clock=self.clock,
            ids=SequenceIds(2),
            plugins=[
                ("pings", plugin),
                *((f"c{at}", closing(close)) for at, close in enumerate(closers)),
                *((f"w{at}", warming(warm_up)) for at, warm_up in enumerate(warm_ups)),
            ],
        ).host()


async def test_a_started_host_consumes_and_owns_the_queues_it_addresses() -> None:
    handled = asyncio.Event()

    async def act(event: Event, context: Context, call_next: CallNext) -> None:
        handled.set()

    house = House(act)
    await house.client.open()
    stop = asyncio.Event()
    running = asyncio.create_task(house.host.run(stop))
    async with asyncio.timeout(60):
        while not house.host.health.started:
            await asyncio.sleep(0)
        assert house.host.health.ready()[0]
        await house.client.publish(envelope(type="test.ping"))
        await house.client.publish(envelope(topic="test.elsewhere"))
        await handled.wait()
        stop.set()
        await running
    assert not house.host.health.ready()[0]
    await house.client.close()


async def test_draining_finishes_what_is_in_hand_and_takes_nothing_new() -> None:
    begun, go = asyncio.Event(), asyncio.Event()
    finished: list[str] = []

    async def act(event: Event, context: Context, call_next: CallNext) -> None:
        begun.set()
        await go.wait()
        finished.append(context.envelope.message_id)

    house = House(act)
    await house.client.open()
    await house.host.start()
    async with asyncio.timeout(60):
        await house.client.publish(envelope(type="test.ping", message_id="first"))
        await begun.wait()
        draining = asyncio.create_task(house.host.drain())
        while not house.host.health.draining:
            await asyncio.sleep(0)
        for _ in range(3):  # the loop's turns until the consumer has been told
            await asyncio.sleep(0)
        await house.client.publish(envelope(type="test.ping", message_id="second"))
        go.set()
        assert await draining == 0
    assert finished == ["first"]
    await house.host.close()
    await house.client.close()


async def test_what_does_not_finish_in_the_drain_time_is_handed_back() -> None:
    begun = asyncio.Event()
    ended: list[type[BaseException]] = []

    async def act(event: Event, context: Context, call_next: CallNext) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except BaseException as exc:
            ended.append(type(exc))
            raise

    house = House(act, drain_seconds=0)
    await house.client.open()
    await house.host.start()
    async with asyncio.timeout(60):
        await house.client.publish(envelope(type="test.ping"))
        await begun.wait()
        assert await house.host.drain() == 1
    assert ended == [asyncio.CancelledError]
    await house.host.close()
    await house.client.close()


async def test_a_drained_host_lets_another_one_sweep_the_timers_at_once() -> None:
    async def act(event: Event, context: Context, call_next: CallNext) -> None:
        pass

    house = House(act)
    await house.host.start()
    async with asyncio.timeout(60):
        while await house.store.acquire_lease(key("host", "lease", "timers"), owner="b", ttl=1) is not None:
            house.clock.advance(2)
            await asyncio.sleep(0)
        await house.host.drain()
        assert await house.store.acquire_lease(key("host", "lease", "timers"), owner="b", ttl=1) is not None
    await house.host.close()


async def test_a_part_that_cannot_be_closed_keeps_no_other_open() -> None:
    closed: list[str] = []

    async def bad() -> None:
        closed.append("bad")
        raise RuntimeError("stuck")

    async def good() -> None:
        closed.append("good")

    async def act(event: Event, context: Context, call_next: CallNext) -> None:
        pass

    house = House(act, closers=(bad, good))
    await house.host.start()
    with pytest.raises(RuntimeError, match="stuck"):
        await house.host.close()
    assert closed == ["bad", "good"]
    assert not house.bus.health().connected


async def test_closing_twice_is_fine() -> None:
    async def act(event: Event, context: Context, call_next: CallNext) -> None:
        pass

    house = House(act)
    await house.host.start()
    await house.host.close()
    await house.host.close()


async def test_what_takes_long_is_made_ready_while_the_host_works_and_its_failure_stops_nothing() -> None:
    handled, seen, go = asyncio.Event(), asyncio.Event(), asyncio.Event()
    ready: list[bool] = []
    warm = asyncio.Event()

    async def act(event: Event, context: Context, call_next: CallNext) -> None:
        handled.set()

    async def fails() -> None:
        ready.append(house.host.health.ready()[0])
        raise RuntimeError("no such thing")

    async def waits() -> None:
        seen.set()
        await go.wait()
        ready.append(house.host.health.ready()[0])
        go.clear()

    house = House(act, warm_ups=(fails, waits))
    house.host.when_warm(warm.set)
    await house.client.open()
    await house.host.start()
    async with asyncio.timeout(60):
        await seen.wait()
        await house.client.publish(envelope(type="test.ping"))
        await handled.wait()
        assert not warm.is_set()
        go.set()
        await warm.wait()
    assert not go.is_set()
    assert ready == [True, True]
    await house.host.close()
    await house.client.close()


async def test_a_host_that_drains_does_not_wait_for_what_is_being_made_ready() -> None:
    seen, ended = asyncio.Event(), asyncio.Event()

    async def act(event: Event, context: Context, call_next: CallNext) -> None: ...

    async def never() -> None:
        seen.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    house = House(act, warm_ups=(never,))
    await house.host.start()
    async with asyncio.timeout(60):
        await seen.wait()
        await house.host.drain()
    assert ended.is_set()
    await house.host.close()
