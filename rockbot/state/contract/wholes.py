"""The store as a whole: counted, taken apart, restored, erased."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from typing import Final

import pytest

from rockbot.state.contract.stores import StoreCases, StoresUnderTest, command, step
from rockbot.state.items import (
    DUMP_BYTES,
    KINDS,
    HandledItem,
    Item,
    ItemKind,
    NumberItem,
    RecordItem,
    RowItem,
    StreamItem,
    ValueItem,
)
from rockbot.state.keys import Key, conversation_key, key, prefix, tenant_prefix
from rockbot.state.ports import Append, Commit, IndexRow, StateStore, Timer, VersionConflict, Write

__all__ = ["WholeCases", "fill"]

_C1: Final = conversation_key("acme", "c1")
_C2: Final = conversation_key("acme", "c2")
_MARK: Final = key("acme", "handled", "orders", "m9")


async def fill(store: StateStore) -> None:
    """Something of every kind, in two conversations and two tenants."""
    for number, (stream, name) in enumerate(((_C1, "c1"), (_C2, "c2"), (conversation_key("else", "c1"), "e1"))):
        tenant = stream.split("/")[0]
        await store.append(
            Append(
                stream=stream,
                expected_version=0,
                records=(b"one", b"two\n", b"\0three"),
                handled=f"{name}-m1",
                snapshot=b"state",
                outbox=(command(f"{name}-a", f"{name}-m1"), command(f"{name}-b", f"{name}-m1", awaits_answer=False)),
                timers=(Timer(key(tenant, "timer", name, "t"), 5 + number, b"ring"),),
                index=(IndexRow(key(tenant, "segment", name, "1"), b"sealed"),),
            )
        )
        await store.append(step(stream, 3, f"{name}-m2", b"four"))
        await store.reserve(key(tenant, "budget", name), 3.25, limit=10, id=f"{name}-open", ttl=600)
        await store.reserve(key(tenant, "budget", name), 1, limit=10, id=f"{name}-done", ttl=600)
        await store.settle(f"{name}-done", 0.1)
    await store.put(key("acme", "thing", "a"), b"\0\xff", ttl=600)
    await store.mark_sent(["c1-a"])
    row = command("commit-1", "m9", awaits_answer=False)
    await store.commit(Commit(mark=_MARK, remember=600, cause="m9", writes=(), outbox=(row,)))


async def _items(store: StateStore, kind: ItemKind, *, limit: int = 100) -> list[Item]:
    return [item async for item in _dumped(store, kind, limit)]


async def _dumped(store: StateStore, kind: ItemKind, limit: int) -> AsyncIterator[Item]:
    after: str | None = None
    while True:
        page = await store.dump(kind, after=after, limit=limit)
        assert len(page.items) <= limit
        for item in page.items:
            yield item
        if (after := page.next) is None:
            return


async def _all(store: StateStore) -> dict[ItemKind, list[Item]]:
    """Everything; in one order, because that of amounts, timers and reservations is the store's own."""
    there: dict[ItemKind, list[Item]] = {}
    for kind in KINDS:
        found = await _items(store, kind, limit=3)
        there[kind] = found if kind in ("record", "row") else sorted(found, key=repr)
    return there


class WholeCases(StoreCases):
    """`census`, `dump`, `restore`, `erase`, `drop_rows`."""

    async def test_an_empty_store_has_nothing_to_dump(self, store: StateStore) -> None:
        assert {kind for kind in KINDS if await _items(store, kind)} <= {"number"}
        assert not any((await store.census()).counts.values())

    async def test_what_is_dumped_is_what_was_stored(self, store: StateStore) -> None:
        await fill(store)
        there = await _all(store)
        assert {kind: len(items) for kind, items in there.items()} == {
            "number": 1, "value": 5, "stream": 3, "record": 12, "handled": 6, "snapshot": 3, "row": 7, "timer": 3,
            "amount": 3, "reservation": 6,
        }  # fmt: skip
        assert StreamItem(_C1) in there["stream"]
        assert HandledItem(_C2, "c2-m2") in there["handled"]
        of_c1 = [item.record.value for item in there["record"] if isinstance(item, RecordItem) and item.stream == _C1]
        assert of_c1 == [b"one", b"two\n", b"\0three", b"four"]
        values = {item.key: item for item in there["value"] if isinstance(item, ValueItem)}
        assert values[key("acme", "thing", "a")].until_ms is not None
        assert values[key("acme", "segment", "c1", "1")].until_ms is None
        rows = {item.row.id: item for item in there["row"] if isinstance(item, RowItem)}
        assert (rows["c1-a"].sends, rows["c1-b"].sends, rows["c1-a"].stream) == (1, 0, _C1)
        assert (rows["commit-1"].stream, rows["commit-1"].mark) == (None, values[_MARK].version)
        newest = max(item.version for item in values.values())
        assert isinstance(number := there["number"][0], NumberItem)
        assert number.value >= newest

    async def test_a_census_counts_what_is_dumped(self, stores: StoresUnderTest, store: StateStore) -> None:
        await fill(store)
        there = {kind: len(items) for kind, items in (await _all(store)).items() if kind != "number"}
        found = await store.census()
        assert {kind: count for kind, count in found.counts.items() if count} == there
        assert (found.server != "", found.schema >= 1, found.lost_claims) == (True, True, 0)
        assert (found.due_timers, found.oldest_due_ms) == (3, 5)
        await stores.advance(40)
        assert len(await store.claim_outbox(owner="me", idle=30, claim=5, limit=2)) == 2
        assert (await store.census()).lost_claims == 0
        await stores.advance(700)
        late = await store.census()
        assert (late.lost_claims, late.over) == (2, 2)

    async def test_pages_join_without_gap_or_overlap_at_any_size(self, store: StateStore) -> None:
        await fill(store)
        for kind in KINDS:
            whole = await _items(store, kind, limit=1000)
            for limit in (1, 2, 5):
                assert await _items(store, kind, limit=limit) == whole

    async def test_a_page_ends_when_it_has_enough_bytes(self, store: StateStore) -> None:
        large = bytes(DUMP_BYTES // 2 + 1)
        for name in "abcde":
            await store.put(key("acme", "large", name), large)
        sizes, after = [], None
        while True:
            page = await store.dump("value", after=after, limit=100)
            sizes.append(len(page.items))
            if (after := page.next) is None:
                break
        assert sizes == [2, 2, 1]

    async def test_values_that_are_over_are_not_dumped(self, stores: StoresUnderTest, store: StateStore) -> None:
        await store.put(key("acme", "thing", "a"), b"x", ttl=5)
        await stores.advance(5)
        assert await _items(store, "value") == []

    async def test_a_store_that_was_emptied_and_restored_is_as_it_was_and_works_on(
        self, stores: StoresUnderTest, store: StateStore
    ) -> None:
        await fill(store)
        before = await _all(store)
        loaded = await store.load(_C1, handled="c1-m1")
        for tenant in ("acme", "else"):
            await store.erase(tenant_prefix(tenant))
        assert {kind for kind, items in (await _all(store)).items() if items} == {"number"}
        for _ in range(2):  # the second time changes nothing
            for kind in KINDS:
                items = before[kind]
                for at in range(0, len(items), 4):
                    await store.restore(items[at : at + 4])
            assert await _all(store) == before
        assert await store.load(_C1, handled="c1-m1") == loaded
        with pytest.raises(VersionConflict, match="handled already"):
            await store.append(step(_C1, 4, "c1-m2"))
        assert await store.append(step(_C1, 4, "c1-m3", answered=("c1-a",))) == 5
        committed = await store.committed(_MARK, cause="m9")
        assert committed is not None
        assert [row.id for row in committed] == ["commit-1"]
        assert (await store.reserve(key("acme", "budget", "c1"), 7, limit=10, id="new", ttl=60)).taken == 3.35
        await store.settle("c1-done", 5)  # it was settled before
        await store.settle("c1-open", 2)
        taken = (await store.reserve(key("acme", "budget", "c1"), 0, limit=10, id="look", ttl=60)).taken
        assert taken == pytest.approx(2.1)
        await stores.advance(40)
        claimed = await store.claim_outbox(owner="me", idle=30, claim=60, limit=100)
        assert [row.id for row in claimed] == ["c1-b", "c2-a", "c2-b", "e1-a", "e1-b", "commit-1"]

    async def test_versions_and_tokens_grow_over_what_is_restored(self, store: StateStore) -> None:
        await store.put(key("acme", "thing", "a"), b"x")
        (number,) = await _items(store, "number")
        assert isinstance(number, NumberItem)
        await store.restore([dataclasses.replace(number, value=number.value + 1000)])
        await store.restore([number])  # a smaller one does not take it back
        assert await store.put(key("acme", "thing", "a"), b"y") > number.value + 1000
        lease = await store.acquire_lease(key("host", "lease", "x"), owner="me", ttl=5)
        assert lease is not None
        assert lease.token > number.value + 1000

    async def test_a_stream_that_is_restored_takes_the_place_of_what_was_there(self, store: StateStore) -> None:
        await fill(store)
        await store.restore([StreamItem(_C1)])
        loaded = await store.load(_C1, handled="c1-m1")
        assert (loaded.version, loaded.snapshot, loaded.handled, list(loaded.unanswered)) == (0, None, False, [])

    async def test_items_of_several_kinds_at_once_are_refused(self, store: StateStore) -> None:
        with pytest.raises(ValueError, match="kind by kind"):
            await store.restore([StreamItem(_C1), NumberItem(1)])
        await store.restore([])

    async def test_a_conversation_is_erased_with_all_its_streams_parts_and_nothing_else(
        self, stores: StoresUnderTest, store: StateStore
    ) -> None:
        await fill(store)
        before = await _all(store)
        gone = dict(await store.erase(prefix("acme", "conversation", "c1")))
        assert gone == {"stream": 1, "record": 4, "handled": 2, "snapshot": 1, "row": 2}
        assert dict(await store.erase(prefix("acme", "segment", "c1"))) == {"value": 1}
        assert dict(await store.erase(prefix("acme", "timer", "c1"))) == {"timer": 1}
        assert dict(await store.erase(prefix("acme", "budget", "c1"))) == {"amount": 1, "reservation": 2}
        left = await _all(store)
        for kind in KINDS:
            if kind != "number":
                assert left[kind] == [item for item in before[kind] if not _of(item, "acme", "c1")]
        assert (await store.load(_C1, handled="c1-m1")).version == 0
        await stores.advance(40)
        ids = [row.id for row in await store.claim_outbox(owner="me", idle=30, claim=60, limit=100)]
        assert [row for row in ids if row.startswith("c1")] == []

    async def test_an_erased_conversation_can_begin_anew(self, store: StateStore) -> None:
        await fill(store)
        await store.erase(prefix("acme", "conversation", "c1"))
        assert await store.append(step(_C1, 0, "c1-m1", b"again")) == 1
        assert [record.value for record in await store.read(_C1)] == [b"again"]

    async def test_erasing_again_finds_nothing(self, store: StateStore) -> None:
        await fill(store)
        assert await store.erase(tenant_prefix("acme"))
        assert not await store.erase(tenant_prefix("acme"))

    async def test_a_prefix_erases_no_neighbour_whose_name_begins_alike(self, store: StateStore) -> None:
        for name in ("c1", "c10", "c1-2", "c"):
            await store.append(step(conversation_key("acme", name), 0, "m"))
            await store.put(key("acme", "thing", name), b"x")
        await store.erase(prefix("acme", "conversation", "c1"))
        await store.erase(prefix("acme", "thing", "c1"))
        left = {item.stream for item in await _items(store, "stream") if isinstance(item, StreamItem)}
        assert left == {conversation_key("acme", name) for name in ("c10", "c1-2", "c")}
        assert await store.get(key("acme", "thing", "c1")) is None
        assert await store.get(key("acme", "thing", "c10")) is not None

    async def test_more_than_a_batch_is_erased(self, store: StateStore) -> None:
        await store.write([Write(key=key("acme", "thing", f"{n:03d}"), value=b"x") for n in range(150)])
        for n in range(70):
            await store.append(step(conversation_key("acme", str(n)), 0, "m"))
        gone = await store.erase(tenant_prefix("acme"))
        assert (gone["value"], gone["stream"]) == (150, 70)

    async def test_the_mark_of_a_commit_is_erased_with_its_rows(self, store: StateStore) -> None:
        await fill(store)
        assert dict(await store.erase(prefix("acme", "handled", "orders", "m9"))) == {"value": 1, "row": 1}

    async def test_rows_are_dropped_by_id(self, store: StateStore) -> None:
        await fill(store)
        assert await store.drop_rows(["c1-a", "commit-1", "nobody"]) == 2
        assert [row.id for row in (await store.load(_C1, handled="c1-m1")).unanswered] == ["c1-b"]
        assert list(await store.committed(_MARK, cause="m9") or ()) == []
        assert await store.drop_rows([]) == 0


def _of(item: Item, tenant: str, conversation: str) -> bool:
    """Whether an item of `fill` belongs to a conversation."""
    names: list[Key | str | None] = [getattr(item, name, None) for name in ("key", "stream")]
    timer = getattr(item, "timer", None)
    names.append(timer.id if timer else None)
    return any(str(name).split("/")[::2][:2] == [tenant, conversation] for name in names if name)
