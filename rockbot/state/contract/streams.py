"""Streams: the atomic append, and reading it back."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from rockbot.state.contract.stores import StoreCases, StoresUnderTest, command, step
from rockbot.state.keys import conversation_key, prefix, task_key
from rockbot.state.ports import Append, IndexRow, Snapshot, StateStore, Timer, VersionConflict

__all__ = ["StreamCases"]

_S = conversation_key("acme", "talk")
_FAR = 1 << 50


def _full(version: int, handled: str) -> Append:
    """A step that touches everything a step can touch."""
    return Append(
        stream=_S,
        expected_version=version,
        records=(b"one", b"two"),
        handled=handled,
        snapshot=b"after two",
        outbox=(command(f"{handled}-out", handled),),
        answered=("earlier",),
        timers=(Timer("wake", 2000, b"late"),),
        canceled_timers=("nap",),
        index=(IndexRow(task_key("acme", "t1"), b"done"), IndexRow(task_key("acme", "t0"), None)),
    )


class StreamCases(StoreCases):
    """`append`, `load`, `read`."""

    async def test_a_stream_nobody_wrote_to_is_empty(self, store: StateStore) -> None:
        loaded = await store.load(_S, handled="m1")
        assert (loaded.version, loaded.snapshot, loaded.records) == (0, None, ())
        assert (loaded.handled, loaded.unanswered) == (False, ())
        assert list(await store.read(_S)) == []

    async def test_records_come_back_in_order_numbered_from_one(self, store: StateStore) -> None:
        assert await store.append(step(_S, 0, "m1", b"a", b"b")) == 2
        assert await store.append(step(_S, 2, "m2", b"c")) == 3
        loaded = await store.load(_S)
        assert [(record.version, record.value) for record in loaded.records] == [(1, b"a"), (2, b"b"), (3, b"c")]
        assert loaded.version == 3
        assert not loaded.handled

    async def test_records_carry_the_instant_of_the_stores_clock(
        self, stores: StoresUnderTest, store: StateStore
    ) -> None:
        earliest = await store.now_ms()
        await store.append(step(_S, 0, "m1"))
        await stores.advance(7)
        await store.append(step(_S, 1, "m2"))
        first, second = await store.read(_S)
        assert earliest <= first.at_ms <= second.at_ms - 7000
        assert second.at_ms <= await store.now_ms()

    async def test_loading_gives_the_newest_snapshot_and_only_later_records(self, store: StateStore) -> None:
        await store.append(replace(step(_S, 0, "m1", b"a"), snapshot=b"S1"))
        await store.append(replace(step(_S, 1, "m2", b"b", b"c"), snapshot=b"S3"))
        loaded = await store.load(_S)
        assert (loaded.version, loaded.snapshot, loaded.records) == (3, Snapshot(3, b"S3"), ())
        await store.append(step(_S, 3, "m3", b"d"))
        loaded = await store.load(_S)
        assert loaded.snapshot == Snapshot(3, b"S3")
        assert [(record.version, record.value) for record in loaded.records] == [(4, b"d")]

    async def test_the_whole_story_can_be_read_in_pages(self, store: StateStore) -> None:
        await store.append(replace(step(_S, 0, "m1", *(str(n).encode() for n in range(1, 8))), snapshot=b"S7"))
        assert [record.version for record in await store.read(_S, limit=3)] == [1, 2, 3]
        assert [record.value for record in await store.read(_S, after=3, limit=3)] == [b"4", b"5", b"6"]
        assert [record.version for record in await store.read(_S, after=6, limit=3)] == [7]
        assert list(await store.read(_S, after=7)) == []
        with pytest.raises(ValueError, match="at least 1"):
            await store.read(_S, limit=0)

    async def test_ten_thousand_records_are_loaded_from_the_snapshot_on(self, store: StateStore) -> None:
        for part in range(10):
            records = (b"r" * 100,) * 1000
            await store.append(replace(step(_S, part * 1000, f"m{part}", *records), snapshot=b"S"))
        await store.append(step(_S, 10_000, "last", b"end"))
        loaded = await store.load(_S, handled="m3")
        assert (loaded.version, len(loaded.records), loaded.handled) == (10_001, 1, True)

    async def test_a_step_is_stored_with_everything_that_belongs_to_it(self, store: StateStore) -> None:
        await self._prepare(store)
        assert await store.append(_full(1, "m1")) == 3
        loaded = await store.load(_S, handled="m1")
        assert (loaded.version, loaded.snapshot) == (3, Snapshot(3, b"after two"))
        assert loaded.handled
        assert loaded.unanswered == (command("m1-out", "m1"),)
        assert (await store.load(_S, handled="m0")).unanswered == ()
        assert list(await store.due(before_ms=_FAR, limit=10)) == [Timer("wake", 2000, b"late")]
        listed = (await store.list(prefix("acme", "task"))).entries
        assert [(entry.key, entry.value) for entry in listed] == [(task_key("acme", "t1"), b"done")]

    @pytest.mark.parametrize(("version", "handled"), [(0, "m1"), (2, "m1"), (1, "m0"), (0, "m0")])
    async def test_a_step_that_conflicts_leaves_nothing(self, store: StateStore, version: int, handled: str) -> None:
        await self._prepare(store)
        with pytest.raises(VersionConflict):
            await store.append(_full(version, handled))
        loaded = await store.load(_S, handled="m0")
        assert (loaded.version, loaded.snapshot, len(loaded.records)) == (1, None, 1)
        assert loaded.unanswered == (command("earlier", "m0"),)
        assert not (await store.load(_S, handled="m1")).handled
        assert list(await store.due(before_ms=_FAR, limit=10)) == [
            Timer("nap", 1000, b"nap"),
            Timer("wake", 1000, b"early"),
        ]
        listed = (await store.list(prefix("acme", "task"))).entries
        assert [(entry.key, entry.value) for entry in listed] == [(task_key("acme", "t0"), b"open")]

    async def test_a_handled_message_is_remembered_by_its_own_stream_only(self, store: StateStore) -> None:
        elsewhere = conversation_key("acme", "other talk")
        await store.append(step(_S, 0, "m1"))
        assert (await store.load(_S, handled="m1")).handled
        assert not (await store.load(elsewhere, handled="m1")).handled
        assert await store.append(step(elsewhere, 0, "m1")) == 1

    async def test_an_earlier_message_is_still_known_many_steps_later(self, store: StateStore) -> None:
        for number in range(30):
            await store.append(replace(step(_S, number, f"m{number}"), snapshot=b"S"))
        assert (await store.load(_S, handled="m0")).handled
        with pytest.raises(VersionConflict, match="handled already"):
            await store.append(step(_S, 30, "m0"))

    async def test_an_index_row_has_a_version_to_compare_with(self, store: StateStore) -> None:
        row = task_key("acme", "t")
        await store.append(replace(step(_S, 0, "m1"), index=(IndexRow(row, b"1"),)))
        first = await store.get(row)
        await store.append(replace(step(_S, 1, "m2"), index=(IndexRow(row, b"2"),)))
        second = await store.get(row)
        assert first is not None
        assert second is not None
        assert second.version > first.version
        with pytest.raises(VersionConflict):
            await store.put(row, b"3", expect=first.version)

    async def test_of_fifty_racing_steps_exactly_one_wins_each_version(
        self, store: StateStore, other: StateStore
    ) -> None:
        for version in range(3):

            async def race(number: int, version: int = version) -> int | None:
                on = (store, other)[number % 2]
                handled = f"m{version}-{number}"
                try:
                    return await on.append(
                        step(_S, version, handled, handled.encode(), outbox=(command(handled, handled),))
                    )
                except VersionConflict:
                    return None

            results = await asyncio.gather(*map(race, range(50)))
            assert [result for result in results if result is not None] == [version + 1]
        records = await store.read(_S)
        assert [record.version for record in records] == [1, 2, 3]
        rows = await store.claim_outbox(owner="me", idle=0, claim=1, limit=100)
        assert [row.id.encode() for row in rows] == [record.value for record in records]

    async def test_one_message_delivered_twice_at_once_is_handled_once(
        self, store: StateStore, other: StateStore
    ) -> None:
        async def handle(on: StateStore) -> bool:
            while True:
                loaded = await on.load(_S, handled="m1")
                if loaded.handled:
                    return False
                try:
                    await on.append(step(_S, loaded.version, "m1"))
                except VersionConflict:
                    continue
                return True

        assert sorted(await asyncio.gather(handle(store), handle(other), handle(store))) == [False, False, True]
        assert len(await store.read(_S)) == 1

    async def test_streams_of_odd_names_and_tenants_are_apart(self, store: StateStore) -> None:
        names = ("a", "a/b", "..", "火箭", "a%2Fb", "A")
        for tenant in ("acme", "other"):
            for name in names:
                await store.append(step(conversation_key(tenant, name), 0, "m1", f"{tenant} {name}".encode()))
        for tenant in ("acme", "other"):
            for name in names:
                (record,) = await store.read(conversation_key(tenant, name))
                assert record.value == f"{tenant} {name}".encode()

    async def test_a_record_and_a_message_of_four_mebibytes_are_stored(self, store: StateStore) -> None:
        large = b"\x00\xfe" * (2 << 20)
        row = replace(command("out", "m1"), message=large)
        await store.append(replace(step(_S, 0, "m1", large, outbox=(row,)), snapshot=large))
        loaded = await store.load(_S, handled="m1")
        assert loaded.snapshot == Snapshot(1, large)
        assert loaded.unanswered == (row,)
        assert (await store.read(_S))[0].value == large

    async def test_a_step_that_no_store_could_give_back_is_refused(self, store: StateStore) -> None:
        with pytest.raises(ValueError, match="no records"):
            await store.append(replace(step(_S, 0, "m1"), records=()))
        with pytest.raises(ValueError, match="which message"):
            await store.append(step(_S, 0, ""))
        with pytest.raises(ValueError, match="not caused by m1"):
            await store.append(step(_S, 0, "m1", outbox=(command("c", "m2"),)))
        assert (await store.load(_S)).version == 0

    async def test_streams_outlive_their_store_exactly_if_it_is_durable(
        self, stores: StoresUnderTest, store: StateStore
    ) -> None:
        await self._prepare(store)
        await store.append(_full(1, "m1"))
        before = await store.load(_S, handled="m1")
        await store.close()
        again = await stores.open()
        loaded = await again.load(_S, handled="m1")
        if stores.durable:
            assert loaded == before
            assert list(await again.due(before_ms=_FAR, limit=10)) == [Timer("wake", 2000, b"late")]
        else:
            assert loaded.version == 0
        await again.close()

    async def _prepare(self, store: StateStore) -> None:
        await store.append(
            replace(
                step(_S, 0, "m0", outbox=(command("earlier", "m0"),)),
                timers=(Timer("nap", 1000, b"nap"), Timer("wake", 1000, b"early")),
                index=(IndexRow(task_key("acme", "t0"), b"open"),),
            )
        )
