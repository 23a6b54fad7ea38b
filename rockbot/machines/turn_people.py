"""Where a turn waits for people: calls that need approval, and the model's own questions.

What is asked stands in the state and in a row of the index; nothing is held in a process. Whoever decides sends a message
with the id of the call; when nobody does, a timer denies. Until then the turn's clock stands.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rockbot.events.approvals import ApprovalDecision
from rockbot.events.content import TextPart, ToolCallPart, ToolResultPart
from rockbot.events.tools import ToolSpec
from rockbot.machines import turn_errors
from rockbot.machines.agent_snapshot import AgentSnapshot
from rockbot.machines.approvals import ASK_USER, question_of
from rockbot.machines.turn_draft import TurnDraft
from rockbot.machines.turn_records import AskDecided, CallAsked, ToolReturned
from rockbot.machines.turn_state import Ask, PendingTool, Task
from rockbot.policies.approvals import Approval
from rockbot.policies.rulings import evaluate

__all__ = ["ask_after_all", "asking", "note_decision", "open_asks", "patience", "settle"]


def asking(
    draft: TurnDraft, agent: AgentSnapshot, spec: ToolSpec, asked: ToolCallPart, digest: str
) -> Ask | Approval | str | None:
    """What people are asked before a call is made, or their approval for good; a text for the model when it is not made at all.

    None: it is made, and nobody has to be asked.
    """
    if (spec.name, spec.toolset) == (ASK_USER.name, ASK_USER.toolset):
        question = question_of(asked.arguments)
        if isinstance(question, str):
            return question
        return _ask(draft, agent, "question", question.question, digest, choices=question.choices)
    ruling = evaluate(agent.policy, spec, asked.arguments, origins=draft.state.origins)
    if ruling.verdict == "deny":
        return turn_errors.forbidden(spec.name, ruling.reason)
    if ruling.verdict == "allow":
        return None
    if spec.name in draft.state.always:
        return Approval(approval_id="always", argument_hash=digest)
    return _ask(draft, agent, "approval", ruling.reason, digest)


def ask_after_all(draft: TurnDraft, task: Task, call: PendingTool, reason: str) -> None:
    """The worker did not begin a call without a person's approval: ask for it."""
    before = draft.current()
    ask = _ask(draft, draft.agent(task), "approval", reason, call.argument_hash)
    draft.answer(call.id)
    draft.cancel_call_timers(task, call)
    asks = (*before.asking, call.model_copy(update={"asks": ask, "deadline_ms": None}))
    deadline_ms = patience(draft, asks)
    assert deadline_ms is not None
    draft.record(CallAsked(id=call.id, ask=ask, deadline_ms=deadline_ms))
    _open(draft, task, next(each for each in draft.current().asking if each.id == call.id))
    draft.set_timer(task, deadline_ms)


def patience(draft: TurnDraft, calls: Iterable[PendingTool]) -> int | None:
    """Where the turn's deadline is while people are asked about some of these calls; None when nobody is asked.

    It is behind every expiry, so that it ends a turn only if all of them failed to.
    """
    expiries = [call.asks.expires_ms for call in calls if call.asks is not None]
    if not expiries:
        return None
    turn = draft.current()
    return max(*expiries, turn.deadline_ms if turn.stands else 0) + turn.task.allowed_ms


def open_asks(draft: TurnDraft, task: Task) -> None:
    """Tell people of everything that is asked since the last reply."""
    for call in draft.current().asking:
        _open(draft, task, call)
    if draft.current().asking:
        draft.set_timer(task, draft.current().deadline_ms)


def note_decision(draft: TurnDraft, call: PendingTool, decision: ApprovalDecision, **approved: Any) -> None:
    """Write down who decided what about a call, when, and for which arguments."""
    assert call.asks is not None
    task = draft.current().task
    draft.cancel_timer(task, "ask", call.id)
    draft.asked_no_more(call.id)
    draft.record(
        AskDecided(
            id=call.id,
            decision=decision.decision,
            by=decision.by,
            at_ms=draft.now_ms,
            argument_hash=call.asks.argument_hash,
            text=decision.text,
            **approved,
        )
    )
    who = f" by {decision.by}" if decision.by else ""
    draft.signal(task, "decided", f"{decision.decision}{who}", tool=call.tool)


def settle(draft: TurnDraft, call: PendingTool, text: str, *, is_error: bool) -> None:
    """Give a call the result that people gave it."""
    result = ToolResultPart(call_id=call.call_id, parts=(TextPart(text=text),), is_error=is_error)
    draft.record(ToolReturned(id=call.id, result=result))


def _ask(
    draft: TurnDraft, agent: AgentSnapshot, kind: Any, text: str, digest: str, *, choices: Iterable[str] = ()
) -> Ask:
    expires_ms = draft.now_ms + round(agent.approval_seconds * 1000)
    return Ask(
        kind=kind,
        text=text,
        argument_hash=digest,
        asked_ms=draft.now_ms,
        expires_ms=expires_ms,
        choices=tuple(choices),
    )


def _open(draft: TurnDraft, task: Task, call: PendingTool) -> None:
    assert call.asks is not None
    at = next(at for at, each in enumerate(draft.current().pending) if each.id == call.id)
    arguments = draft.state.messages[-1].tool_calls[at].arguments
    draft.ask_people(task, draft.messages.request_of(task, call, arguments))
    draft.set_timer(task, call.asks.expires_ms, "ask", call.id)
    draft.signal(task, "question" if call.asks.kind == "question" else "approval", call.asks.text, tool=call.tool)
