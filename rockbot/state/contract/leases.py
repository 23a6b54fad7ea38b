"""Leases: one holder at a time, and tokens that fence off those who were."""

from __future__ import annotations

import asyncio

from rockbot.state.contract.stores import StoreCases, StoresUnderTest
from rockbot.state.keys import key
from rockbot.state.ports import StateStore

__all__ = ["LeaseCases"]

_L = key("acme", "lease", "sweeper")


class LeaseCases(StoreCases):
    """`acquire_lease`, `release_lease`."""

    async def test_a_lease_has_one_holder(self, store: StateStore, other: StateStore) -> None:
        lease = await store.acquire_lease(_L, owner="a", ttl=10)
        assert lease is not None
        assert (lease.name, lease.owner) == (_L, "a")
        assert lease.until_ms > await store.now_ms()
        assert await other.acquire_lease(_L, owner="b", ttl=10) is None
        assert await other.acquire_lease(key("acme", "lease", "else"), owner="b", ttl=10) is not None

    async def test_of_fifty_that_ask_together_one_gets_it(self, store: StateStore, other: StateStore) -> None:
        asked = [(store, other)[n % 2].acquire_lease(_L, owner=f"o{n}", ttl=10) for n in range(50)]
        assert sum(lease is not None for lease in await asyncio.gather(*asked)) == 1

    async def test_the_holder_prolongs_it_under_the_same_token(
        self, stores: StoresUnderTest, store: StateStore
    ) -> None:
        first = await store.acquire_lease(_L, owner="a", ttl=10)
        await stores.advance(9)
        again = await store.acquire_lease(_L, owner="a", ttl=10)
        assert first is not None
        assert again is not None
        assert again.token == first.token
        assert again.until_ms > first.until_ms
        await stores.advance(9)
        assert await store.acquire_lease(_L, owner="b", ttl=10) is None

    async def test_an_expired_lease_is_taken_over_with_a_larger_token(
        self, stores: StoresUnderTest, store: StateStore, other: StateStore
    ) -> None:
        first = await store.acquire_lease(_L, owner="a", ttl=10)
        await stores.advance(10)
        second = await other.acquire_lease(_L, owner="b", ttl=10)
        assert first is not None
        assert second is not None
        assert second.token > first.token
        assert await store.acquire_lease(_L, owner="a", ttl=10) is None

    async def test_tokens_grow_over_release_and_over_expiry_of_the_same_owner(
        self, stores: StoresUnderTest, store: StateStore
    ) -> None:
        tokens = []
        for _ in range(3):
            lease = await store.acquire_lease(_L, owner="a", ttl=10)
            assert lease is not None
            tokens.append(lease.token)
            await store.release_lease(lease)
        for _ in range(3):
            lease = await store.acquire_lease(_L, owner="a", ttl=10)
            assert lease is not None
            tokens.append(lease.token)
            await stores.advance(10)
        assert tokens == sorted(set(tokens))

    async def test_a_released_lease_is_free(self, store: StateStore) -> None:
        lease = await store.acquire_lease(_L, owner="a", ttl=10)
        assert lease is not None
        await store.release_lease(lease)
        await store.release_lease(lease)
        assert await store.acquire_lease(_L, owner="b", ttl=10) is not None

    async def test_a_lost_lease_cannot_be_released(self, stores: StoresUnderTest, store: StateStore) -> None:
        lost = await store.acquire_lease(_L, owner="a", ttl=10)
        assert lost is not None
        await stores.advance(10)
        assert await store.acquire_lease(_L, owner="b", ttl=10) is not None
        await store.release_lease(lost)
        assert await store.acquire_lease(_L, owner="a", ttl=10) is None
