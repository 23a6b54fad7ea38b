"""Snapshots in the store: fetched when a turn needs one, removed when nobody does."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from rockbot.agents.snapshots import Snapshots
from rockbot.errors import PermanentFailure
from rockbot.machines.agent_snapshot import AgentSnapshot, StoredSnapshot
from rockbot.state.keys import agent_snapshot_key, agent_use_key
from rockbot.state.memory import MemoryStateStore
from rockbot_messaging.testing import FakeClock

WEEK = 7 * 86_400


def agent(instructions: str) -> AgentSnapshot:
    return AgentSnapshot(
        name="helper",
        model="scripted/demo",
        instructions=instructions,
        tools=(),
        max_model_calls=1,
        max_output_tokens=1,
    )


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def store(clock: FakeClock) -> AsyncIterator[MemoryStateStore]:
    made = MemoryStateStore(clock)
    await made.open()
    yield made
    await made.close()


async def keep(store: MemoryStateStore, snapshot: AgentSnapshot) -> None:
    row = StoredSnapshot(stored_ms=await store.now_ms(), agent=snapshot)
    await store.put(agent_snapshot_key(snapshot.digest), row.model_dump_json().encode())


async def use(store: MemoryStateStore, snapshot: AgentSnapshot, task: str) -> None:
    at = agent_use_key(snapshot.name, snapshot.digest, "default", task)
    await store.put(at, str(await store.now_ms()).encode())


async def test_a_snapshot_is_fetched_by_the_name_it_has_in_the_journal(
    store: MemoryStateStore, clock: FakeClock
) -> None:
    await keep(store, agent("a"))
    snapshots = Snapshots(store, clock, owner="me")
    await snapshots.fetch(agent("a").ref)
    assert dict(snapshots.known) == {agent("a").digest: agent("a")}


async def test_a_snapshot_that_is_gone_cannot_be_made_up(store: MemoryStateStore, clock: FakeClock) -> None:
    with pytest.raises(PermanentFailure, match="'helper' that this turn began with is not in the state store"):
        await Snapshots(store, clock, owner="me").fetch(agent("a").ref)


async def test_what_was_written_is_trusted_for_an_hour(store: MemoryStateStore, clock: FakeClock) -> None:
    snapshots = Snapshots(store, clock, owner="me")
    assert not snapshots.is_stored(agent("a"))
    snapshots.note_stored(agent("a"))
    clock.advance(1800)
    snapshots.note_stored(agent("a"))
    assert snapshots.is_stored(agent("a"))
    clock.advance(1801)
    assert not snapshots.is_stored(agent("a")), "noting again did not write it again"


async def test_the_sweep_removes_what_is_old_and_unused(store: MemoryStateStore, clock: FakeClock) -> None:
    for text in ("used", "unused"):
        await keep(store, agent(text))
    await use(store, agent("used"), "t1")
    clock.advance(WEEK + 1)
    await keep(store, agent("young"))
    snapshots = Snapshots(store, clock, owner="me")
    assert await snapshots.users() == {"helper"}
    assert await snapshots.sweep() == 1
    left = [
        text
        for text in ("used", "unused", "young")
        if await store.get(agent_snapshot_key(agent(text).digest)) is not None
    ]
    assert left == ["used", "young"]


async def test_one_replica_sweeps(store: MemoryStateStore, clock: FakeClock) -> None:
    await keep(store, agent("a"))
    clock.advance(WEEK + 1)
    assert await Snapshots(store, clock, owner="another").sweep() == 1
    await keep(store, agent("b"))
    assert await Snapshots(store, clock, owner="me").sweep() == 0


async def test_the_use_of_a_task_that_nothing_ends_any_more_counts_no_longer(
    store: MemoryStateStore, clock: FakeClock
) -> None:
    await keep(store, agent("a"))
    await use(store, agent("a"), "t1")
    clock.advance(61 * 86_400)
    assert await Snapshots(store, clock, owner="me").sweep() == 1
