"""Amounts: reserve before the call, settle after it, never beyond the limit."""

from __future__ import annotations

import asyncio
import math

import pytest

from rockbot.state.contract.stores import StoreCases, StoresUnderTest
from rockbot.state.items import AmountItem
from rockbot.state.keys import Key, key
from rockbot.state.ports import Reservation, StateStore

__all__ = ["AmountCases"]

_B = key("acme", "budget", "tokens")


async def _reserve(store: StateStore, amount: float, id: str, *, on: Key = _B, limit: float = 10) -> Reservation:
    return await store.reserve(on, amount, limit=limit, id=id, ttl=60)


class AmountCases(StoreCases):
    """`reserve`, `settle`, `drop_amounts`."""

    async def test_an_amount_is_granted_up_to_the_limit_and_not_beyond(self, store: StateStore) -> None:
        assert await _reserve(store, 6, "a") == Reservation(True, 6, 10)
        assert await _reserve(store, 5, "b") == Reservation(False, 6, 10)
        assert await _reserve(store, 4, "c") == Reservation(True, 10, 10)
        assert await _reserve(store, 0.5, "d") == Reservation(False, 10, 10)

    async def test_reserving_again_under_the_same_id_takes_nothing_more(self, store: StateStore) -> None:
        await _reserve(store, 6, "a")
        assert await _reserve(store, 6, "a") == Reservation(True, 6, 10)
        await store.settle("a", 5)
        assert await _reserve(store, 6, "a") == Reservation(True, 5, 10)

    async def test_the_limit_holds_against_fifty_racing_reservations(
        self, store: StateStore, other: StateStore
    ) -> None:
        asked = [_reserve((store, other)[n % 2], 3, f"call{n}", limit=100) for n in range(50)]
        granted = [answer for answer in await asyncio.gather(*asked) if answer.granted]
        assert len(granted) == 33
        assert sorted(answer.taken for answer in granted) == [3 * n for n in range(1, 34)]
        assert (await _reserve(store, 1, "last", limit=100)).granted
        assert not (await _reserve(store, 1, "too much", limit=100)).granted

    async def test_settling_replaces_the_reservation_by_what_was_used(self, store: StateStore) -> None:
        await _reserve(store, 6, "a")
        await store.settle("a", 2)
        assert await _reserve(store, 8, "b") == Reservation(True, 10, 10)

    async def test_settling_twice_counts_once(self, store: StateStore) -> None:
        await _reserve(store, 6, "a")
        assert await store.settle("a", 2)
        assert await store.settle("a", 2)
        assert await store.settle("a", 9)
        assert await store.settle("a", 0)
        assert (await _reserve(store, 1, "b")).taken == 3

    async def test_what_is_not_reserved_any_more_is_not_settled_and_that_is_said(self, store: StateStore) -> None:
        assert not await store.settle("a", 2)
        await _reserve(store, 6, "a")
        assert await store.settle("a", 0)
        assert not await store.settle("a", 2)
        assert not await store.settle("a", 0)
        assert (await _reserve(store, 1, "b")).taken == 1

    async def test_what_was_used_is_counted_beyond_every_limit_when_it_must_be(self, store: StateStore) -> None:
        await _reserve(store, 9, "a")
        assert await _reserve(store, 5, "b", limit=math.inf) == Reservation(True, 14, math.inf)
        assert await store.settle("b", 5)
        assert not (await _reserve(store, 1, "c")).granted

    async def test_of_many_that_settle_a_call_together_one_counts(self, store: StateStore, other: StateStore) -> None:
        await _reserve(store, 6, "a")
        await asyncio.gather(*((store, other)[n % 2].settle("a", 2) for n in range(20)))
        assert (await _reserve(store, 1, "b")).taken == 3

    async def test_reserving_again_keeps_the_amount_for_longer(
        self, stores: StoresUnderTest, store: StateStore
    ) -> None:
        await _reserve(store, 10, "a")
        await stores.advance(50)
        assert (await _reserve(store, 10, "a")).granted
        await stores.advance(50)
        assert not (await _reserve(store, 1, "b")).granted
        await stores.advance(10)
        assert (await _reserve(store, 1, "b")).granted

    async def test_a_reservation_outlives_whoever_made_it(self, stores: StoresUnderTest, store: StateStore) -> None:
        if not stores.durable:
            return
        await _reserve(store, 10, "a")
        await store.close()
        again = await stores.open()
        assert not (await _reserve(again, 1, "b")).granted
        await again.settle("a", 4)
        assert (await _reserve(again, 1, "b")).taken == 5
        await again.close()

    async def test_more_may_be_used_than_was_reserved(self, store: StateStore) -> None:
        await _reserve(store, 1, "a")
        await store.settle("a", 25)
        assert await _reserve(store, 1, "b") == Reservation(False, 25, 10)

    async def test_settling_nothing_gives_the_amount_back_and_frees_the_id(self, store: StateStore) -> None:
        await _reserve(store, 10, "a")
        await store.settle("a", 0)
        assert await _reserve(store, 10, "b") == Reservation(True, 10, 10)
        assert not (await _reserve(store, 10, "a")).granted

    async def test_settling_what_nobody_reserved_does_nothing(self, store: StateStore) -> None:
        await store.settle("nobody", 5)
        assert (await _reserve(store, 1, "a")).taken == 1

    async def test_a_reservation_that_is_not_settled_in_time_is_given_back(
        self, stores: StoresUnderTest, store: StateStore
    ) -> None:
        await _reserve(store, 10, "a")
        await stores.advance(59)
        assert not (await _reserve(store, 10, "b")).granted
        await stores.advance(1)
        assert await _reserve(store, 10, "b") == Reservation(True, 10, 10)
        assert not (await _reserve(store, 10, "a")).granted

    async def test_what_was_really_used_counts_also_when_it_is_told_late(
        self, stores: StoresUnderTest, store: StateStore
    ) -> None:
        await _reserve(store, 10, "a")
        await stores.advance(3600)
        await store.settle("a", 7)
        assert (await _reserve(store, 1, "b")).taken == 8

    async def test_what_is_settled_stays_taken(self, stores: StoresUnderTest, store: StateStore) -> None:
        await _reserve(store, 6, "a")
        await store.settle("a", 6)
        await stores.advance(30 * 24 * 3600)
        assert await _reserve(store, 5, "b") == Reservation(False, 6, 10)

    async def test_what_was_used_is_forgotten_where_it_is_dropped_and_what_is_reserved_is_not(
        self, store: StateStore
    ) -> None:
        other = key("acme", "budget", "money")
        for on in (_B, other):
            await _reserve(store, 3, f"used of {on}", on=on)
            await store.settle(f"used of {on}", 3)
            await _reserve(store, 2, f"reserved of {on}", on=on)
        assert await store.drop_amounts([_B, key("acme", "budget", "nothing")]) == 1
        assert await store.drop_amounts([_B]) == 0
        assert await store.drop_amounts([]) == 0
        assert (await _reserve(store, 1, "next")).taken == 3
        assert (await _reserve(store, 1, "next of the other", on=other)).taken == 6
        await store.settle(f"reserved of {_B}", 2)
        await store.settle(f"used of {_B}", 3)  # it is still known that this was settled
        assert (await _reserve(store, 1, "last")).taken == 4
        listed = [item.key for item in (await store.dump("amount")).items if isinstance(item, AmountItem)]
        assert sorted(listed) == sorted([_B, other])

    async def test_amounts_of_different_keys_and_tenants_are_apart(self, store: StateStore) -> None:
        await _reserve(store, 10, "a")
        elsewhere = key("other", "budget", "tokens")
        assert await _reserve(store, 10, "b", on=elsewhere) == Reservation(True, 10, 10)
        await store.settle("b", 0)
        assert not (await _reserve(store, 1, "c")).granted

    async def test_tenths_fill_a_limit_exactly(self, store: StateStore) -> None:
        answers = [await _reserve(store, 0.1, f"c{n}", limit=0.3) for n in range(4)]
        assert [answer.granted for answer in answers] == [True, True, True, False]

    async def test_negative_amounts_are_refused(self, store: StateStore) -> None:
        with pytest.raises(ValueError, match="-1"):
            await _reserve(store, -1, "a")
        with pytest.raises(ValueError, match="nan"):
            await store.settle("a", float("nan"))
