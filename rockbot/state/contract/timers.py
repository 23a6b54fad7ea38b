"""Timers: set, moved, canceled, due, dropped."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rockbot.state.contract.stores import StoreCases, step
from rockbot.state.keys import conversation_key
from rockbot.state.ports import StateStore, Timer

__all__ = ["TimerCases"]

_S = conversation_key("acme", "talk")


async def _set(store: StateStore, *timers: Timer, canceled: tuple[str, ...] = ()) -> None:
    version = (await store.load(_S)).version
    await store.append(replace(step(_S, version, f"m{version}"), timers=timers, canceled_timers=canceled))


class TimerCases(StoreCases):
    """`due`, `drop_timers`, and the timers of a step."""

    async def test_timers_are_due_at_their_instant_earliest_first(self, store: StateStore) -> None:
        late, soon, sooner = Timer("a", 300, b"late"), Timer("b", 200, b"\x00soon"), Timer("c", 100, b"")
        await _set(store, late, soon, sooner)
        assert list(await store.due(before_ms=99, limit=10)) == []
        assert list(await store.due(before_ms=200, limit=10)) == [sooner, soon]
        assert list(await store.due(before_ms=1000, limit=2)) == [sooner, soon]
        assert list(await store.due(before_ms=1000, limit=10)) == [sooner, soon, late]
        with pytest.raises(ValueError, match="at least 1"):
            await store.due(before_ms=1000, limit=0)

    async def test_setting_a_timer_again_moves_it(self, store: StateStore) -> None:
        await _set(store, Timer("a", 100, b"first"))
        await _set(store, Timer("a", 300, b"second"))
        assert list(await store.due(before_ms=299, limit=10)) == []
        assert list(await store.due(before_ms=300, limit=10)) == [Timer("a", 300, b"second")]

    async def test_a_canceled_timer_is_gone(self, store: StateStore) -> None:
        await _set(store, Timer("a", 100, b""), Timer("b", 100, b""))
        await _set(store, canceled=("a", "never set"))
        assert [timer.id for timer in await store.due(before_ms=1000, limit=10)] == ["b"]

    async def test_a_step_may_cancel_a_timer_and_set_it_anew(self, store: StateStore) -> None:
        await _set(store, Timer("a", 100, b"old"))
        await _set(store, Timer("a", 200, b"new"), canceled=("a",))
        assert list(await store.due(before_ms=1000, limit=10)) == [Timer("a", 200, b"new")]

    async def test_timers_stay_due_until_they_are_dropped(self, store: StateStore, other: StateStore) -> None:
        await _set(store, Timer("a", 100, b""), Timer("b", 100, b""))
        first = await store.due(before_ms=1000, limit=10)
        assert list(await other.due(before_ms=1000, limit=10)) == list(first)
        await other.drop_timers(first[:1])
        await store.drop_timers(first[:1])
        assert [timer.id for timer in await store.due(before_ms=1000, limit=10)] == ["b"]
        await store.drop_timers([])

    async def test_a_timer_that_was_moved_meanwhile_is_not_dropped(self, store: StateStore) -> None:
        await _set(store, Timer("a", 100, b""))
        seen = await store.due(before_ms=1000, limit=10)
        moved = Timer("a", 500, b"")
        await _set(store, moved)
        await store.drop_timers(seen)
        assert list(await store.due(before_ms=1000, limit=10)) == [moved]
