"""Running a call once: what the ledger answers, who waits, what gives a claim back, and what a refusal stops."""

from __future__ import annotations

import asyncio

import pytest

from rockbot.state.ledger import StateLedger
from rockbot.state.memory import MemoryStateStore
from rockbot_messaging.calls import CallBusy, CallRefused, LedgeredCalls
from rockbot_messaging.ledger import Begun, Busy, Finished
from rockbot_messaging.testing import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def ledger(clock: FakeClock) -> StateLedger:
    store = MemoryStateStore(clock)
    await store.open()
    return StateLedger(store)


class Harmless(Exception):
    pass


def calls_of(ledger: StateLedger, owner: str = "a", **options: float) -> LedgeredCalls:
    return LedgeredCalls(ledger, owner=owner, harmless=(Harmless,), **options)


async def answer(starts: int) -> bytes:
    return f"start {starts}".encode()


async def fail(starts: int) -> bytes:
    raise AssertionError("this call must not be made")


async def test_a_finished_call_is_answered_without_being_made(ledger: StateLedger) -> None:
    assert await calls_of(ledger).run("c", tenant="t", work=answer) == b"start 1"
    assert await calls_of(ledger, "b").run("c", tenant="t", work=fail) == b"start 1"


async def test_tenants_do_not_share_results(ledger: StateLedger) -> None:
    await calls_of(ledger).run("c", tenant="t", work=answer)
    assert await ledger.begin("c", tenant="other", owner="b", claim_seconds=1) == Begun(1)


async def test_another_workers_call_is_waited_for_without_cost(ledger: StateLedger) -> None:
    await ledger.begin("c", tenant="t", owner="other", claim_seconds=7)
    with pytest.raises(CallBusy) as caught:
        await calls_of(ledger).run("c", tenant="t", work=fail)
    assert caught.value.seconds == 7


async def test_a_second_copy_in_the_same_process_is_not_made_beside_the_first(ledger: StateLedger) -> None:
    calls = calls_of(ledger)
    begun, go = asyncio.Event(), asyncio.Event()

    async def slow(starts: int) -> bytes:
        begun.set()
        await go.wait()
        return b"slow"

    first = asyncio.create_task(calls.run("c", tenant="t", work=slow))
    await begun.wait()
    with pytest.raises(CallBusy) as caught:
        await calls.run("c", tenant="t", work=fail)
    assert caught.value.seconds > 0
    go.set()
    assert await first == b"slow"
    assert await calls.run("c", tenant="t", work=fail) == b"slow"


async def test_a_harmless_error_gives_the_claim_back(ledger: StateLedger) -> None:
    async def refuse(starts: int) -> bytes:
        raise Harmless

    with pytest.raises(Harmless):
        await calls_of(ledger).run("c", tenant="t", work=refuse)
    assert await ledger.begin("c", tenant="t", owner="b", claim_seconds=1) == Begun(1)


async def test_after_an_unknown_end_the_claim_runs_out_and_the_next_start_knows(
    ledger: StateLedger, clock: FakeClock
) -> None:
    async def crash(starts: int) -> bytes:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await calls_of(ledger).run("c", tenant="t", work=crash)
    assert isinstance(await ledger.begin("c", tenant="t", owner="b", claim_seconds=1), Busy)
    clock.advance(11)
    assert await calls_of(ledger, "b").run("c", tenant="t", work=answer) == b"start 2"


async def test_a_refused_call_is_not_made(ledger: StateLedger) -> None:
    await ledger.refuse("c", tenant="t", reason="cancelled by a person")
    with pytest.raises(CallRefused, match="cancelled by a person"):
        await calls_of(ledger).run("c", tenant="t", work=fail)


async def test_a_call_refused_while_it_runs_is_stopped(ledger: StateLedger) -> None:
    stopped: list[str] = []

    async def slow(starts: int) -> bytes:
        await ledger.refuse("c", tenant="t", reason="cancelled")
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append("stopped")
        return b""

    async with asyncio.timeout(60):
        with pytest.raises(CallRefused, match="cancelled"):
            await calls_of(ledger, claim_seconds=0.01).run("c", tenant="t", work=slow)
    assert stopped == ["stopped"]


async def test_a_running_calls_claim_is_renewed(ledger: StateLedger, clock: FakeClock) -> None:
    renewed = asyncio.Event()

    class Watched:
        """The ledger, with an eye on how often a claim is prolonged."""

        renewals = 0

        async def renew(self, call_id: str, **rest: object) -> object:
            state = await ledger.renew(call_id, **rest)  # type: ignore[arg-type]
            self.renewals += 1
            if self.renewals > 1:
                renewed.set()
            return state

        def __getattr__(self, name: str) -> object:
            return getattr(ledger, name)

    async def slow(starts: int) -> bytes:
        clock.advance(0.02)
        await renewed.wait()
        assert isinstance(await ledger.begin("c", tenant="t", owner="b", claim_seconds=1), Busy)
        return b"done"

    calls = LedgeredCalls(Watched(), owner="a", claim_seconds=0.03)  # type: ignore[arg-type]
    async with asyncio.timeout(60):
        assert await calls.run("c", tenant="t", work=slow) == b"done"


async def test_cancelling_stays_a_cancellation_and_leaves_the_claim(ledger: StateLedger) -> None:
    begun = asyncio.Event()

    async def slow(starts: int) -> bytes:
        begun.set()
        await asyncio.Event().wait()
        return b""

    task = asyncio.create_task(calls_of(ledger).run("c", tenant="t", work=slow))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert isinstance(await ledger.begin("c", tenant="t", owner="b", claim_seconds=1), Busy)


async def test_the_first_result_written_is_the_one_that_counts(ledger: StateLedger) -> None:
    async def overtaken(starts: int) -> bytes:
        await ledger.finish("c", tenant="t", result=b"first")
        return b"second"

    assert await calls_of(ledger).run("c", tenant="t", work=overtaken) == b"first"
    assert await ledger.begin("c", tenant="t", owner="b", claim_seconds=1) == Finished(b"first")


async def test_a_cancelled_call_that_did_nothing_can_be_begun_elsewhere_at_once(ledger: StateLedger) -> None:
    begun = asyncio.Event()

    async def slow(starts: int) -> bytes:
        begun.set()
        await asyncio.Event().wait()
        return b""

    calls = LedgeredCalls(ledger, owner="a", cancelling_is_harmless=True)
    task = asyncio.create_task(calls.run("c", tenant="t", work=slow))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await ledger.begin("c", tenant="t", owner="b", claim_seconds=1) == Begun(1)
