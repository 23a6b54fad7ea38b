"""History is asked by tenant, agent, status, conversation and time; it says what turns wrote with their steps."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from history.stored import Talk

from rockbot.history import History, TaskFilter
from rockbot.state.keys import task_key, task_time_key, tasks_by_time, time_order
from rockbot.state.memory import MemoryStateStore
from rockbot_messaging.testing import FakeClock


@pytest.fixture
async def store() -> AsyncIterator[MemoryStateStore]:
    store = MemoryStateStore(FakeClock())
    await store.open()
    yield store
    await store.close()


async def ids(store: MemoryStateStore, *, limit: int = 50, **which: Any) -> list[str]:
    """All pages of what fits."""
    history, found, after = History(store), [], None
    while True:
        page = await history.find(TaskFilter(**which), limit=limit, after=after)
        assert len(page.tasks) <= limit
        found += [row.task_id for row in page.tasks]
        if (after := page.next) is None:
            return found


async def test_a_task_that_ended_says_when_how_and_what_it_used(store: MemoryStateStore) -> None:
    talk = Talk(store)
    accepted = talk.play.clock.now_ms()
    await talk.task("t1", "What is 6 times 7?", user="ann")
    row = await History(store).row("default", "t1")
    assert row is not None
    assert (row.status, row.ended, row.accepted_ms, row.at_ms, row.model_calls) == (
        "accepted",
        False,
        accepted,
        accepted,
        0,
    )
    await talk.use_tool()
    await talk.reply("It is 42.", cost=0.25)
    task = await History(store).task("default", "t1")
    assert task is not None
    assert (task.task_id, task.conversation_id, task.agent, task.user) == ("t1", "c1", "assistant", "ann")
    assert (task.status, task.ended, task.at_ms - task.accepted_ms) == ("completed", True, 2000)
    assert (task.model_calls, task.tool_calls, task.input_tokens, task.output_tokens) == (2, 1, 23, 10)
    assert (task.input, task.output, task.error) == ("What is 6 times 7?", "It is 42.", None)
    [listed] = (await History(store).find(TaskFilter())).tasks
    assert listed == await History(store).row("default", "t1")


async def test_what_a_turn_cost_is_in_its_row_when_it_is_known(store: MemoryStateStore) -> None:
    talk = Talk(store)
    await talk.task("t1")
    await talk.reply(cost=0.25)
    row = await History(store).row("default", "t1")
    assert row is not None
    assert row.cost == 0.25


async def test_tasks_are_listed_latest_first_in_pages_of_any_size(store: MemoryStateStore) -> None:
    for number in range(7):
        talk = Talk(store, f"c{number}")
        await talk.task(f"t{number}", at_ms=1_800_000_000_000 + 1000 * (number // 2))
    expected = ["t6", "t4", "t5", "t2", "t3", "t0", "t1"]
    for limit in (1, 2, 3, 7, 50):
        assert await ids(store, limit=limit) == expected


async def test_filters_fit_together(store: MemoryStateStore) -> None:
    one, two = Talk(store, "one"), Talk(store, "two/ü")
    await one.task("t1", user="ann")
    await one.reply()
    await one.task("t2", user="bob")
    await two.task("t3", user="ann")
    assert set(await ids(store, user="ann")) == {"t1", "t3"}
    assert await ids(store, user="ann", status="open") == ["t3"]
    assert await ids(store, status="completed") == ["t1"]
    assert await ids(store, status="ended") == ["t1"]
    assert set(await ids(store, status="accepted")) == {"t2", "t3"}
    assert await ids(store, conversation="one") == ["t2", "t1"]
    assert await ids(store, conversation="two/ü", limit=1) == ["t3"]
    assert await ids(store, conversation="one", status="open") == ["t2"]
    assert await ids(store, conversation="none") == []
    assert set(await ids(store, agent="assistant")) == {"t1", "t2", "t3"}
    assert await ids(store, agent="other") == []


async def test_instants_bound_the_acceptance(store: MemoryStateStore) -> None:
    begin = 1_800_000_000_000
    for number in range(5):
        await Talk(store, f"c{number}").task(f"t{number}", at_ms=begin + number)
    assert await ids(store, since_ms=begin + 3) == ["t4", "t3"]
    assert await ids(store, before_ms=begin + 2) == ["t1", "t0"]
    assert await ids(store, since_ms=begin + 1, before_ms=begin + 3, limit=1) == ["t2", "t1"]


async def test_tenants_do_not_see_each_others_tasks(store: MemoryStateStore) -> None:
    await Talk(store, tenant="acme").task("t1")
    assert await ids(store) == []
    assert await ids(store, tenant="acme") == ["t1"]
    assert await History(store).task("default", "t1") is None
    assert await History(store).task("acme", "t1") is not None


async def test_a_filter_that_fits_nothing_looks_at_a_bounded_number_of_rows(store: MemoryStateStore) -> None:
    for number in range(6000):
        await store.put(task_time_key("default", number, f"t{number}"), b'{"conversation_id": "c", "agent": "a"}')
    page = await History(store).find(TaskFilter(agent="none"))
    assert page.tasks == ()
    assert page.next is not None
    assert (await History(store).find(TaskFilter(agent="none"), after=page.next)).next is None


async def test_rows_that_cannot_be_read_are_passed_over(store: MemoryStateStore) -> None:
    await store.put(task_time_key("default", 1, "bad"), b"[]")
    await store.put(task_time_key("default", 2, "good"), b'{"conversation_id": "c", "colour": "red"}')
    await store.put(task_key("default", "bad"), b"?")
    assert await ids(store) == ["good"]
    assert await History(store).row("default", "bad") is None


def test_later_instants_come_first_in_key_order() -> None:
    instants = [0, 1, 999, 1_800_000_000_000, 9_999_999_999_998]
    assert sorted(map(time_order, instants)) == [time_order(at) for at in reversed(instants)]
    assert task_time_key("t", 5, "x").startswith(tasks_by_time("t"))
