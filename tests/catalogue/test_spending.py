"""Counters of what was spent: each call once, whoever counts it and however often."""

from __future__ import annotations

import asyncio
import datetime

import pytest

from rockbot.catalogue.spending import Spending, Spent, SpentCall, summed
from rockbot.events import LlmResponse, Message, Usage
from rockbot.state.memory import MemoryStateStore
from rockbot_messaging.testing import FakeClock

DAY = datetime.date(2026, 11, 28)


@pytest.fixture
async def store() -> MemoryStateStore:
    made = MemoryStateStore(FakeClock())
    await made.open()
    return made


def call(number: int, *, agent: str = "assistant", day: datetime.date = DAY, cost: float | None = 0.1) -> SpentCall:
    response = LlmResponse(
        message=Message(role="assistant", parts=()),
        usage=Usage(input_tokens=10, output_tokens=1, cache_read_tokens=5, cache_write_tokens=2),
        cost=cost,
    )
    return SpentCall(f"call-{number}", "default", agent, "a/x", day, response)


async def test_calls_that_end_together_on_two_processes_are_all_counted_and_copies_are_not(
    store: MemoryStateStore,
) -> None:
    processes = Spending(store), Spending(store)
    await asyncio.gather(*(processes[copy].note(call(number)) for number in range(30) for copy in range(2)))
    (row,) = await processes[0].rows("default", since=DAY, until=DAY)
    assert (row.calls, row.input_tokens, row.output_tokens, row.cost, row.unpriced) == (30, 300, 30, 3.0, 0)
    assert (row.cache_read_tokens, row.cache_write_tokens) == (150, 60)
    assert (row.day, row.tenant, row.agent, row.model) == ("2026-11-28", "default", "assistant", "a/x")


async def test_calls_without_a_price_are_counted_apart_and_not_as_free(store: MemoryStateStore) -> None:
    spending = Spending(store)
    await spending.note(call(1))
    await spending.note(call(2, cost=None))
    await spending.note(call(3, cost=0.0))
    (row,) = await spending.rows("default", since=DAY, until=DAY)
    assert (row.calls, row.cost, row.unpriced) == (3, 0.1, 1)


async def test_rows_are_those_of_the_days_and_the_tenant_asked_for(store: MemoryStateStore) -> None:
    spending = Spending(store)
    for number in range(3):
        await spending.note(call(number, day=DAY - datetime.timedelta(days=number), agent=f"a{number}"))
    rows = await spending.rows("default", since=DAY - datetime.timedelta(days=1), until=DAY)
    assert [(row.day, row.agent) for row in rows] == [("2026-11-27", "a1"), ("2026-11-28", "a0")]
    assert await spending.rows("other", since=DAY, until=DAY) == []


def test_rows_are_summed_by_what_is_asked_for() -> None:
    rows = [
        Spent(day=day, agent=agent, model="m", calls=1, cost=0.1, unpriced=int(agent == "b"))
        for day in ("1", "2")
        for agent in ("b", "a")
    ]
    assert [(row.agent, row.day, row.calls, row.cost, row.unpriced) for row in summed(rows, ["agent"])] == [
        ("a", "", 2, 0.2, 0),
        ("b", "", 2, 0.2, 2),
    ]
    assert [row.calls for row in summed(rows, [])] == [4]
