"""The engine over real stores: crashes at every line, races, copies, snapshots. The machine here is no turn."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from machines.counting import Add, Counting, Receipt
from machines.stage import CONVERSATION, TIMEOUT, agent, calls, result

from rockbot.context import Context, Emission
from rockbot.errors import PermanentFailure
from rockbot.events import AgentTask, Event, LlmRequest
from rockbot.machines.engine import SNAPSHOT_EVERY, Engine
from rockbot.machines.turn import TurnMachine
from rockbot.machines.turn_state import AwaitingModel
from rockbot.state.keys import conversation_key, key
from rockbot.state.ports import Append, StateStore, VersionConflict
from rockbot_messaging.clock import Clock
from rockbot_messaging.envelope import MessageEnvelope, ReturnAddress
from rockbot_messaging.identity import derive_id
from rockbot_messaging.ports import Door
from rockbot_messaging.testing import FakeClock

STREAM = key("default", "count", "s1")


def arrival(event: Event, id: str, clock: Clock, **fields: Any) -> Context:
    envelope = MessageEnvelope(topic="test.add", body=event.to_body(), message_id=id, type=event.type_name, **fields)
    return Context(envelope, clock=clock, source="test")


async def publish(context: Context) -> None:
    """What the dispatcher does once everything was confirmed."""
    for act in context.after_publish:
        await act()


def durable(context: Context) -> list[Emission]:
    return [emission for emission in context.emissions if emission.door is not Door.LOSSY]


async def test_a_step_stores_and_then_emits_its_commands_and_signals(store: StateStore, clock: FakeClock) -> None:
    engine = Engine(Counting(), store)
    context = arrival(Add(amount=5), "m1", clock, deadline_ms=clock.now_ms() + 1, tenant="acme")
    assert await engine.step(STREAM, Add(amount=5), context)
    assert await engine.state(STREAM) == ((5, 1), 1)
    signal, receipt, total = context.emissions
    assert (receipt.envelope.message_id, receipt.door) == (derive_id("m1", "receipt", tenant="acme"), Door.COMMANDS)
    assert (total.envelope.topic, total.door) == ("test.total", Door.PUBLIC)
    assert (signal.envelope.topic, signal.door) == ("test.watched", Door.LOSSY)
    assert receipt.envelope.tenant == "acme"
    assert receipt.envelope.deadline_ms is None
    row = await store.get(key("default", "sum", "s1"))
    assert row is not None
    assert row.value == b"5"


async def test_a_copy_publishes_the_open_commands_again_and_decides_nothing(
    store: StateStore, clock: FakeClock
) -> None:
    engine = Engine(Counting(), store)
    first = arrival(Add(amount=5), "m1", clock)
    await engine.step(STREAM, Add(amount=5), first)
    copy = arrival(Add(amount=5), "m1", clock)
    assert not await engine.step(STREAM, Add(amount=5), copy)
    assert copy.emissions == durable(first)
    await publish(copy)
    again = arrival(Add(amount=5), "m1", clock)
    await engine.step(STREAM, Add(amount=5), again)
    assert [emission.envelope.topic for emission in again.emissions] == ["test.desk"], "only what awaits an answer"
    answer = arrival(Receipt(of=again.emissions[0].envelope.message_id), "m2", clock)
    await engine.step(STREAM, Receipt(of=again.emissions[0].envelope.message_id), answer)
    late = arrival(Add(amount=5), "m1", clock)
    await engine.step(STREAM, Add(amount=5), late)
    assert not late.emissions
    assert await engine.state(STREAM) == ((5, 2), 2)


async def test_a_crash_after_the_append_loses_no_command(store: StateStore, clock: FakeClock) -> None:
    lost = arrival(Add(amount=5), "m1", clock)
    await Engine(Counting(), store).step(STREAM, Add(amount=5), lost)
    clock.advance(1)  # the context is gone with the process; the broker delivers again
    again = arrival(Add(amount=5), "m1", clock)
    await Engine(Counting(), store).step(STREAM, Add(amount=5), again)
    assert again.emissions == durable(lost)


async def test_a_crash_between_publish_and_mark_gives_copies_with_the_same_ids(
    store: StateStore, clock: FakeClock
) -> None:
    published = arrival(Add(amount=5), "m1", clock)
    await Engine(Counting(), store).step(STREAM, Add(amount=5), published)
    again = arrival(Add(amount=5), "m1", clock)
    await Engine(Counting(), store).step(STREAM, Add(amount=5), again)
    ids = [emission.envelope.message_id for emission in durable(published)]
    assert [emission.envelope.message_id for emission in again.emissions] == ids


async def test_a_refused_input_leaves_nothing_behind(store: StateStore, clock: FakeClock) -> None:
    engine = Engine(Counting(), store)
    context = arrival(Add(amount=-1), "m1", clock)
    with pytest.raises(PermanentFailure):
        await engine.step(STREAM, Add(amount=-1), context)
    assert await engine.state(STREAM) == ((0, 0), 0)
    assert not context.emissions
    assert await engine.step(STREAM, Add(amount=1), arrival(Add(amount=1), "m1", clock)), "the id was not remembered"


async def test_twenty_messages_landing_together_all_count_and_none_twice(store: StateStore, clock: FakeClock) -> None:
    async def one(number: int) -> bool:
        event = Add(amount=2**number)
        engine = Engine(Counting(), store, jitter=random.Random(number))
        return await engine.step(STREAM, event, arrival(event, f"m{number}", clock))

    done = await asyncio.gather(*(one(number % 20) for number in range(40)))
    assert sorted(done) == [False] * 20 + [True] * 20
    assert await Engine(Counting(), store).state(STREAM) == ((2**20 - 1, 20), 20)


async def test_twenty_tool_results_landing_together_make_one_model_call(store: StateStore, clock: FakeClock) -> None:
    stream = conversation_key("default", CONVERSATION)

    def engine() -> Engine[Any, Any]:
        return Engine(TurnMachine(CONVERSATION, agent("add"), default_timeout=TIMEOUT), store)

    task = arrival(AgentTask(input="go"), "task", clock)
    await engine().step(stream, AgentTask(input="go"), task)
    back = durable(task)[0].envelope.return_address
    asked = arrival(calls(*["add"] * 20), "reply", clock, return_address=back)
    await engine().step(stream, calls(*["add"] * 20), asked)
    addresses = [emission.envelope.return_address for emission in durable(asked)]
    assert len(addresses) == 20

    async def land(number: int, address: ReturnAddress | None) -> Context:
        context = arrival(result(str(number)), f"result{number}", clock, return_address=address)
        await engine().step(stream, result(str(number)), context)
        return context

    landed = await asyncio.gather(*(land(number, address) for number, address in enumerate(addresses)))
    requests = [item for context in landed for item in durable(context)]
    assert [item.envelope.type for item in requests] == [LlmRequest.type_name]
    texts = [
        part["parts"][0]["text"]
        for part in LlmRequest.model_validate_json(requests[0].envelope.body).messages[-1].model_dump()["parts"]
    ]
    assert texts == [str(number) for number in range(20)]
    state, _ = await engine().state(stream)
    assert isinstance(state.turn.phase, AwaitingModel)


async def test_a_snapshot_is_kept_every_sixteen_records_and_used(store: StateStore, clock: FakeClock) -> None:
    engine = Engine(Counting(), store)
    for number in range(SNAPSHOT_EVERY * 2 + 3):
        before = await store.load(STREAM)
        assert len(before.records) < SNAPSHOT_EVERY
        await engine.step(STREAM, Add(amount=1), arrival(Add(amount=1), f"m{number}", clock))
    loaded = await store.load(STREAM)
    assert loaded.snapshot is not None
    assert (loaded.snapshot.version, len(loaded.records)) == (32, 3)
    assert await engine.state(STREAM) == ((35, 35), 35)
    assert len(await store.read(STREAM)) == 35, "the whole story stays readable"


async def test_steps_of_several_records_are_never_cut_by_a_snapshot(store: StateStore, clock: FakeClock) -> None:
    engine = Engine(Counting(records_per_step=5), store)
    for number in range(10):
        await engine.step(STREAM, Add(amount=1), arrival(Add(amount=1), f"m{number}", clock))
    loaded = await store.load(STREAM)
    assert loaded.snapshot is not None
    assert loaded.snapshot.version == 40
    assert await engine.state(STREAM) == ((10, 50), 50)


async def test_others_who_always_write_first_hand_the_message_back(store: StateStore, clock: FakeClock) -> None:
    rival = Engine(Counting(), store)
    decided = 0

    class Late:
        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        async def append(self, step: Append) -> int:
            nonlocal decided
            decided += 1
            await rival.step(STREAM, Add(amount=1), arrival(Add(amount=1), f"rival{decided}", clock))
            return await store.append(step)

    context = arrival(Add(amount=1000), "slow", clock)
    with pytest.raises(VersionConflict):
        await Engine(Counting(), Late(), jitter=random.Random(1)).step(STREAM, Add(amount=1000), context)  # type: ignore[arg-type]
    assert decided == 20
    assert not context.emissions
    assert await rival.state(STREAM) == ((20, 20), 20)


async def test_a_timer_of_a_step_is_due_at_its_instant_and_keeps_its_return_address(
    store: StateStore, clock: FakeClock
) -> None:
    due = clock.now_ms() + 5000
    event = Add(amount=1, remind_ms=due)
    await Engine(Counting(), store).step(STREAM, event, arrival(event, "m1", clock, deadline_ms=due - 1))
    assert not await store.due(before_ms=due - 1, limit=10)
    (timer,) = await store.due(before_ms=due, limit=10)
    assert timer.id == "reminder"
