"""The engine and what it cannot send, cannot read, or must keep apart."""

from __future__ import annotations

import json

import pytest
from machines.counting import Add, Counting
from machines.stage import CONVERSATION, TIMEOUT, agent, calls, says
from machines.test_engine import STREAM, arrival, durable

from rockbot.errors import NewerRelease
from rockbot.events import AgentTask
from rockbot.machines.engine import Engine
from rockbot.machines.turn import TurnMachine, return_token
from rockbot.state.keys import conversation_key
from rockbot.state.ports import Append, StateStore
from rockbot_messaging.envelope import ReturnAddress
from rockbot_messaging.errors import BodyTooLarge
from rockbot_messaging.packing import unpack
from rockbot_messaging.testing import FakeClock

LIMIT = 500


async def test_a_command_too_large_to_be_sent_is_decided_anew_and_never_stored(
    store: StateStore, clock: FakeClock
) -> None:
    engine = Engine(Counting(), store, body_limit=LIMIT)
    large = Add(amount=5, note="x" * LIMIT)
    context = arrival(large, "m1", clock)
    assert await engine.step(STREAM, large, context)
    assert await engine.state(STREAM) == ((0, 1), 1), "the first decision left something behind"
    (total,) = durable(context)
    assert b"-1" in total.envelope.body
    loaded = await store.load(STREAM, handled="m1")
    assert [unpack(row.message).topic for row in loaded.unanswered] == ["t.t"]


async def test_a_body_of_exactly_the_limit_leaves(store: StateStore, clock: FakeClock) -> None:
    event = Add(amount=5, note="x")
    size = len(event.to_body())
    for limit, topics in ((size, ["test.desk", "test.total"]), (size - 1, ["t.t"])):
        context = arrival(event, f"m{limit}", clock)
        await Engine(Counting(), store, body_limit=limit).step(STREAM, event, context)
        assert [emission.envelope.topic for emission in durable(context)] == topics


async def test_a_machine_that_insists_on_too_large_a_command_stores_nothing(
    store: StateStore, clock: FakeClock
) -> None:
    engine = Engine(Counting(stubborn=True), store, body_limit=LIMIT)
    large = Add(amount=5, note="x" * LIMIT)
    context = arrival(large, "m1", clock)
    with pytest.raises(BodyTooLarge, match=r"'receipt' has a body of 5\d\d bytes, the limit is 500"):
        await engine.step(STREAM, large, context)
    assert await engine.state(STREAM) == ((0, 0), 0)
    assert not context.emissions


async def test_a_timer_that_could_never_be_published_is_refused(store: StateStore, clock: FakeClock) -> None:
    event = Add(amount=5, remind_ms=1)
    with pytest.raises(BodyTooLarge, match="the timer 'reminder'"):
        await Engine(Counting(), store, body_limit=50).step(STREAM, event, arrival(event, "m1", clock))
    assert await Engine(Counting(), store).state(STREAM) == ((0, 0), 0)


async def test_a_signal_too_large_to_be_sent_is_left_out(store: StateStore, clock: FakeClock) -> None:
    event = AgentTask(input="hi")
    machine = TurnMachine(CONVERSATION, agent("add"), default_timeout=TIMEOUT)
    await Engine(machine, store).step(STREAM, event, arrival(event, "m1", clock))
    (call,) = (await store.load(STREAM, handled="m1")).unanswered
    reply = calls("add", text="x" * 1000)
    back = ReturnAddress("agent.step.x", return_token(CONVERSATION, call.id))
    context = arrival(reply, "m2", clock, return_address=back)
    await Engine(machine, store, body_limit=600).step(STREAM, reply, context)
    assert all(len(emission.envelope.body) <= 600 for emission in context.emissions)
    assert [emission.envelope.topic for emission in durable(context)] == ["tool.invoke.desk"]
    assert len(context.emissions) == 2, "the call is still told, the text is not"


async def test_equal_messages_of_two_tenants_keep_their_commands_apart(store: StateStore, clock: FakeClock) -> None:
    event = AgentTask(input="hi")
    streams = {tenant: conversation_key(tenant, CONVERSATION) for tenant in ("default", "acme", "umbrella")}
    for tenant, stream in streams.items():
        machine = TurnMachine(CONVERSATION, agent(), default_timeout=TIMEOUT)
        await Engine(machine, store).step(stream, event, arrival(event, "same", clock, tenant=tenant))
    rows = {tenant: (await store.load(stream, handled="same")).unanswered for tenant, stream in streams.items()}
    for tenant, (row,) in rows.items():
        assert unpack(row.message).tenant == tenant
    assert len({row.id for (row,) in rows.values()}) == 3
    timers = await store.due(before_ms=2**60, limit=10)
    assert sorted(unpack(timer.payload).tenant for timer in timers) == ["acme", "default", "umbrella"]
    # One tenant's answer closes its own row only.
    (row,) = rows["acme"]
    reply = says("done")
    back = ReturnAddress("agent.step.x", return_token(CONVERSATION, row.id))
    machine = TurnMachine(CONVERSATION, agent(), default_timeout=TIMEOUT)
    await Engine(machine, store).step(
        streams["acme"], reply, arrival(reply, "reply", clock, tenant="acme", return_address=back)
    )
    assert len((await store.load(streams["default"], handled="same")).unanswered) == 1
    assert not (await store.load(streams["acme"], handled="same")).unanswered


@pytest.mark.parametrize("where", ["record", "snapshot"])
async def test_what_a_newer_release_has_stored_is_left_as_it_is(
    store: StateStore, clock: FakeClock, where: str
) -> None:
    newer = json.dumps({"kind": "turn_forked", "turn": {"phase": {"kind": "forked"}}}).encode()
    step = Append(
        stream=STREAM,
        expected_version=0,
        records=(newer,),
        handled="m0",
        snapshot=newer if where == "snapshot" else None,
    )
    await store.append(step)
    machine = TurnMachine(CONVERSATION, agent(), default_timeout=TIMEOUT)
    event = AgentTask(input="hi")
    context = arrival(event, "m1", clock)
    with pytest.raises(NewerRelease, match=where):
        await Engine(machine, store).step(STREAM, event, context)
    assert (await store.load(STREAM)).version == 1
    assert not context.emissions
