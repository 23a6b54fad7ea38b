"""Poison: who was begun three times and never ended is buried, and what lay beside it is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from messaging.waiting import settle, start

from rockbot.state.marks import StateStartMarks
from rockbot.state.memory import MemoryStateStore
from rockbot.state.ports import StateUnavailable
from rockbot.state.sqlite import SqliteStateStore
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.measures import Counters, Names
from rockbot_messaging.regulation import Regulation, StartMarks, poison
from rockbot_messaging.subscriptions import WorkSubscription
from rockbot_messaging.testing import FakeClock
from rockbot_messaging.verdicts import Ack, DeadLetter, Retry, Verdict


class Killed(BaseException):
    """The process dies here: nothing after it runs, not even what would tidy up."""


class Mortal:
    """Marks as a process leaves them behind: after its death nothing is written any more."""

    def __init__(self, marks: StartMarks) -> None:
        self._marks = marks
        self.dead = False
        self.asked = 0

    async def begun(self, subscription: str, message_id: str, *, tenant: str) -> int:
        self.asked += 1
        return await self._marks.begun(subscription, message_id, tenant=tenant)

    async def begin(self, subscription: str, message_id: str, *, tenant: str) -> int:
        return await self._marks.begin(subscription, message_id, tenant=tenant)

    async def end(self, subscription: str, message_id: str, *, tenant: str) -> None:
        if not self.dead:
            await self._marks.end(subscription, message_id, tenant=tenant)


class Bench:
    """One process after another, over one store. Messages named ``kill...`` end their process."""

    def __init__(self, store: MemoryStateStore | SqliteStateStore) -> None:
        self.clock = FakeClock()
        self.marks = StateStartMarks(store)
        self.measures = Counters()
        self.handled: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.begin_process()

    def begin_process(self) -> None:
        self.process = Mortal(self.marks)
        regulation = Regulation(clock=self.clock, measures=self.measures, marks=self.process)
        self.handle = regulation.around(WorkSubscription(name="work", patterns=("t",)), self._handle)
        self.elsewhere = regulation.around(WorkSubscription(name="other", patterns=("t",)), self._handle)

    async def _handle(self, envelope: MessageEnvelope) -> Verdict:
        if envelope.message_id.startswith("kill"):
            self.process.dead = True
            raise Killed
        self.handled.append(envelope.message_id)
        await self.gate.wait()
        if envelope.message_id.startswith("fails"):
            raise KeyError("x")
        return Ack()

    async def deliver(self, name: str, **fields: object) -> Verdict | None:
        """Its verdict; None when the process died, and another one has taken its place."""
        try:
            return await self.handle(_envelope(name, **fields))
        except Killed:
            self.begin_process()
            return None

    async def begun(self, name: str, subscription: str = "work") -> int:
        return await self.marks.begun(subscription, name, tenant="default")


def _envelope(name: str, **fields: object) -> MessageEnvelope:
    return MessageEnvelope(topic="t", body=b"", message_id=name, type="", **fields)  # type: ignore[arg-type]


@pytest.fixture(params=["memory", "sqlite"])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    clock = FakeClock()
    store = MemoryStateStore(clock) if request.param == "memory" else SqliteStateStore(tmp_path / "s.db", clock)
    await store.open()
    yield Bench(store)
    await store.close()


async def test_first_deliveries_cost_no_access_to_the_store(bench: Bench) -> None:
    for number in range(5):
        assert await bench.deliver(str(number)) == Ack()
    assert bench.process.asked == 0


async def test_a_message_that_kills_three_times_under_its_mark_is_a_dead_letter(bench: Bench) -> None:
    assert await bench.deliver("kill") is None
    for count in range(3):
        assert await bench.begun("kill") == count
        assert await bench.deliver("kill", redelivered=True, returns=count + 1) is None
    verdict = await bench.deliver("kill", redelivered=True, returns=4)
    assert isinstance(verdict, DeadLetter)
    assert verdict.reason == ("handling was begun 3 times and every time the process died; it may be what kills them")
    assert bench.measures.value(Names.POISONED, subscription="work") == 1
    assert bench.measures.value(Names.SETTLED, subscription="work", outcome="dead_letter") == 1


async def test_a_letter_of_a_killer_that_is_sent_on_has_its_three_starts_again(bench: Bench) -> None:
    for _ in range(3):
        await bench.deliver("kill", redelivered=True)
    assert isinstance(await bench.deliver("kill", redelivered=True), DeadLetter)
    assert await bench.begun("kill") == 0
    assert await bench.deliver("kill", redelivered=True) is None


@pytest.mark.parametrize("name", ["fine", "fails"])
async def test_what_comes_to_an_end_leaves_no_mark(bench: Bench, name: str) -> None:
    for _ in range(10):
        verdict = await bench.deliver(name, redelivered=True, returns=1)
        assert verdict == Ack() or isinstance(verdict, Retry)
        assert await bench.begun(name) == 0
    assert len(bench.handled) == 10


async def test_cancelling_is_an_end_and_not_a_death(bench: Bench) -> None:
    bench.gate.clear()
    for _ in range(5):
        task = start(bench.handle(_envelope("slow", redelivered=True)))
        async with asyncio.timeout(60):
            while await bench.begun("slow") != 1:
                await asyncio.sleep(0)
            while not bench.handled:
                await asyncio.sleep(0)
        bench.handled.clear()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await bench.begun("slow") == 0


async def test_what_came_back_often_and_was_never_begun_goes_back_as_a_fresh_copy(bench: Bench) -> None:
    assert await bench.deliver("innocent", redelivered=True, returns=9) == Ack()
    verdict = await bench.deliver("innocent", redelivered=True, returns=10)
    assert isinstance(verdict, Retry)
    assert (verdict.counted, verdict.after) == (False, 1.0)
    assert "came back 10 times because processes that held it died" in verdict.reason
    assert bench.handled == ["innocent"]


async def test_what_is_being_found_out_is_not_sent_back_on_its_last_returns(bench: Bench) -> None:
    for returns in (9, 10, 11):
        assert await bench.deliver("kill", redelivered=True, returns=returns) is None
    assert isinstance(await bench.deliver("kill", redelivered=True, returns=12), DeadLetter)


async def test_no_message_ever_reaches_the_brokers_limit_unless_it_is_found_out(bench: Bench) -> None:
    for begun in range(3):
        await bench.marks.begin("work", "kill", tenant="default") if begun else None
        verdict = await bench.deliver("kill", redelivered=True, returns=16)
        assert isinstance(verdict, Retry), f"begun {begun} times, and one more return could bury it"


async def test_of_messages_begun_before_a_process_handles_one_at_a_time_over_all_subscriptions(bench: Bench) -> None:
    for subscription, name in (("work", "a"), ("other", "b")):
        await bench.marks.begin(subscription, name, tenant="default")
    bench.gate.clear()
    first = start(bench.handle(_envelope("a", redelivered=True)))
    async with asyncio.timeout(60):
        while bench.handled != ["a"]:
            await asyncio.sleep(0)
        second = start(bench.elsewhere(_envelope("b", redelivered=True)))
        third = start(bench.elsewhere(_envelope("c", redelivered=True)))
        while bench.handled != ["a", "c"]:
            await asyncio.sleep(0)
        await settle()
        assert bench.handled == ["a", "c"], "two suspects at the same time"
        assert await bench.begun("b", "other") == 1, "what only waits must not be marked as begun again"
        bench.gate.set()
        assert list(await asyncio.gather(first, second, third)) == [Ack()] * 3


async def test_without_a_store_for_the_mark_it_is_handed_back(bench: Bench) -> None:
    class Away:
        async def begun(self, subscription: str, message_id: str, *, tenant: str) -> int:
            raise StateUnavailable("the disk is full")

        begin = begun

        async def end(self, subscription: str, message_id: str, *, tenant: str) -> None:
            raise StateUnavailable("the disk is full")

    bench.process = Mortal(Away())
    regulation = Regulation(clock=bench.clock, marks=bench.process)
    handle = regulation.around(WorkSubscription(name="work", patterns=("t",)), bench._handle)
    verdict = await handle(_envelope("a", redelivered=True))
    assert isinstance(verdict, Retry)
    assert not verdict.counted
    assert "the disk is full" in verdict.reason
    assert await handle(_envelope("a")) == Ack()


@pytest.mark.parametrize("message_id", ["", "\ud800"])
async def test_an_id_that_no_store_can_hold_is_the_handlers_to_judge(bench: Bench, message_id: str) -> None:
    assert await bench.deliver(message_id, redelivered=True) == Ack()
    assert bench.handled == [message_id]


async def test_marks_of_tenants_and_subscriptions_are_kept_apart(bench: Bench) -> None:
    for _ in range(2):
        await bench.marks.begin("work", "m", tenant="acme")
    assert await bench.marks.begin("work", "m", tenant="default") == 1
    assert await bench.marks.begin("other", "m", tenant="acme") == 1
    assert await bench.marks.begin("work", "m", tenant="acme") == 3


async def test_a_mark_vanishes_by_itself() -> None:
    clock = FakeClock()
    store = MemoryStateStore(clock)
    await store.open()
    marks = StateStartMarks(store, keep_seconds=60)
    await marks.begin("work", "m", tenant="default")
    clock.advance(59)
    assert await marks.begin("work", "m", tenant="default") == 2
    clock.advance(59)
    assert await marks.begun("work", "m", tenant="default") == 2
    clock.advance(2)
    assert await marks.begun("work", "m", tenant="default") == 0


async def test_a_suspect_does_not_wait_for_another_one_until_the_broker_takes_it_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(poison, "_SUSPECT_WAIT", 0.05)
    store = MemoryStateStore(FakeClock())
    await store.open()
    bench = Bench(store)
    for name in ("one", "two"):
        await bench.marks.begin("work", name, tenant="default")
    bench.gate.clear()
    one, two = (
        MessageEnvelope(topic="t", body=b"", message_id=name, type="", redelivered=True, returns=1)
        for name in ("one", "two")
    )
    first = start(bench.handle(one))
    await settle()
    verdict = await bench.handle(two)
    assert isinstance(verdict, Retry)
    assert not verdict.counted
    assert await bench.marks.begun("work", "two", tenant="default") == 1, "it was not begun"
    bench.gate.set()
    assert await first == Ack()
    assert await bench.handle(two) == Ack()
