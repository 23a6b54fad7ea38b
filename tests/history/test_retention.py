"""History is kept for ever unless the settings say otherwise; what has not ended, or ended lately, is never touched."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from history.stored import Talk

from rockbot.history import History, TaskFilter
from rockbot.settings import Settings
from rockbot.state.desk.retention import HistoryRetention, history_loops
from rockbot.state.memory import MemoryStateStore
from rockbot_messaging.testing import FakeClock

DAY = 86_400


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def store(clock: FakeClock) -> AsyncIterator[MemoryStateStore]:
    store = MemoryStateStore(clock)
    await store.open()
    yield store
    await store.close()


async def _talks(store: MemoryStateStore, clock: FakeClock) -> None:
    """Of two tenants: a conversation with an old and a new task, one with old ones only, one whose old task is open."""
    for tenant in ("acme", "acme-2"):
        mixed, old, begun = (Talk(store, name, tenant=tenant) for name in ("mixed", "old", "begun"))
        for talk in (mixed, old, begun):
            await talk.task(f"{talk.stream.rpartition('/')[2]}-1")
        for talk in (mixed, old):
            await talk.reply()
        mixed.play.clock.advance(30 * DAY)
        await mixed.task("mixed-2")
        await mixed.reply()
    clock.advance(31 * DAY)


async def _listed(store: MemoryStateStore, tenant: str = "acme") -> set[str]:
    return {row.task_id for row in (await History(store).find(TaskFilter(tenant=tenant))).tasks}


def retention(store: MemoryStateStore, owner: str = "a", **history: object) -> HistoryRetention:
    settings = Settings.model_validate({"history": history})
    return HistoryRetention(store, settings.history, owner=owner)


def test_nothing_is_removed_unless_the_settings_say_so(store: MemoryStateStore) -> None:
    assert history_loops(store, Settings().history, owner="a") == ()
    assert len(history_loops(store, Settings.model_validate({"history": {"keep_days": 1}}).history, owner="a")) == 1


async def test_tasks_that_ended_long_ago_are_listed_no_more(store: MemoryStateStore, clock: FakeClock) -> None:
    await _talks(store, clock)
    assert await retention(store, keep_days=10).run_once() == 4
    for tenant in ("acme", "acme-2"):
        assert await _listed(store, tenant) == {"mixed-2", "begun-1"}
    page = await History(store).find(TaskFilter(tenant="acme", conversation="mixed"))
    assert [row.task_id for row in page.tasks] == ["mixed-2"]
    assert (await store.census()).counts["stream"] == 6


async def test_conversations_are_forgotten_when_the_last_task_ended_long_ago(
    store: MemoryStateStore, clock: FakeClock
) -> None:
    await _talks(store, clock)
    await retention(store, keep_days=10, conversations=True).run_once()
    assert await _listed(store) == {"mixed-2", "begun-1"}
    streams = {item.stream for item in (await store.dump("stream")).items}  # type: ignore[union-attr]
    assert streams == {f"{tenant}/conversation/{name}" for tenant in ("acme", "acme-2") for name in ("mixed", "begun")}


async def test_one_replica_does_it_and_nothing_is_found_again(store: MemoryStateStore, clock: FakeClock) -> None:
    await _talks(store, clock)
    first, second = retention(store, keep_days=10), retention(store, "b", keep_days=10)
    assert (await first.run_once(), await second.run_once(), await first.run_once()) == (4, 0, 0)
