"""What a person's decision leads to: the call is made, or the model is told that it was not; a question has its answer."""

from __future__ import annotations

from rockbot.events.approvals import ApprovalDecision
from rockbot.machines.approvals import TIMER, denial, objection, unanswered
from rockbot.machines.turn_calls import arguments_of, go_on, own_deadline, send_tool
from rockbot.machines.turn_draft import TurnDraft
from rockbot.machines.turn_ends import end
from rockbot.machines.turn_people import note_decision, settle
from rockbot.machines.turn_state import PendingTool
from rockbot.policies.approvals import argument_hash

__all__ = ["answer_question", "decided", "out_of_time"]


def decided(draft: TurnDraft, decision: ApprovalDecision) -> None:
    """A decision came. One that is too late, or about something else than what is asked, changes nothing."""
    turn = draft.state.turn
    call = next((each for each in turn.asking if each.id == decision.approval_id), None) if turn else None
    if turn is None or call is None or call.asks is None:
        draft.ignore(decision.type_name)
        return
    if problem := objection(call.asks, decision):
        draft.ignore(decision.type_name)
        draft.signal(turn.task, "decided", f"the decision does not count: {problem}", tool=call.tool)
        return
    if decision.decision == "approve":
        _approve(draft, call, decision)
    else:
        _settle(draft, call, decision)


def out_of_time(draft: TurnDraft, call: PendingTool) -> None:
    """Nobody decided in time: that is a denial."""
    _settle(draft, call, ApprovalDecision(approval_id=call.id, decision="deny", by=TIMER))


def answer_question(draft: TurnDraft, call: PendingTool, text: str, *, by: str) -> None:
    """A message of the conversation answers the question that the turn waits with."""
    _settle(draft, call, ApprovalDecision(approval_id=call.id, decision="answer", text=text, by=by))


def _approve(draft: TurnDraft, call: PendingTool, decision: ApprovalDecision) -> None:
    before = draft.current()
    task, name = before.task, f"approved:{call.id}"
    if not draft.fits(name):
        end(draft, task, "failed", error=draft.too_large(f"the call of the tool {call.tool}"))
        return
    at = next(at for at, each in enumerate(before.pending) if each.id == call.id)
    arguments = decision.arguments if decision.arguments is not None else arguments_of(draft, at)
    note_decision(
        draft,
        call,
        decision,
        new_id=draft.id(name),
        arguments=decision.arguments,
        approved_hash=argument_hash(call.tool, arguments),
        deadline_ms=own_deadline(draft, draft.agent(task).tool(call.tool)),
        always=decision.always,
    )
    draft.resume(before)
    send_tool(draft, task, name, draft.current().pending[at], arguments)


def _settle(draft: TurnDraft, call: PendingTool, decision: ApprovalDecision) -> None:
    assert call.asks is not None
    before = draft.current()
    note_decision(draft, call, decision)
    if decision.decision == "answer":
        settle(draft, call, decision.text, is_error=False)
    elif call.asks.kind == "question":
        settle(draft, call, unanswered(decision), is_error=True)
    else:
        settle(draft, call, denial(call.tool, decision), is_error=True)
    draft.resume(before)
    go_on(draft)
