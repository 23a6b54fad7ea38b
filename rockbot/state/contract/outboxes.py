"""The outbox: what stays open, who may send it again, and when."""

from __future__ import annotations

import asyncio

import pytest

from rockbot.state.contract.stores import StoreCases, StoresUnderTest, command, step
from rockbot.state.keys import conversation_key
from rockbot.state.ports import OutboxRow, StateStore

__all__ = ["OutboxCases"]

_S = conversation_key("acme", "talk")


async def _claim(store: StateStore, *, owner: str = "me", idle: float = 30, limit: int = 100) -> list[str]:
    return [row.id for row in await store.claim_outbox(owner=owner, idle=idle, claim=60, limit=limit)]


class OutboxCases(StoreCases):
    """`mark_sent`, `claim_outbox`, and what `load` and `append` do to rows."""

    async def test_rows_are_loaded_with_the_message_that_caused_them_in_order(self, store: StateStore) -> None:
        rows = tuple(command(name, "m1") for name in ("z", "a", "k"))
        await store.append(step(_S, 0, "m1", outbox=rows))
        await store.append(step(_S, 1, "m2", outbox=(command("b", "m2"),)))
        assert (await store.load(_S, handled="m1")).unanswered == rows
        assert (await store.load(_S, handled="m2")).unanswered == (command("b", "m2"),)
        assert (await store.load(_S)).unanswered == ()

    async def test_a_row_that_awaits_no_answer_is_done_when_it_is_sent(
        self, stores: StoresUnderTest, store: StateStore
    ) -> None:
        row = command("out", "m1", awaits_answer=False)
        await store.append(step(_S, 0, "m1", outbox=(row,)))
        assert (await store.load(_S, handled="m1")).unanswered == (row,)
        await store.mark_sent(["out"])
        assert (await store.load(_S, handled="m1")).unanswered == ()
        await stores.advance(3600)
        assert await _claim(store) == []

    async def test_a_row_that_awaits_an_answer_stays_until_a_step_names_it(
        self, stores: StoresUnderTest, store: StateStore
    ) -> None:
        rows = (command("one", "m1"), command("two", "m1"))
        await store.append(step(_S, 0, "m1", outbox=rows))
        await store.mark_sent(["one", "two"])
        assert (await store.load(_S, handled="m1")).unanswered == rows
        await store.append(step(_S, 1, "answer", answered=("one",)))
        assert (await store.load(_S, handled="m1")).unanswered == rows[1:]
        await stores.advance(3600)
        assert await _claim(store) == ["two"]

    async def test_an_answer_that_is_faster_than_the_mark_closes_the_row(
        self, stores: StoresUnderTest, store: StateStore
    ) -> None:
        await store.append(step(_S, 0, "m1", outbox=(command("out", "m1"),)))
        await store.append(step(_S, 1, "answer", answered=("out",)))
        await store.mark_sent(["out"])
        await stores.advance(3600)
        assert await _claim(store) == []
        assert (await store.load(_S, handled="m1")).unanswered == ()

    async def test_marking_rows_that_nobody_knows_does_nothing(self, store: StateStore) -> None:
        await store.mark_sent([])
        await store.mark_sent(["nobody"])
        await store.append(step(_S, 0, "m1", answered=("nobody",)))

    async def test_a_row_is_claimed_only_when_nobody_touched_it_for_the_idle_time(
        self, stores: StoresUnderTest, store: StateStore
    ) -> None:
        await store.append(step(_S, 0, "m1", outbox=(command("out", "m1"),)))
        await stores.advance(29)
        assert await _claim(store) == []
        await store.mark_sent(["out"])
        await stores.advance(29)
        assert await _claim(store) == []
        await stores.advance(1)
        assert await _claim(store) == ["out"]

    async def test_a_claimed_row_comes_back_whole(self, store: StateStore) -> None:
        row = OutboxRow(id="a/ü", cause="m1", message=b"\x00\n\xff", door="lossy", address="x.y", awaits_answer=True)
        await store.append(step(_S, 0, "m1", outbox=(row,)))
        assert list(await store.claim_outbox(owner="me", idle=0, claim=60, limit=10)) == [row]

    async def test_a_claim_runs_out(self, stores: StoresUnderTest, store: StateStore) -> None:
        await store.append(step(_S, 0, "m1", outbox=(command("out", "m1"),)))
        await stores.advance(30)
        assert await _claim(store, owner="dies") == ["out"]
        await stores.advance(59)
        assert await _claim(store, owner="heir") == []
        await stores.advance(1)
        assert await _claim(store, owner="heir") == ["out"]

    async def test_claims_are_oldest_first_and_bounded(self, stores: StoresUnderTest, store: StateStore) -> None:
        for number, name in enumerate(("c", "a", "b")):
            await store.append(step(_S, number, f"m{number}", outbox=(command(name, f"m{number}"),)))
            await stores.advance(1)
        await stores.advance(60)
        assert await _claim(store, limit=2) == ["c", "a"]
        assert await _claim(store, limit=2) == ["b"]
        assert await _claim(store, limit=2) == []
        with pytest.raises(ValueError, match="at least 1"):
            await _claim(store, limit=0)

    async def test_of_two_replicas_that_ask_together_one_gets_each_row(
        self, stores: StoresUnderTest, store: StateStore, other: StateStore
    ) -> None:
        ids = [f"o{number:02}" for number in range(40)]
        await store.append(step(_S, 0, "m1", outbox=tuple(command(name, "m1") for name in ids)))
        await stores.advance(60)
        claims = await asyncio.gather(*(_claim(on, owner=f"r{n}", limit=7) for n, on in enumerate((store, other) * 5)))
        assert sorted(name for claim in claims for name in claim) == ids

    async def test_a_row_waits_twice_as_long_after_each_further_sending_up_to_ten_minutes(
        self, stores: StoresUnderTest, store: StateStore
    ) -> None:
        await store.append(step(_S, 0, "m1", outbox=(command("out", "m1"),)))
        for wait in (30, 30, 60, 120, 240, 480, 600, 600, 600):
            await stores.advance(wait - 1)
            assert await _claim(store) == [], f"before {wait} s"
            await stores.advance(1)
            assert await _claim(store) == ["out"], f"after {wait} s"
            await store.mark_sent(["out"])

    async def test_a_row_with_an_id_that_is_open_takes_its_place(self, store: StateStore) -> None:
        await store.append(step(_S, 0, "m1", outbox=(command("out", "m1"),)))
        await store.append(step(_S, 1, "m2", outbox=(command("out", "m2"),)))
        assert (await store.load(_S, handled="m1")).unanswered == ()
        assert (await store.load(_S, handled="m2")).unanswered == (command("out", "m2"),)
