"""The conformance suite of result ledgers: begun once, finished once, answered ever after."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import final

from rockbot_messaging.ledger import Begun, Busy, Finished, Refused, ResultLedger, Start

__all__ = ["LedgerContract", "LedgersUnderTest"]


@final
@dataclass(frozen=True, slots=True)
class LedgersUnderTest:
    """Two ledgers on the same entries (or one twice), their clock, and how long they keep an entry (seconds)."""

    first: ResultLedger
    second: ResultLedger
    advance: Callable[[float], Awaitable[None]]
    retention: float


async def _begin(ledger: ResultLedger, owner: str, *, call: str = "call", tenant: str = "acme") -> Start:
    return await ledger.begin(call, tenant=tenant, owner=owner, claim_seconds=60)


class LedgerContract:
    """Every case; a subclass gives the fixture `ledgers`, fresh and without entries."""

    async def test_a_finished_call_is_answered_and_not_begun_again(self, ledgers: LedgersUnderTest) -> None:
        assert await _begin(ledgers.first, "a") == Begun(1)
        assert await ledgers.first.finish("call", tenant="acme", result=b"42\n\x00") == b"42\n\x00"
        assert await _begin(ledgers.first, "a") == Finished(b"42\n\x00")
        assert await _begin(ledgers.second, "b") == Finished(b"42\n\x00")

    async def test_an_empty_result_is_a_result(self, ledgers: LedgersUnderTest) -> None:
        await _begin(ledgers.first, "a")
        await ledgers.first.finish("call", tenant="acme", result=b"")
        assert await _begin(ledgers.first, "a") == Finished(b"")

    async def test_a_result_of_four_mebibytes_is_kept(self, ledgers: LedgersUnderTest) -> None:
        large = b"\n{}" * (4 << 20 >> 1)
        await ledgers.first.finish("call", tenant="acme", result=large)
        assert await _begin(ledgers.second, "a") == Finished(large)

    async def test_a_call_another_worker_is_at_is_busy_for_the_rest_of_the_claim(
        self, ledgers: LedgersUnderTest
    ) -> None:
        await _begin(ledgers.first, "a")
        await ledgers.advance(20)
        busy = await _begin(ledgers.second, "b")
        assert isinstance(busy, Busy)
        assert 35 < busy.seconds <= 40

    async def test_a_renewed_claim_lasts_longer_and_is_no_further_start(self, ledgers: LedgersUnderTest) -> None:
        await _begin(ledgers.first, "a")
        await ledgers.advance(50)
        assert await ledgers.first.renew("call", tenant="acme", owner="a", claim_seconds=60) == Begun(1)
        await ledgers.advance(50)
        assert isinstance(await _begin(ledgers.second, "b"), Busy)
        await ledgers.first.release("call", tenant="acme", owner="a")
        assert await _begin(ledgers.second, "b") == Begun(1)

    async def test_a_lost_claim_is_not_renewed(self, ledgers: LedgersUnderTest) -> None:
        await _begin(ledgers.first, "a")
        await ledgers.advance(60)
        await _begin(ledgers.second, "b")
        assert isinstance(await ledgers.first.renew("call", tenant="acme", owner="a", claim_seconds=60), Busy)
        await ledgers.second.refuse("call", tenant="acme", reason="canceled")
        renewed = await ledgers.second.renew("call", tenant="acme", owner="b", claim_seconds=60)
        assert renewed == Refused("canceled")

    async def test_a_claim_that_ran_out_is_taken_over_and_counted(self, ledgers: LedgersUnderTest) -> None:
        await _begin(ledgers.first, "a")
        await ledgers.advance(60)
        assert await _begin(ledgers.second, "b") == Begun(2)
        assert isinstance(await _begin(ledgers.first, "a"), Busy)

    async def test_the_same_owner_may_claim_again_at_any_time(self, ledgers: LedgersUnderTest) -> None:
        assert await _begin(ledgers.first, "a") == Begun(1)
        await ledgers.advance(59)
        assert await _begin(ledgers.first, "a") == Begun(2)
        await ledgers.advance(59)
        assert isinstance(await _begin(ledgers.second, "b"), Busy)

    async def test_a_released_call_counts_as_never_begun(self, ledgers: LedgersUnderTest) -> None:
        await _begin(ledgers.first, "a")
        await ledgers.first.release("call", tenant="acme", owner="a")
        assert await _begin(ledgers.second, "b") == Begun(1)

    async def test_releasing_does_not_hide_an_earlier_unknown_end(self, ledgers: LedgersUnderTest) -> None:
        await _begin(ledgers.first, "a")
        await ledgers.advance(60)
        assert await _begin(ledgers.second, "b") == Begun(2)
        await ledgers.second.release("call", tenant="acme", owner="b")
        assert await _begin(ledgers.first, "a") == Begun(2)

    async def test_only_the_owner_can_release(self, ledgers: LedgersUnderTest) -> None:
        await ledgers.first.release("call", tenant="acme", owner="a")
        await _begin(ledgers.first, "a")
        await ledgers.second.release("call", tenant="acme", owner="b")
        assert isinstance(await _begin(ledgers.second, "b"), Busy)
        await ledgers.first.finish("call", tenant="acme", result=b"x")
        await ledgers.first.release("call", tenant="acme", owner="a")
        assert await _begin(ledgers.first, "a") == Finished(b"x")

    async def test_a_refused_call_is_never_begun(self, ledgers: LedgersUnderTest) -> None:
        await ledgers.first.refuse("call", tenant="acme", reason="canceled by ü")
        assert await _begin(ledgers.second, "b") == Refused("canceled by ü")
        await ledgers.second.refuse("call", tenant="acme", reason="later")
        assert await _begin(ledgers.first, "a") == Refused("canceled by ü")

    async def test_a_call_under_way_can_be_refused_and_yet_finish(self, ledgers: LedgersUnderTest) -> None:
        await _begin(ledgers.first, "a")
        await ledgers.second.refuse("call", tenant="acme", reason="canceled")
        assert await _begin(ledgers.first, "a") == Refused("canceled")
        await ledgers.first.release("call", tenant="acme", owner="a")
        assert await _begin(ledgers.first, "a") == Refused("canceled")
        assert await ledgers.first.finish("call", tenant="acme", result=b"done") == b"done"
        assert await _begin(ledgers.second, "b") == Finished(b"done")

    async def test_refusing_a_finished_call_does_nothing(self, ledgers: LedgersUnderTest) -> None:
        await ledgers.first.finish("call", tenant="acme", result=b"x")
        await ledgers.first.refuse("call", tenant="acme", reason="canceled")
        assert await _begin(ledgers.first, "a") == Finished(b"x")

    async def test_what_is_refused_for_a_task_is_refused_for_every_call_under_it(
        self, ledgers: LedgersUnderTest
    ) -> None:
        first = ledgers.first
        under = ("task", "cause")
        assert await first.begin("call", tenant="acme", owner="a", claim_seconds=60, under=under) == Begun(1)
        await ledgers.second.refuse("task", tenant="acme", reason="canceled")
        renewed = await first.renew("call", tenant="acme", owner="a", claim_seconds=60, under=under)
        assert renewed == Refused("canceled")
        assert await first.refusal("task", tenant="acme") == "canceled"
        assert await first.refusal("task", tenant="other") is None
        assert await first.refusal("call", tenant="acme") is None
        begun = await ledgers.second.begin("new", tenant="acme", owner="b", claim_seconds=60, under=under)
        assert begun == Refused("canceled")
        assert await first.begin("new", tenant="other", owner="b", claim_seconds=60, under=under) == Begun(1)
        assert await first.begin("free", tenant="acme", owner="b", claim_seconds=60, under=("cause",)) == Begun(1)

    async def test_the_first_result_is_the_one_that_counts(self, ledgers: LedgersUnderTest) -> None:
        await _begin(ledgers.first, "a")
        await ledgers.advance(60)
        await _begin(ledgers.second, "b")
        assert await ledgers.second.finish("call", tenant="acme", result=b"b") == b"b"
        assert await ledgers.first.finish("call", tenant="acme", result=b"a") == b"b"
        assert await _begin(ledgers.first, "a") == Finished(b"b")

    async def test_of_fifty_racing_owners_one_begins(self, ledgers: LedgersUnderTest) -> None:
        pair = (ledgers.first, ledgers.second)
        starts = await asyncio.gather(*(_begin(pair[n % 2], f"o{n}") for n in range(50)))
        assert [start for start in starts if isinstance(start, Begun)] == [Begun(1)]
        assert sum(isinstance(start, Busy) for start in starts) == 49

    async def test_racing_results_agree_on_one(self, ledgers: LedgersUnderTest) -> None:
        pair = (ledgers.first, ledgers.second)
        results = await asyncio.gather(
            *(pair[n % 2].finish("call", tenant="acme", result=str(n).encode()) for n in range(20))
        )
        assert len(set(results)) == 1
        assert await _begin(ledgers.first, "a") == Finished(results[0])

    async def test_calls_and_tenants_are_apart(self, ledgers: LedgersUnderTest) -> None:
        await ledgers.first.finish("call", tenant="acme", result=b"acme")
        assert await _begin(ledgers.first, "a", tenant="other") == Begun(1)
        for call in ("a/b", "a", "../call", "火箭", "call "):
            assert await _begin(ledgers.first, "a", call=call) == Begun(1)

    async def test_an_entry_is_kept_for_the_retention_time(self, ledgers: LedgersUnderTest) -> None:
        await ledgers.first.finish("call", tenant="acme", result=b"x")
        await ledgers.advance(ledgers.retention - 1)
        assert await _begin(ledgers.first, "a") == Finished(b"x")
        await ledgers.advance(1)
        assert await _begin(ledgers.first, "a") == Begun(1)
