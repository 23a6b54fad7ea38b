"""Delivery in the in-memory provider beyond the suite: who is alone after a restart, and who is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.memory import MemoryBroker, MemoryBus, SqliteBusStorage
from rockbot_messaging.retries import Immediate, RetryPolicy
from rockbot_messaging.room import Room
from rockbot_messaging.settlement import Bury, Delay
from rockbot_messaging.subscriptions import WatchSubscription, WorkSubscription
from rockbot_messaging.testing import FakeClock, Recorder
from rockbot_messaging.testing.harness import buried, message
from rockbot_messaging.verdicts import Ack, DeadLetter, Retry, Verdict

_WORK = WorkSubscription(name="work", patterns=("job",), prefetch=3)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0)


class _Observer:
    def __init__(self) -> None:
        self.told: list[tuple[str, Delay | Bury]] = []

    def carried_out(self, subscription: str, outcome: Delay | Bury) -> None:
        self.told.append((subscription, outcome))
        raise RuntimeError("an observer with a bug")


async def test_an_observer_is_told_what_was_carried_out_and_harms_nothing(caplog: pytest.LogCaptureFixture) -> None:
    clock, observer = FakeClock(), _Observer()
    bus = MemoryBus(clock=clock, observer=observer)
    await bus.open()
    plans = {"walks": [Retry(after=1.2)], "dies": [ValueError("at once"), DeadLetter(reason="enough")], "fine": []}
    worker = Recorder(lambda one: next(iter(plans[one.message_id][one.attempt - 1 :]), Ack()))
    work = WorkSubscription(name="work", patterns=("job",), retry=RetryPolicy(backoff=Immediate()))
    await bus.subscriber.subscribe(work, worker)
    await bus.subscriber.subscribe(WatchSubscription(name="news", patterns=("job",)), Recorder(lambda _: Retry()))
    await bus.publisher.publish_many([message("job", message_id=name) for name in plans])
    async with asyncio.timeout(60):
        while worker.finished < 5:
            clock.advance(0.5)
            await asyncio.sleep(0)
    await buried(bus, "work", 1)
    assert [(name, type(one), one.envelope.message_id) for name, one in sorted(observer.told, key=repr)] == [
        ("work", Bury, "dies"),
        ("work", Delay, "dies"),
        ("work", Delay, "walks"),
    ]
    assert "an observer of work failed" in caplog.text
    await bus.close()


async def test_of_what_an_earlier_process_left_only_as_much_as_it_can_have_held_is_handled_alone(
    tmp_path: Path,
) -> None:
    before = MemoryBus(storage=SqliteBusStorage(tmp_path / "state.db"))
    await before.open()
    await before.declare([_WORK])
    await before.publisher.publish_many([message("job") for _ in range(9)])
    await before.close()
    bus = MemoryBus(storage=SqliteBusStorage(tmp_path / "state.db"))
    await bus.open()
    running = 0
    beside: list[int] = []

    async def handle(envelope: MessageEnvelope) -> Verdict:
        nonlocal running
        assert envelope.redelivered
        running += 1
        for _ in range(20):
            await asyncio.sleep(0)
        beside.append(running)
        running -= 1
        return Ack()

    await bus.subscriber.subscribe(_WORK, handle)
    await _until(lambda: len(beside) == 9)
    assert beside[:3] == [1, 1, 1]
    assert max(beside[3:]) == 3
    await bus.close()


async def test_an_immediate_retry_survives_a_restart_with_its_count(tmp_path: Path) -> None:
    bus = MemoryBus(storage=SqliteBusStorage(tmp_path / "state.db"))
    await bus.open()
    held = asyncio.Event()
    seen: list[MessageEnvelope] = []

    async def handle(envelope: MessageEnvelope) -> Verdict:
        seen.append(envelope)
        if envelope.attempt == 3:
            held.set()
            await asyncio.Event().wait()
        return Retry(after=0, reason="again")

    await bus.subscriber.subscribe(_WORK, handle)
    await bus.publisher.publish(message("job"))
    async with asyncio.timeout(60):
        await held.wait()
    await bus.kill()
    later = MemoryBus(storage=SqliteBusStorage(tmp_path / "state.db"))
    await later.open()
    heir = Recorder()
    await later.subscriber.subscribe(_WORK, heir)
    (again,) = await heir.wait_for(1)
    assert (again.attempt, again.first_failed_ms, len(again.history)) == (3, seen[2].first_failed_ms, 2)
    await later.close()


async def test_a_history_of_retries_does_not_make_headers_too_large() -> None:
    bus = MemoryBus(broker=MemoryBroker(), max_header_bytes=4096)
    await bus.open()
    worker = Recorder(lambda one: Ack() if one.attempt == 5 else ValueError("ü" * 1000))
    work = WorkSubscription(name="work", patterns=("job",), retry=RetryPolicy(max_attempts=9, backoff=Immediate()))
    await bus.subscriber.subscribe(work, worker)
    await bus.publisher.publish(message("job", headers={"large": "x" * 3700}))
    await worker.wait_finished(5)
    await bus.close()


def test_there_is_room_for_so_many_or_for_one_that_is_alone() -> None:
    room = Room(2)
    assert room.has_place(True) and room.has_place(False)
    assert room.admit(False)
    assert not room.has_place(True) and not room.admit(True)
    assert room.admit(False)
    assert not room.has_place(False) and not room.admit(False)
    room.leave()
    room.leave()
    assert room.admit(True)
    assert not room.has_place(False) and not room.admit(False) and not room.admit(True)
    room.leave()
    assert room.has_place(False) and room.active == 0
