"""What turns ask people, decided near and far; tasks cancelled near and far."""

from __future__ import annotations

import asyncio
import json

import pytest
from gateway.fake_agent import FakeHost

from rockbot.cli.main import run
from rockbot.events import ApprovalDecision, ApprovalRequest, CancelTask, ControlCancel
from rockbot.operator import Operator
from rockbot.operators.faults import ApprovalNotFound, InvalidRequest, TaskNotFound
from rockbot.state.keys import approval_key, task_key
from rockbot_messaging.canceling import cancel_watch
from rockbot_messaging.identity import derive_id
from rockbot_messaging.subscriptions import WorkSubscription
from rockbot_messaging.testing import Recorder

HASH = "ab" * 32


def asked(approval_id: str = "a1", kind: str = "approval") -> ApprovalRequest:
    return ApprovalRequest(
        approval_id=approval_id,
        kind=kind,  # type: ignore[arg-type]
        task_id="t",
        conversation_id="c",
        agent="assistant",
        tool="pay",
        arguments={"amount": 5},
        argument_hash=HASH,
        text="the tool itself asks for approval",
    )


async def ask(host: FakeHost, request: ApprovalRequest) -> Recorder:
    """Put a row where a turn would; returns who receives decisions."""
    await host.store.put(approval_key("default", request.approval_id), request.model_dump_json().encode())
    decisions = Recorder()
    work = WorkSubscription(name="decisions", patterns=("approval.decision.assistant",))
    await host.bus.subscriber.subscribe(work, decisions)
    return decisions


async def test_what_is_asked_is_listed_shown_and_decided(operator: Operator, operated: FakeHost) -> None:
    decisions = await ask(operated, asked())
    page = await operator.approvals()
    assert page.approvals == (asked(),)
    assert await operator.approval("a1") == asked()
    await operator.decide(ApprovalDecision(approval_id="a1", decision="approve", arguments={"amount": 4}, by="anna"))
    (envelope,) = await decisions.wait_for(1)
    decision = ApprovalDecision.model_validate_json(envelope.body)
    assert (decision.by, decision.arguments, decision.argument_hash) == ("anna", {"amount": 4}, HASH)
    assert (envelope.conversation_id, envelope.topic) == ("c", "approval.decision.assistant")


async def test_a_decision_that_cannot_count_is_not_sent(operator: Operator, operated: FakeHost) -> None:
    await ask(operated, asked())
    with pytest.raises(ApprovalNotFound, match="rockbot approvals list"):
        await operator.approval("none")
    with pytest.raises(ApprovalNotFound):
        await operator.decide(ApprovalDecision(approval_id="a1", decision="deny"), tenant="other")
    with pytest.raises(InvalidRequest, match="approve, or deny"):
        await operator.decide(ApprovalDecision(approval_id="a1", decision="answer", text="yes"))
    with pytest.raises(InvalidRequest, match="other arguments"):
        await operator.decide(ApprovalDecision(approval_id="a1", decision="approve", argument_hash="00"))


async def test_a_question_is_answered_from_the_command_line(host: FakeHost, capfd: pytest.CaptureFixture[str]) -> None:
    decisions = await ask(host, asked(kind="question"))
    socket = ["--socket", str(host.socket)]
    assert await asyncio.to_thread(run, [*socket, "approvals", "list"]) == 0
    capfd.readouterr()
    assert await asyncio.to_thread(run, [*socket, "--json", "approvals", "list"]) == 0
    assert [json.loads(line)["approval_id"] for line in capfd.readouterr().out.splitlines()] == ["a1"]
    assert await asyncio.to_thread(run, [*socket, "approvals", "show", "a1"]) == 0
    assert "the tool itself asks for approval" in capfd.readouterr().out
    assert await asyncio.to_thread(run, [*socket, "approvals", "approve", "a1"]) == 2
    assert await asyncio.to_thread(run, [*socket, "approvals", "answer", "a1", "blue", "--by", "anna"]) == 0
    (envelope,) = await decisions.wait_for(1)
    decision = ApprovalDecision.model_validate_json(envelope.body)
    assert (decision.decision, decision.text, decision.by) == ("answer", "blue", "anna")


async def test_cancelling_is_told_to_every_process_and_once_to_the_conversation(
    operator: Operator, operated: FakeHost
) -> None:
    heard, steps = Recorder(), Recorder()
    await operated.bus.subscriber.subscribe(cancel_watch(), heard)
    await operated.bus.subscriber.subscribe(WorkSubscription(name="steps", patterns=("agent.step.assistant",)), steps)
    row = b'{"conversation_id": "c", "agent": "assistant", "status": "accepted"}'
    await operated.store.put(task_key("default", "t"), row)
    await operator.cancel("t", reason="not needed", by="anna")
    (broadcast,) = await heard.wait_for(1)
    (command,) = await steps.wait_for(1)
    assert ControlCancel.model_validate_json(broadcast.body).task_id == "t"
    cancel = CancelTask.model_validate_json(command.body)
    assert (cancel.conversation_id, cancel.reason, cancel.by) == ("c", "not needed", "anna")
    assert command.message_id == derive_id(broadcast.message_id, "cancel:t"), "hosts derive the same"


async def test_a_cancellation_that_nobody_hears_is_an_error(operator: Operator) -> None:
    with pytest.raises(TaskNotFound, match="no host is running"):
        await operator.cancel("unknown")


def test_the_states_are_drawn_without_a_host(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["turn", "describe"]) == 0
    assert "awaiting_approval: " in capfd.readouterr().out
    assert run(["turn", "describe", "--format", "mermaid"]) == 0
    assert capfd.readouterr().out.startswith("stateDiagram-v2")
