"""What an operator is told of a store: each thing that can be wrong is a finding, and a healthy store has none."""

from __future__ import annotations

import dataclasses

import pytest

from rockbot.state.contract.stores import step
from rockbot.state.desk.checking import check_store
from rockbot.state.items import Census
from rockbot.state.keys import conversation_key, key
from rockbot.state.memory import MemoryStateStore
from rockbot.state.ports import OutboxRow, Timer
from rockbot_messaging import MessageEnvelope
from rockbot_messaging.packing import pack


@pytest.fixture
async def store(clock):
    store = MemoryStateStore(clock)
    await store.open()
    yield store
    await store.close()


async def found(store, clock):
    return {check.name: check for check in await check_store(store, clock)}


async def _open_row(store, clock):
    envelope = MessageEnvelope(topic="a.b", body=b"", message_id="m", type="", timestamp_ms=clock.now_ms())
    row = OutboxRow(id="m", cause="c", message=pack(envelope), door="commands", awaits_answer=True)
    await store.append(step(conversation_key("acme", "c"), 0, "c", outbox=(row,)))


async def test_an_empty_store_has_only_its_own_doubts(store, clock):
    checks = await found(store, clock)
    assert {name for name, check in checks.items() if check.status != "ok"} == {"durability"}
    assert "ends with its process" in checks["durability"].detail


async def test_a_store_that_keeps_everything_is_no_finding(store, clock):
    class Durable:
        def __getattr__(self, name):
            return getattr(store, name)

        async def census(self) -> Census:
            return dataclasses.replace(await store.census(), doubts=())

    assert {check.status for check in (await found(Durable(), clock)).values()} == {"ok"}


async def test_rows_that_are_open_for_long_are_a_finding_by_the_age_of_their_message(store, clock):
    await _open_row(store, clock)
    assert (await found(store, clock))["outbox"].status == "ok"
    clock.advance(900)
    await store.mark_sent(["m"])  # touched now, and made long ago
    clock.advance(1)
    check = (await found(store, clock))["outbox"]
    assert (check.status, check.detail) == ("warn", "1 open rows, the oldest of 901 s ago")


async def test_claims_that_ran_out_are_a_finding(store, clock):
    await _open_row(store, clock)
    clock.advance(40)
    await store.claim_outbox(owner="dead", idle=30, claim=60, limit=1)
    assert (await found(store, clock))["claims"].status == "ok"
    clock.advance(60)
    assert (await found(store, clock))["claims"].status == "warn"


async def test_timers_that_nobody_publishes_are_a_finding(store, clock):
    timer = Timer(key("acme", "timer", "c", "t"), clock.now_ms() + 1000, b"")
    given = dataclasses.replace(step(conversation_key("acme", "c"), 0, "c"), timers=(timer,))
    await store.append(given)
    assert (await found(store, clock))["timers"].detail == "1 timers, 0 of them due"
    clock.advance(61)
    assert (await found(store, clock))["timers"].status == "ok"
    clock.advance(1)
    assert (await found(store, clock))["timers"].status == "warn"


@pytest.mark.parametrize(("by", "status", "says"), [(1.9, "ok", ""), (5, "warn", "ahead"), (-5, "warn", "behind")])
async def test_a_clock_that_differs_is_a_finding(store, clock, by, status, says):
    class Elsewhere:
        def __getattr__(self, name):
            return getattr(store, name)

        async def now_ms(self):
            return clock.now_ms() + round(by * 1000)

    check = (await found(Elsewhere(), clock))["clock"]
    assert check.status == status
    assert says in check.detail
