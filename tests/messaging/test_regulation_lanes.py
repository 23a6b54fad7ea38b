"""Lanes: shared slots, the most urgent first, and nobody waits for ever."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from messaging.waiting import settle, start

from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.regulation import Regulation
from rockbot_messaging.subscriptions import Lane, WorkSubscription
from rockbot_messaging.testing import FakeClock
from rockbot_messaging.verdicts import Ack, Retry, Verdict

RANKS = {"urgent": 0, "normal": 1, "idle": 2}


class Bench:
    """Three lanes whose handler holds each delivery until it is let go."""

    def __init__(self, slots: int = 1, ageing: float = 30.0) -> None:
        self.clock = FakeClock()
        self.order: list[str] = []
        self.held: dict[str, asyncio.Event] = {}
        self.running = 0
        self.peak = 0
        self.regulation = Regulation(clock=self.clock)
        self.handles = {
            name: self.regulation.around(
                WorkSubscription(
                    name=name,
                    patterns=("t",),
                    lane=Lane(group="calls", rank=rank, slots=slots, ageing=ageing),
                ),
                self._handle,
            )
            for name, rank in RANKS.items()
        }

    async def _handle(self, envelope: MessageEnvelope) -> Verdict:
        name = envelope.message_id
        self.order.append(name)
        self.running += 1
        self.peak = max(self.peak, self.running)
        try:
            await self.held.setdefault(name, asyncio.Event()).wait()
        finally:
            self.running -= 1
        if name.startswith("raises"):
            raise KeyError(name)
        return Ack()

    async def deliver(self, lane: str, name: str) -> asyncio.Task[Verdict]:
        envelope = MessageEnvelope(topic="t", body=b"", message_id=name, type="")
        task = start(self.handles[lane](envelope))
        await settle()
        return task

    async def let_go(self, name: str) -> None:
        self.held[name].set()
        await settle()

    async def all_go(self, tasks: list[Any]) -> list[str]:
        """Let one after another go; the order in which they were begun."""
        done = 0
        while done < len(self.order):
            await self.let_go(self.order[done])
            done += 1
        await asyncio.gather(*tasks)
        return self.order


async def test_the_lanes_of_a_group_share_its_slots() -> None:
    bench = Bench(slots=3)
    tasks = [await bench.deliver(lane, f"{lane}{number}") for number in range(4) for lane in RANKS]
    assert bench.running == 3
    assert len(await bench.all_go(tasks)) == 12
    assert bench.peak == 3


async def test_a_free_slot_goes_to_the_most_urgent_that_waits() -> None:
    bench = Bench()
    tasks = [
        await bench.deliver(*item) for item in (("idle", "first"), ("idle", "i"), ("normal", "n"), ("urgent", "u"))
    ]
    assert await bench.all_go(tasks) == ["first", "u", "n", "i"]


async def test_within_a_lane_the_one_that_came_first_goes_first() -> None:
    bench = Bench()
    tasks = [await bench.deliver("normal", str(number)) for number in range(6)]
    assert await bench.all_go(tasks) == [str(number) for number in range(6)]


async def test_waiting_for_as_long_as_the_ageing_lifts_by_one_rank() -> None:
    bench = Bench(ageing=30)
    tasks = [await bench.deliver("urgent", "holds"), await bench.deliver("idle", "idle")]
    bench.clock.advance(30)
    tasks.append(await bench.deliver("normal", "normal after 30"))
    bench.clock.advance(29.999)
    tasks.append(await bench.deliver("urgent", "urgent before 60"))
    bench.clock.advance(0.002)
    tasks.append(await bench.deliver("urgent", "urgent after 60"))
    assert await bench.all_go(tasks) == ["holds", "urgent before 60", "idle", "normal after 30", "urgent after 60"]


async def test_the_last_lane_is_slow_but_never_starves() -> None:
    bench = Bench(ageing=10)
    tasks = [await bench.deliver("urgent", "0"), await bench.deliver("idle", "idle")]
    for number in range(1, 40):
        tasks.append(await bench.deliver("urgent", str(number)))
        bench.clock.advance(1)
        await bench.let_go(bench.order[-1])
        if "idle" in bench.order:
            break
    assert number == 21
    await bench.all_go(tasks)


async def test_an_idle_group_takes_whatever_comes() -> None:
    bench = Bench(slots=2)
    tasks = [await bench.deliver("idle", "a"), await bench.deliver("idle", "b")]
    assert bench.running == 2
    await bench.all_go(tasks)


async def test_a_handler_that_raises_gives_its_slot_back() -> None:
    bench = Bench()
    tasks = [await bench.deliver("normal", f"raises{number}") for number in range(3)]
    assert len(await bench.all_go(tasks)) == 3


async def test_one_that_is_cancelled_while_it_waits_frees_nothing_it_did_not_have() -> None:
    bench = Bench()
    holding = await bench.deliver("urgent", "holds")
    waiting = await bench.deliver("urgent", "waits")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    other = await bench.deliver("urgent", "other")
    assert bench.running == 1
    assert await bench.all_go([holding, other]) == ["holds", "other"]
    assert bench.peak == 1


async def test_one_that_is_cancelled_when_it_was_just_given_a_slot_gives_it_on() -> None:
    bench = Bench()
    holding = await bench.deliver("urgent", "holds")
    given = await bench.deliver("urgent", "given")
    third = await bench.deliver("urgent", "third")
    bench.held["holds"].set()
    await asyncio.sleep(0)
    assert holding.done()
    assert "given" not in bench.order, "it was given the slot and has run already"
    given.cancel()
    with pytest.raises(asyncio.CancelledError):
        await given
    assert await bench.all_go([third]) == ["holds", "third"]
    assert bench.peak == 1


async def test_one_that_is_cancelled_in_its_slot_frees_it_once() -> None:
    bench = Bench()
    first = await bench.deliver("urgent", "first")
    rest = [await bench.deliver("urgent", str(number)) for number in range(3)]
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await settle()
    assert bench.running == 1
    bench.order.remove("first")
    assert await bench.all_go(rest) == ["0", "1", "2"]
    assert bench.peak == 1


async def test_draining_hands_back_what_waits_and_lets_the_running_end() -> None:
    bench = Bench()
    running = await bench.deliver("urgent", "runs")
    waiting = await bench.deliver("urgent", "waits")
    bench.regulation.drain()
    verdict = await waiting
    assert isinstance(verdict, Retry)
    assert (verdict.counted, verdict.after) == (False, 1.0)
    await bench.let_go("runs")
    assert await running == Ack()
    await bench.let_go("runs")
    late = await bench.deliver("urgent", "late")
    await bench.let_go("late")
    assert await late == Ack(), "a free slot is not waited for"


def test_lanes_that_disagree_about_their_slots_are_refused() -> None:
    regulation = Regulation(clock=FakeClock())

    async def handle(envelope: MessageEnvelope) -> Verdict:
        return Ack()

    def around(group: str, slots: int) -> None:
        lane = Lane(group=group, rank=0, slots=slots)
        regulation.around(WorkSubscription(name="a", patterns=("t",), lane=lane), handle)

    around("calls", 2)
    around("others", 3)
    with pytest.raises(ValueError, match=r"'calls' disagree: 2 or 3 slots"):
        around("calls", 3)
