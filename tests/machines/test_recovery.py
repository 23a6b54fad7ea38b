"""What happens although nobody sends a message: open commands go out again, timers fall due."""

from __future__ import annotations

import asyncio
import logging
from itertools import pairwise

import pytest
from core.desk import Desk
from machines.counting import Add, Counting
from machines.test_engine import STREAM, arrival, durable

from rockbot.events import TimerDue
from rockbot.machines.engine import Engine
from rockbot.machines.recovery import OutboxRecovery, TimerSweeper, repeat
from rockbot.outgoing import Outgoing
from rockbot.state.keys import key
from rockbot.state.ports import Append, OutboxRow, StateStore, StateUnavailable, Timer
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.errors import BrokerUnreachable, Unroutable
from rockbot_messaging.packing import pack, unpack
from rockbot_messaging.testing import FakeClock

IDLE = 30.0


def outgoing(desk: Desk, clock: FakeClock) -> Outgoing:
    return Outgoing(desk, clock=clock, source="test")


def recovery(store: StateStore, desk: Desk, clock: FakeClock, owner: str = "a") -> OutboxRecovery:
    return OutboxRecovery(store, outgoing(desk, clock), owner=owner, idle=IDLE)


def sweeper(store: StateStore, desk: Desk, clock: FakeClock, owner: str = "a") -> TimerSweeper:
    return TimerSweeper(store, outgoing(desk, clock), owner=owner)


def message(id: str, topic: str = "test.timer") -> MessageEnvelope:
    event = TimerDue(timer_id=id, purpose="test", due_ms=0)
    return MessageEnvelope(topic=topic, body=event.to_body(), message_id=id, type=event.type_name)


async def set_timers(store: StateStore, *timers: tuple[str, int], stream: str = "s") -> None:
    loaded = await store.load(key("default", "test", stream))
    await store.append(
        Append(
            stream=key("default", "test", stream),
            expected_version=loaded.version,
            records=(b"1",),
            handled=f"set{loaded.version}",
            timers=tuple(Timer(name, due, pack(message(f"{name}@{due}", f"test.{name}"))) for name, due in timers),
        )
    )


async def add(store: StateStore, clock: FakeClock, number: int = 0) -> list[str]:
    context = arrival(Add(amount=1), f"m{number}", clock)
    await Engine(Counting(), store).step(STREAM, Add(amount=1), context)
    return [emission.envelope.message_id for emission in durable(context)]


# -- outbox


async def test_commands_younger_than_the_idle_time_are_left_alone(store: StateStore, clock: FakeClock) -> None:
    desk = Desk()
    ids = await add(store, clock)
    clock.advance(IDLE - 1)
    assert await recovery(store, desk, clock).run_once() == 0
    clock.advance(1)
    assert await recovery(store, desk, clock).run_once() == 2
    assert desk.ids == ids


async def test_what_awaits_no_answer_is_done_once_sent_and_the_rest_is_sent_ever_more_rarely(
    store: StateStore, clock: FakeClock
) -> None:
    desk = Desk()
    receipt, _ = await add(store, clock)
    sent_at = []
    for second in range(0, 3600, 10):
        if await recovery(store, desk, clock).run_once():
            sent_at.append(second)
        clock.advance(10)
    waits = [after - before for before, after in pairwise(sent_at)]
    assert waits == sorted(waits)
    assert max(waits) <= 600
    assert desk.ids.count(receipt) == len(sent_at)
    assert len(desk.ids) == len(sent_at) + 1


async def test_two_replicas_share_the_open_commands(store: StateStore, clock: FakeClock) -> None:
    for number in range(30):
        await add(store, clock, number)
    clock.advance(IDLE)
    desks = Desk(), Desk()
    await asyncio.gather(*(recovery(store, desk, clock, str(desk)).run_once() for desk in desks))
    ids = [sent for desk in desks for sent in desk.ids]
    assert len(ids) == len(set(ids)) == 60


async def test_more_rows_than_one_read_are_all_published(store: StateStore, clock: FakeClock) -> None:
    for number in range(60):
        await add(store, clock, number)
    clock.advance(IDLE)
    desk = Desk()
    assert await recovery(store, desk, clock).run_once() == 120


async def test_a_broker_that_is_away_leaves_all_commands_open(store: StateStore, clock: FakeClock) -> None:
    ids = await add(store, clock)
    clock.advance(IDLE)
    away = Desk(lambda _: BrokerUnreachable("away"))
    with pytest.raises(BrokerUnreachable):
        await recovery(store, away, clock).run_once()
    assert away.tried == 1, "the next one would fail as well"
    back = Desk()
    clock.advance(2 * IDLE)  # the claims of the failed round have run out
    await recovery(store, back, clock).run_once()
    assert back.ids == ids


async def test_a_command_that_nobody_takes_holds_up_no_other(store: StateStore, clock: FakeClock) -> None:
    for number in range(3):
        await add(store, clock, number)
    first = await store.load(STREAM, handled="m0")
    bad = first.unanswered[0].id
    clock.advance(IDLE)
    desk = Desk(lambda envelope: Unroutable("test.desk") if envelope.message_id == bad else None)
    assert await recovery(store, desk, clock).run_once() == 5
    assert bad not in desk.ids
    clock.advance(600)
    desk.fails = lambda _: None
    await recovery(store, desk, clock).run_once()
    assert bad in desk.ids, "it was given up"


async def test_what_nobody_receives_and_nobody_waits_for_is_kept_unrouted_once(
    store: StateStore, clock: FakeClock
) -> None:
    _, fact = await add(store, clock)
    desk = Desk(lambda envelope: Unroutable("test.desk") if envelope.message_id == fact else None)
    for _ in range(10):
        clock.advance(600)
        tried = desk.tried
        await recovery(store, desk, clock).run_once()
        assert desk.tried <= tried + 2
    assert desk.tried == len(desk.ids) + 1, "each try would put another copy into the unrouted queue"


async def test_an_unreadable_row_holds_up_no_other(store: StateStore, clock: FakeClock) -> None:
    await store.append(
        Append(
            stream=key("default", "test", "s"),
            expected_version=0,
            records=(b"1",),
            handled="m",
            outbox=(
                OutboxRow(id="bad", cause="m", message=b"?", door="commands", awaits_answer=True),
                OutboxRow(id="good", cause="m", message=pack(message("good")), door="commands"),
            ),
        )
    )
    clock.advance(IDLE)
    desk = Desk()
    assert await recovery(store, desk, clock).run_once() == 1
    assert desk.ids == ["good"]


# -- timers


async def test_timers_fire_once_in_order_and_not_before_their_instant(store: StateStore, clock: FakeClock) -> None:
    now = clock.now_ms()
    await set_timers(store, ("late", now + 2000), ("early", now + 1000))
    desk = Desk()
    fired = []
    for _ in range(4):
        fired.append(await sweeper(store, desk, clock).run_once())
        clock.advance(1)
    assert fired == [0, 1, 1, 0]
    assert desk.topics == ["test.early", "test.late"]


async def test_a_moved_timer_does_not_fire_at_its_old_instant(store: StateStore, clock: FakeClock) -> None:
    now = clock.now_ms()
    await set_timers(store, ("t", now + 1000))
    await set_timers(store, ("t", now + 9000))
    desk = Desk()
    clock.advance(5)
    assert await sweeper(store, desk, clock).run_once() == 0
    clock.advance(4)
    assert await sweeper(store, desk, clock).run_once() == 1
    assert desk.ids == [f"t@{now + 9000}"]


async def test_a_timer_moved_while_it_is_published_stays(store: StateStore, clock: FakeClock) -> None:
    now = clock.now_ms()
    await set_timers(store, ("t", now))
    (timer,) = await store.due(before_ms=now, limit=1)
    await set_timers(store, ("t", now + 1000))
    await store.drop_timers([timer])
    clock.advance(1)
    desk = Desk()
    assert await sweeper(store, desk, clock).run_once() == 1


async def test_a_failing_publisher_leaves_timers_due(store: StateStore, clock: FakeClock) -> None:
    await set_timers(store, ("t", clock.now_ms()))
    with pytest.raises(BrokerUnreachable):
        await sweeper(store, Desk(lambda _: BrokerUnreachable("away")), clock).run_once()
    desk = Desk()
    assert await sweeper(store, desk, clock).run_once() == 1


async def test_a_timer_of_nobody_holds_up_no_other_and_is_not_repeated(store: StateStore, clock: FakeClock) -> None:
    now = clock.now_ms()
    await set_timers(store, *((f"gone{number}", now) for number in range(120)), ("t", now + 1))
    clock.advance(1)
    desk = Desk(lambda envelope: Unroutable(envelope.topic) if "gone" in envelope.topic else None)
    await sweeper(store, desk, clock).run_once()
    assert desk.topics == ["test.t"]
    assert desk.tried == 121
    assert await sweeper(store, desk, clock).run_once() == 0


async def test_one_replica_sweeps_until_it_lets_go(store: StateStore, clock: FakeClock) -> None:
    desk = Desk()
    first, second = sweeper(store, desk, clock, "a"), sweeper(store, desk, clock, "b")
    await first.run_once()
    await set_timers(store, ("t", clock.now_ms()))
    assert await second.run_once() == 0
    await first.release()
    assert await second.run_once() == 1
    await first.release()  # it does not hold the lease any more
    await set_timers(store, ("u", clock.now_ms()))
    assert await first.run_once() == 0
    clock.advance(15)
    assert await first.run_once() == 1


async def test_the_timers_message_is_the_one_that_was_stored(store: StateStore, clock: FakeClock) -> None:
    now = clock.now_ms()
    await set_timers(store, ("t", now))
    desk = Desk()
    await sweeper(store, desk, clock).run_once()
    assert unpack(pack(desk.published[0][1])) == message(f"t@{now}", "test.t")


# -- the loop


async def test_the_loop_survives_failures_foreseen_or_not_and_stops_at_once(caplog: pytest.LogCaptureFixture) -> None:
    stop = asyncio.Event()
    problems = [StateUnavailable("the disk is full"), BrokerUnreachable("away"), KeyError("unforeseen")]
    rounds = 0

    async def act() -> None:
        nonlocal rounds
        rounds += 1
        if problems:
            raise problems.pop(0)
        stop.set()

    with caplog.at_level(logging.WARNING):
        async with asyncio.timeout(60):
            await repeat("the sweep", act, every=0.001, stop=stop)
    assert rounds == 4
    assert [bool(record.exc_info) for record in caplog.records] == [False, False, True]
    assert all("the sweep" in record.getMessage() for record in caplog.records)


async def test_the_loop_does_not_wait_out_its_pause_when_told_to_stop() -> None:
    stop = asyncio.Event()
    acted = asyncio.Event()

    async def act() -> None:
        acted.set()

    loop = asyncio.create_task(repeat("x", act, every=3600, stop=stop))
    async with asyncio.timeout(60):
        await acted.wait()
        stop.set()
        await loop


async def test_the_loop_can_be_cancelled() -> None:
    started = asyncio.Event()

    async def act() -> None:
        started.set()
        await asyncio.Event().wait()

    loop = asyncio.create_task(repeat("x", act, every=1, stop=asyncio.Event()))
    async with asyncio.timeout(60):
        await started.wait()
        loop.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loop
