"""Several values at once, and what handling a message did: stored whole or not at all, and once."""

from __future__ import annotations

import asyncio
from typing import Final

import pytest

from rockbot.state.contract.stores import StoreCases, StoresUnderTest, command, step
from rockbot.state.keys import Key, conversation_key, key, prefix
from rockbot.state.ports import Commit, OutboxRow, StateStore, VersionConflict, Write

__all__ = ["CommitCases"]

_A: Final = key("acme", "thing", "a")
_B: Final = key("acme", "thing", "b")
_MARK: Final = key("acme", "handled", "orders", "m1")


def _commit(*writes: Write, outbox: tuple[OutboxRow, ...] = (), mark: Key = _MARK, cause: str = "m1") -> Commit:
    return Commit(mark=mark, remember=60, cause=cause, writes=writes, outbox=outbox)


async def _value(store: StateStore, of: Key) -> bytes | None:
    entry = await store.get(of)
    return entry.value if entry else None


async def _claimed(store: StateStore) -> list[str]:
    return [row.id for row in await store.claim_outbox(owner="me", idle=30, claim=60, limit=100)]


class CommitCases(StoreCases):
    """`write`, `commit`, `committed`, and what `mark_sent` and `claim_outbox` do to the rows of a commit."""

    async def test_several_values_are_written_and_deleted_at_once(self, store: StateStore) -> None:
        version = await store.put(_A, b"old")
        await store.write([Write(key=_A, value=None, expect=version), Write(key=_B, value=b"new", expect=0)])
        assert (await _value(store, _A), await _value(store, _B)) == (None, b"new")

    async def test_one_wrong_version_among_several_writes_changes_nothing(self, store: StateStore) -> None:
        before = await store.put(_A, b"old")
        for wrong in (Write(key=_B, value=b"x", expect=7), Write(key=_B, value=None, expect=7)):
            for writes in ([Write(key=_A, value=b"new"), wrong], [wrong, Write(key=_A, value=None)]):
                with pytest.raises(VersionConflict):
                    await store.write(writes)
        entry = await store.get(_A)
        assert entry is not None
        assert (entry.value, entry.version, await store.get(_B)) == (b"old", before, None)

    async def test_writing_nothing_does_nothing(self, store: StateStore) -> None:
        await store.write([])
        assert (await store.list(prefix("acme", "thing"))).entries == ()

    async def test_each_of_several_writes_has_its_own_time_to_live(
        self, stores: StoresUnderTest, store: StateStore
    ) -> None:
        await store.write([Write(key=_A, value=b"short", ttl=5), Write(key=_B, value=b"long")])
        await stores.advance(5)
        assert (await _value(store, _A), await _value(store, _B)) == (None, b"long")

    async def test_a_key_that_is_written_twice_at_once_is_refused(self, store: StateStore) -> None:
        twice = (Write(key=_A, value=b"1"), Write(key=_A, value=b"2"))
        with pytest.raises(ValueError, match="twice"):
            await store.write(twice)
        with pytest.raises(ValueError, match="twice"):
            await store.commit(_commit(*twice))
        assert await store.get(_A) is None

    async def test_of_fifty_racing_transfers_none_is_torn(self, store: StateStore, other: StateStore) -> None:
        await store.write([Write(key=_A, value=b"50"), Write(key=_B, value=b"0")])

        async def move(on: StateStore) -> None:
            while True:
                a, b = await on.get(_A), await on.get(_B)
                assert a is not None
                assert b is not None
                less, more = (str(int(a.value) - 1).encode(), str(int(b.value) + 1).encode())
                try:
                    await on.write(
                        [Write(key=_A, value=less, expect=a.version), Write(key=_B, value=more, expect=b.version)]
                    )
                except VersionConflict:
                    continue
                return

        await asyncio.gather(*(move(on) for on in (store, other) * 10))
        assert (await _value(store, _A), await _value(store, _B)) == (b"30", b"20")

    async def test_a_message_that_was_not_committed_is_unknown(self, store: StateStore) -> None:
        assert await store.committed(_MARK, cause="m1") is None

    async def test_a_commit_stores_its_effects_its_rows_and_that_it_was_handled(self, store: StateStore) -> None:
        rows = tuple(command(name, "m1", awaits_answer=False) for name in ("z", "a", "k"))
        await store.put(_B, b"old")
        await store.commit(_commit(Write(key=_A, value=b"1", expect=0), Write(key=_B, value=None), outbox=rows))
        assert (await _value(store, _A), await _value(store, _B)) == (b"1", None)
        assert tuple(await store.committed(_MARK, cause="m1") or ()) == rows

    async def test_a_commit_without_effects_is_remembered_all_the_same(self, store: StateStore) -> None:
        await store.commit(_commit())
        rows = await store.committed(_MARK, cause="m1")
        assert rows is not None
        assert list(rows) == []

    async def test_a_second_commit_of_a_message_leaves_nothing(
        self, stores: StoresUnderTest, store: StateStore
    ) -> None:
        await store.commit(_commit(Write(key=_A, value=b"first")))
        with pytest.raises(VersionConflict, match="handled already"):
            await store.commit(
                _commit(Write(key=_A, value=b"second"), Write(key=_B, value=b"x"), outbox=(command("out", "m1"),))
            )
        assert (await _value(store, _A), await store.get(_B)) == (b"first", None)
        await stores.advance(40)
        assert await _claimed(store) == []

    async def test_a_commit_with_one_wrong_version_leaves_neither_mark_nor_effect_nor_row(
        self, stores: StoresUnderTest, store: StateStore
    ) -> None:
        await store.put(_B, b"theirs")
        with pytest.raises(VersionConflict, match="thing/b"):
            await store.commit(
                _commit(
                    Write(key=_A, value=b"x"), Write(key=_B, value=b"mine", expect=0), outbox=(command("out", "m1"),)
                )
            )
        assert (await store.get(_A), await _value(store, _B)) == (None, b"theirs")
        assert await store.committed(_MARK, cause="m1") is None
        await stores.advance(40)
        assert await _claimed(store) == []
        await store.commit(_commit(Write(key=_A, value=b"x")))  # nothing is left that would refuse it

    async def test_of_twenty_commits_of_one_message_one_wins_whole(self, store: StateStore, other: StateStore) -> None:
        async def commit(number: int) -> bool:
            name = str(number)
            effect = _commit(
                Write(key=_A, value=name.encode()),
                Write(key=_B, value=name.encode()),
                outbox=(command(name, "m1", awaits_answer=False),),
            )
            try:
                await (store, other)[number % 2].commit(effect)
            except VersionConflict:
                return False
            return True

        wins = [number for number, won in enumerate(await asyncio.gather(*map(commit, range(20)))) if won]
        assert len(wins) == 1
        name = str(wins[0]).encode()
        assert (await _value(store, _A), await _value(store, _B)) == (name, name)
        assert [row.id for row in await other.committed(_MARK, cause="m1") or ()] == [name.decode()]

    async def test_a_mark_is_over_on_the_clock_of_the_store(self, stores: StoresUnderTest, store: StateStore) -> None:
        await store.commit(_commit(Write(key=_A, value=b"1"), outbox=(command("out", "m1", awaits_answer=False),)))
        await stores.advance(59)
        assert await store.committed(_MARK, cause="m1") is not None
        await stores.advance(1)
        assert await store.committed(_MARK, cause="m1") is None
        assert await _value(store, _A) == b"1"
        assert await _claimed(store) == ["out"]  # what was not sent is still to be sent
        await store.commit(_commit(Write(key=_A, value=b"2")))
        assert await _value(store, _A) == b"2"
        assert list(await store.committed(_MARK, cause="m1") or ()) == []

    async def test_rows_of_a_commit_that_were_sent_are_done(self, stores: StoresUnderTest, store: StateStore) -> None:
        rows = tuple(command(name, "m1", awaits_answer=False) for name in ("one", "two"))
        await store.commit(_commit(outbox=rows))
        await store.mark_sent(["one"])
        assert tuple(await store.committed(_MARK, cause="m1") or ()) == rows[1:]
        await stores.advance(40)
        assert await _claimed(store) == ["two"]
        await store.mark_sent(["two"])
        assert list(await store.committed(_MARK, cause="m1") or ()) == []
        await stores.advance(3600)
        assert await _claimed(store) == []

    async def test_a_row_of_a_commit_comes_back_whole(self, stores: StoresUnderTest, store: StateStore) -> None:
        row = OutboxRow(id="a/ü", cause="m1", message=b"\x00\n\xff", door="lossy", address="x.y")
        await store.commit(_commit(outbox=(row,)))
        assert list(await store.committed(_MARK, cause="m1") or ()) == [row]
        await stores.advance(40)
        assert list(await store.claim_outbox(owner="me", idle=30, claim=60, limit=10)) == [row]

    async def test_rows_of_two_readers_of_one_message_and_of_a_stream_are_told_apart(self, store: StateStore) -> None:
        talk = conversation_key("acme", "talk")
        elsewhere = key("acme", "handled", "invoices", "m1")
        await store.append(step(talk, 0, "m1", outbox=(command("s", "m1"),)))
        await store.commit(_commit(outbox=(command("o", "m1"),)))
        await store.commit(_commit(mark=elsewhere, outbox=(command("i", "m1"),)))
        assert [row.id for row in (await store.load(talk, handled="m1")).unanswered] == ["s"]
        assert [row.id for row in await store.committed(_MARK, cause="m1") or ()] == ["o"]
        assert [row.id for row in await store.committed(elsewhere, cause="m1") or ()] == ["i"]
        assert list(await store.committed(_MARK, cause="m2") or ()) == []

    async def test_a_commit_that_no_store_could_give_back_is_refused(self, store: StateStore) -> None:
        refused = (
            _commit(cause=""),
            Commit(mark=_MARK, remember=0, cause="m1"),
            _commit(Write(key=_MARK, value=b"x")),
            _commit(outbox=(command("out", "somebody else"),)),
        )
        for effect in refused:
            with pytest.raises(ValueError, match=r"handled/orders/m1|message out"):
                await store.commit(effect)
        assert await store.committed(_MARK, cause="m1") is None
