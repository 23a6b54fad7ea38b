"""Approvals, cancelling and steering with whole hosts: nothing of it lives in a process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from core.town import ADD, Town, Worker, opened_town

from rockbot.context import Context
from rockbot.events import ApprovalDecision, ApprovalRequest, ControlCancel, Event, LlmRequest
from rockbot.handler import CallNext
from rockbot.state.keys import approvals
from rockbot.state.ledger import StateLedger
from rockbot_messaging.calls import CallRefused, LedgeredCalls
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.ports import Door

ASKS: dict[str, Any] = {"assistant": {"policy": {"rules": [{"tool": "add", "then": "ask"}]}}}


@pytest.fixture
async def town(tmp_path: Path) -> AsyncIterator[Town]:
    async with opened_town("memory", tmp_path) as town:
        yield town


async def asked(town: Town) -> ApprovalRequest:
    async with asyncio.timeout(60):
        while True:
            page = await town.store.list(approvals("default"))
            if page.entries:
                return ApprovalRequest.model_validate_json(page.entries[0].value)
            await asyncio.sleep(0)


async def send(town: Town, event: Event, topic: str, *, door: Door = Door.COMMANDS) -> None:
    envelope = MessageEnvelope(topic=topic, body=event.to_body(), message_id=f"m-{topic}", type=event.type_name)
    await town.client.publisher.publish(envelope, door=door)


async def test_an_approval_outlives_every_process_and_is_answered_by_a_new_one(town: Town) -> None:
    worker = Worker()
    first = await town.host(worker.plugin, agents=ASKS)
    await town.say("use it", id="t")
    request = await asked(town)
    assert (request.tool, request.task_id) == (ADD.name, "t")
    assert await town.status("t") == "awaiting_approval"
    await first.close()
    await town.host(worker.plugin, agents=ASKS)
    decision = ApprovalDecision(approval_id=request.approval_id, decision="approve", by="anna")
    await send(town, decision, "approval.decision.assistant")
    (response,) = await town.answered(1)
    assert (response.status, response.output) == ("completed", "you said 42")
    assert not (await town.store.list(approvals("default"))).entries


async def test_a_decision_nobody_waits_for_is_no_dead_letter(town: Town) -> None:
    await town.host(Worker().plugin)
    await send(town, ApprovalDecision(approval_id="gone", decision="deny"), "approval.decision.assistant")
    await town.say("hi")
    await town.answered(1)
    assert not await town.letters("agent.assistant", 0)


class Slow(Worker):
    """A model call that ends only by being stopped."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = asyncio.Event()
        self.stopped = asyncio.Event()
        self.ledgered: LedgeredCalls | None = None

    def plugin(self, services: Any) -> Any:
        self.ledgered = LedgeredCalls(services.ledger, owner=services.owner, running=services.running)
        return super().plugin(services)

    async def act(self, event: Event, context: Context, call_next: CallNext) -> None:
        if not isinstance(event, LlmRequest) or self.ledgered is None:
            await super().act(event, context, call_next)
            return

        async def work(_: int) -> bytes:
            self.calls.append(context.envelope.message_id)
            self.begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.stopped.set()
            raise AssertionError("unreachable")

        of = context.envelope
        try:
            await self.ledgered.run(of.message_id, tenant=of.tenant, work=work, under=(of.root_task_id,))
        except CallRefused:
            return


async def test_a_foreign_message_cancels_a_task_and_the_call_it_waits_for(town: Town) -> None:
    worker = Slow()
    await town.host(worker.plugin)
    await town.say("hi", id="t")
    await worker.begun.wait()
    message = MessageEnvelope(topic="control.cancel", body=b'{"task_id": "t"}', message_id="x", type="")
    await town.client.publisher.publish(message, door=Door.PUBLIC)
    async with asyncio.timeout(60):
        await worker.stopped.wait()
    (response,) = await town.answered(1)
    assert response.error
    assert (response.status, response.error.code) == ("canceled", "canceled")


async def test_a_task_that_was_cancelled_before_a_host_picked_it_up_makes_no_call(town: Town) -> None:
    watching = await town.host(Worker().plugin, agents={"other": {}}, default_agent="other")
    await send(town, ControlCancel(task_id="t", reason="too late"), "control.cancel", door=Door.PUBLIC)
    worker, ledger = Worker(), StateLedger(town.store)
    async with asyncio.timeout(60):
        while await ledger.refusal("t", tenant="default") is None:
            await asyncio.sleep(0)
    await watching.close()
    await town.host(worker.plugin)
    await town.say("hi", id="t")
    (response,) = await town.answered(1)
    assert response.error
    assert (response.status, response.error.message) == ("canceled", "canceled: too late")
    assert worker.calls == []


async def test_tasks_that_come_during_a_turn_join_it_by_default(town: Town) -> None:
    worker = Worker()
    await town.host(worker.plugin, agents=ASKS)
    await town.say("use it", id="t", conversation_id="talk")
    request = await asked(town)
    await town.say("and this", id="u", conversation_id="talk")
    await town.until_status("u", "accepted")
    await send(town, ApprovalDecision(approval_id=request.approval_id, decision="deny"), "approval.decision.assistant")
    responses = await town.answered(2)
    assert {(each.task_id, each.answered_by) for each in responses} == {("t", ""), ("u", "t")}
    assert len({each.output for each in responses}) == 1
