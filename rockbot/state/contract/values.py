"""Values: compare-and-set, time to live, listing."""

from __future__ import annotations

import asyncio

import pytest

from rockbot.state.contract.stores import StoreCases, StoresUnderTest
from rockbot.state.keys import Key, key, key_parts, prefix
from rockbot.state.ports import StateStore, StateUnavailable, VersionConflict

__all__ = ["ValueCases"]

_K = key("acme", "thing", "one")
_ODD = (
    "a/b",
    "..",
    "../../etc/passwd",
    ".",
    "a b",
    "%2F",
    "100%",
    "ünïcødé",
    "火箭",
    "🤖",
    "\n",
    "'; DROP TABLE x;--",
    "?",
    "*",
    "[a]",
    "~",
    "x" * 500,
)


class ValueCases(StoreCases):
    """`get`, `put`, `delete`, `list`, `now_ms`, and the life of the store itself."""

    async def test_a_value_is_read_as_it_was_written(self, store: StateStore) -> None:
        version = await store.put(_K, b"\x00\xff text")
        entry = await store.get(_K)
        assert entry is not None
        assert (entry.key, entry.value, entry.version) == (_K, b"\x00\xff text", version)

    async def test_a_key_that_was_never_written_has_no_value(self, store: StateStore) -> None:
        assert await store.get(_K) is None

    async def test_an_empty_value_is_a_value(self, store: StateStore) -> None:
        await store.put(_K, b"")
        entry = await store.get(_K)
        assert entry is not None
        assert entry.value == b""

    async def test_a_value_of_four_mebibytes_is_stored(self, store: StateStore) -> None:
        large = bytes(range(256)) * (4 << 12)
        await store.put(_K, large)
        entry = await store.get(_K)
        assert entry is not None
        assert entry.value == large

    async def test_a_write_with_the_wrong_version_changes_nothing(self, store: StateStore) -> None:
        version = await store.put(_K, b"first", expect=0)
        for wrong in (0, version + 1, version - 1):
            with pytest.raises(VersionConflict):
                await store.put(_K, b"second", expect=wrong)
            with pytest.raises(VersionConflict):
                await store.delete(_K, expect=wrong)
        entry = await store.get(_K)
        assert entry is not None
        assert (entry.value, entry.version) == (b"first", version)

    async def test_a_missing_value_cannot_be_replaced(self, store: StateStore) -> None:
        with pytest.raises(VersionConflict):
            await store.put(_K, b"x", expect=7)
        assert await store.get(_K) is None

    async def test_versions_grow_over_overwriting_deletion_and_expiry(
        self, stores: StoresUnderTest, store: StateStore
    ) -> None:
        seen = [await store.put(_K, b"1", expect=0)]
        seen.append(await store.put(_K, b"2", expect=seen[-1]))
        assert await store.delete(_K, expect=seen[-1])
        seen.append(await store.put(_K, b"3", expect=0, ttl=5))
        await stores.advance(5)
        seen.append(await store.put(_K, b"4", expect=0))
        assert seen == sorted(set(seen))
        assert seen[0] > 0

    async def test_deleting_says_whether_there_was_a_value(self, store: StateStore) -> None:
        assert not await store.delete(_K)
        await store.put(_K, b"x")
        assert await store.delete(_K)
        assert not await store.delete(_K, expect=0)
        assert await store.get(_K) is None

    async def test_of_fifty_racing_writers_exactly_one_wins_each_version(
        self, store: StateStore, other: StateStore
    ) -> None:
        expect = 0
        for round_ in range(4):

            async def write(number: int, expect: int = expect) -> int | None:
                try:
                    return await (store, other)[number % 2].put(_K, str(number).encode(), expect=expect)
                except VersionConflict:
                    return None

            wins = [(n, v) for n, v in enumerate(await asyncio.gather(*map(write, range(50)))) if v is not None]
            assert len(wins) == 1, f"round {round_}"
            ((winner, expect),) = wins
            entry = await store.get(_K)
            assert entry is not None
            assert (entry.value, entry.version) == (str(winner).encode(), expect)

    async def test_no_increment_is_lost_between_racing_readers_and_writers(
        self, store: StateStore, other: StateStore
    ) -> None:
        async def increment(on: StateStore) -> None:
            while True:
                entry = await on.get(_K)
                count, version = (int(entry.value), entry.version) if entry else (0, 0)
                try:
                    await on.put(_K, str(count + 1).encode(), expect=version)
                except VersionConflict:
                    continue
                return

        await asyncio.gather(*(increment(on) for on in (store, other) * 10))
        entry = await store.get(_K)
        assert entry is not None
        assert entry.value == b"20"

    async def test_a_value_is_gone_when_its_time_to_live_is_over(
        self, stores: StoresUnderTest, store: StateStore
    ) -> None:
        await store.put(_K, b"x", ttl=10)
        await stores.advance(9.5)
        assert await store.get(_K) is not None
        await stores.advance(0.5)
        assert await store.get(_K) is None
        assert (await store.list(prefix("acme", "thing"))).entries == ()
        assert not await store.delete(_K)

    async def test_a_time_to_live_belongs_to_one_write(self, stores: StoresUnderTest, store: StateStore) -> None:
        await store.put(_K, b"x", ttl=10)
        await store.put(_K, b"x")
        await stores.advance(3600)
        assert await store.get(_K) is not None

    async def test_the_clock_of_the_store_is_the_one_that_expiry_follows(
        self, stores: StoresUnderTest, store: StateStore
    ) -> None:
        before = await store.now_ms()
        await stores.advance(2)
        assert await store.now_ms() - before >= 2000

    async def test_a_listing_is_in_key_order_and_pages_join_without_gap_or_overlap(self, store: StateStore) -> None:
        names = [f"n{number:03}" for number in range(25)]
        for name in reversed(names):
            await store.put(key("acme", "thing", name), name.encode())
        listed: list[bytes] = []
        sizes: list[int] = []
        after: str | None = None
        while True:
            page = await store.list(prefix("acme", "thing"), after=after, limit=10)
            listed += [entry.value for entry in page.entries]
            sizes.append(len(page.entries))
            after = page.next
            if after is None:
                break
        assert listed == [name.encode() for name in names]
        assert sizes == [10, 10, 5]

    async def test_pages_step_over_values_whose_time_is_over(self, stores: StoresUnderTest, store: StateStore) -> None:
        names = [f"n{number:02}" for number in range(24)]
        for number, name in enumerate(names):
            await store.put(key("acme", "thing", name), name.encode(), ttl=None if number % 12 == 0 else 5)
        await stores.advance(5)
        first = await store.list(prefix("acme", "thing"), limit=1)
        assert [entry.value for entry in first.entries] == [b"n00"]
        assert first.next is not None
        rest = await store.list(prefix("acme", "thing"), after=first.next, limit=1)
        assert ([entry.value for entry in rest.entries], rest.next) == ([b"n12"], None)

    async def test_a_full_last_page_says_that_it_is_the_last(self, store: StateStore) -> None:
        for name in "abcd":
            await store.put(key("acme", "thing", name), b"")
        page = await store.list(prefix("acme", "thing"), limit=2)
        assert page.next is not None
        assert (await store.list(prefix("acme", "thing"), after=page.next, limit=2)).next is None

    async def test_a_listing_goes_on_behind_a_key_that_was_deleted_meanwhile(self, store: StateStore) -> None:
        for name in "abc":
            await store.put(key("acme", "thing", name), b"")
        page = await store.list(prefix("acme", "thing"), limit=1)
        await store.delete(page.entries[0].key)
        rest = await store.list(prefix("acme", "thing"), after=page.next)
        assert [key_parts(entry.key)[-1] for entry in rest.entries] == ["b", "c"]

    async def test_a_prefix_lists_what_is_under_it_and_not_its_neighbours(self, store: StateStore) -> None:
        for parts in (("a", "1"), ("a", "2", "3"), ("ab",), ("ab", "1"), ("a0",), ("a!",), ("b", "1")):
            await store.put(key("acme", "thing", *parts), b"")
        await store.put(key("acme", "thing", "a"), b"")
        listed = await store.list(prefix("acme", "thing", "a"))
        assert [key_parts(entry.key)[2:] for entry in listed.entries] == [("a", "1"), ("a", "2", "3")]

    async def test_tenants_and_spaces_do_not_see_each_other(self, store: StateStore) -> None:
        await store.put(key("acme", "thing", "x"), b"acme")
        await store.put(key("acme/thing", "x", "y"), b"tricky")
        await store.put(key("acm", "thing", "x"), b"acm")
        await store.put(key("acme", "thin", "x"), b"thin")
        await store.put(key("evil", "thing", "../../acme/thing/x"), b"evil")
        assert [entry.value for entry in (await store.list(prefix("acme", "thing"))).entries] == [b"acme"]
        entry = await store.get(key("acme", "thing", "x"))
        assert entry is not None
        assert entry.value == b"acme"

    async def test_odd_ids_are_stored_apart_and_listed(self, store: StateStore) -> None:
        for name in _ODD:
            await store.put(key("acme", "thing", name), name.encode())
        for name in _ODD:
            entry = await store.get(key("acme", "thing", name))
            assert entry is not None
            assert entry.value == name.encode()
        listed = (await store.list(prefix("acme", "thing"))).entries
        assert {key_parts(entry.key)[-1] for entry in listed} == set(_ODD)
        assert [entry.key for entry in listed] == sorted(entry.key for entry in listed)

    async def test_a_page_of_no_entries_is_refused(self, store: StateStore) -> None:
        with pytest.raises(ValueError, match="at least 1"):
            await store.list(prefix("acme", "thing"), limit=0)

    async def test_what_one_instance_wrote_the_other_reads(self, store: StateStore, other: StateStore) -> None:
        version = await store.put(_K, b"x")
        entry = await other.get(_K)
        assert entry is not None
        assert entry.version == version

    async def test_opening_again_and_closing_twice_do_no_harm(self, store: StateStore) -> None:
        await store.put(_K, b"x")
        await store.open()
        assert await store.get(_K) is not None
        await store.close()
        await store.close()

    async def test_a_closed_store_says_that_it_is_not_open(self, store: StateStore) -> None:
        await store.close()
        with pytest.raises(StateUnavailable, match="not open"):
            await store.get(_K)
        with pytest.raises(StateUnavailable, match="not open"):
            await store.put(_K, b"x")

    async def test_closing_finishes_what_is_under_way(self, stores: StoresUnderTest, store: StateStore) -> None:
        writes = [asyncio.ensure_future(store.put(Key(f"acme/thing/{n}"), b"x")) for n in range(200)]
        await asyncio.sleep(0)
        await store.close()
        assert all(write.done() for write in writes) or all(await asyncio.gather(*writes))
        await store.open()
        listed = await store.list(prefix("acme", "thing"), limit=1000)
        assert len(listed.entries) == (200 if stores.durable else 0)

    async def test_values_outlive_their_store_exactly_if_it_is_durable(
        self, stores: StoresUnderTest, store: StateStore
    ) -> None:
        version = await store.put(_K, b"x")
        await store.close()
        again = await stores.open()
        entry = await again.get(_K)
        assert (entry is not None) is stores.durable
        if entry is not None:
            assert (entry.value, entry.version) == (b"x", version)
        assert await again.put(_K, b"y") > (version if stores.durable else 0)
        await again.close()
