"""Cancelling calls: what runs is stopped, what comes later is refused, and only what belongs to it."""

from __future__ import annotations

import asyncio

import pytest

from rockbot.state.ledger import StateLedger
from rockbot.state.memory import MemoryStateStore
from rockbot_messaging.calls import CallRefused, LedgeredCalls
from rockbot_messaging.canceling import Cancellation, InvalidCancellation, RunningCalls
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.testing import FakeClock


def message(body: bytes) -> MessageEnvelope:
    return MessageEnvelope(topic="control.cancel", body=body, message_id="m", type="rockbot.control.cancel")


@pytest.fixture
async def ledger() -> StateLedger:
    store = MemoryStateStore(FakeClock())
    await store.open()
    return StateLedger(store)


class Desk:
    """One process with calls that end by being cancelled only."""

    def __init__(self, ledger: StateLedger) -> None:
        self.ledger = ledger
        self.running = RunningCalls()
        self.calls = LedgeredCalls(ledger, owner="a", running=self.running)
        self.begun: list[str] = []

    async def begin(self, call: str, *under: str, tenant: str = "t") -> asyncio.Task[bytes]:
        started = asyncio.Event()

        async def work(_: int) -> bytes:
            self.begun.append(call)
            started.set()
            await asyncio.Event().wait()
            raise AssertionError("unreachable")

        task = asyncio.create_task(self.calls.run(call, tenant=tenant, work=work, under=under))
        waiting = asyncio.create_task(started.wait())
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        return task

    async def cancel(self, body: bytes) -> int:
        return await Cancellation.read(message(body)).carry_out(tenant="t", ledger=self.ledger, running=self.running)


async def test_a_running_call_of_a_cancelled_task_is_stopped_and_its_caller_told_why(ledger: StateLedger) -> None:
    desk = Desk(ledger)
    mine, other, stranger = (
        await desk.begin("c1", "task"),
        await desk.begin("c2", "another"),
        await desk.begin("c1", "task", tenant="other"),
    )
    assert await desk.cancel(b'{"task_id": "task", "reason": "changed my mind", "colour": "red"}') == 1
    with pytest.raises(CallRefused, match="changed my mind"):
        await mine
    assert not other.done()
    assert not stranger.done()
    assert len(desk.running) == 2
    for task in (other, stranger):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert len(desk.running) == 0


async def test_what_is_picked_up_later_is_refused_on_any_process(ledger: StateLedger) -> None:
    await Desk(ledger).cancel(b'{"task_id": "task"}')
    late = Desk(ledger)
    with pytest.raises(CallRefused, match="canceled"):
        await (await late.begin("c1", "task"))
    assert late.begun == []


async def test_single_calls_are_cancelled_with_what_they_caused_and_nothing_else(ledger: StateLedger) -> None:
    desk = Desk(ledger)
    call, caused, other = (
        await desk.begin("c1", "task"),
        await desk.begin("s1", "task", "c1"),
        await desk.begin("c2", "task"),
    )
    assert await desk.cancel(b'{"task_id": "task", "calls": ["c1"]}') == 2
    for task in (call, caused):
        with pytest.raises(CallRefused):
            await task
    assert not other.done()
    other.cancel()


@pytest.mark.parametrize(
    "body",
    [b"", b"no", b"[]", b"{}", b'{"task_id": ""}', b'{"task_id": 4}', b'{"task_id": "t", "calls": "c"}'],
)
def test_a_body_that_is_no_cancellation_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidCancellation):
        Cancellation.read(message(body))
