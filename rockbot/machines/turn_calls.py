"""From a model's reply to its tool calls, and from their results to the next model call.

Every call of a reply gets one result, and they stand in the transcript together, in the order of the calls. A call that cannot be
made, may not be made, or has failed too often has its result at once; one that needs a person waits for that person, while the
others run.
"""

from __future__ import annotations

import json
from typing import Any

from rockbot import topics
from rockbot.events.content import TextPart, ToolCallPart, ToolResultPart
from rockbot.events.models import LlmResponse
from rockbot.events.tools import ToolInvoke, ToolSpec
from rockbot.machines import turn_errors
from rockbot.machines.cutoffs import cut_off
from rockbot.machines.skill_reading import read_skill
from rockbot.machines.turn_asking import ask_model, send_request
from rockbot.machines.turn_draft import TurnDraft
from rockbot.machines.turn_ends import end
from rockbot.machines.turn_people import asking, open_asks, patience
from rockbot.machines.turn_records import CallRepeated, ModelCalled, ToolsCalled
from rockbot.machines.turn_state import Ask, AwaitingTools, PendingTool, Task, Turn
from rockbot.policies.approvals import Approval, argument_hash

__all__ = ["call_again", "call_tools", "go_on", "repeat", "send_tool"]


def call_tools(draft: TurnDraft, response: LlmResponse) -> None:
    """Make the calls of a reply, as far as they can and may be made now."""
    task, text = draft.current().task, response.message.text
    named = {
        f"tool:{task.id}:{draft.current().model_calls}:{at}": it for at, it in enumerate(response.message.tool_calls)
    }
    if too_large := next((asked for name, asked in named.items() if not draft.fits(name)), None):
        error = draft.too_large(f"the call of the tool {too_large.tool}")
        end(draft, task, "failed", output=text, error=error, stop_reason=response.stop_reason)
        return
    if text:
        draft.signal(task, "model_reply", text)
    calls = tuple(_pending(draft, task, draft.id(name), asked) for name, asked in named.items())
    draft.record(ToolsCalled(calls=calls, deadline_ms=patience(draft, calls)))
    for (name, asked), call in zip(named.items(), calls, strict=True):
        if call.under_way:
            send_tool(draft, task, name, call, asked.arguments)
    open_asks(draft, task)
    go_on(draft)


def _pending(draft: TurnDraft, task: Task, call_id: str, asked: ToolCallPart) -> PendingTool:
    """One call of a reply: with its result when it is not to be made, with a question when people decide."""
    agent = draft.agent(task)
    digest = argument_hash(asked.tool, asked.arguments)
    call = PendingTool(id=call_id, call_id=asked.call_id, tool=asked.tool, argument_hash=digest)
    refusal = turn_errors.uncallable(asked, {tool.name for tool in agent.tools})
    refusal = refusal or cut_off(draft.current().failures, asked.tool, digest, limit=agent.max_repeats)
    if not refusal and (looked_up := read_skill(asked, agent)):
        draft.signal(task, "tool_call", json.dumps(asked.arguments, ensure_ascii=False), tool=asked.tool)
        return call.model_copy(update={"result": looked_up})
    spec = agent.tool(asked.tool)
    if not refusal and spec is not None:
        match asking(draft, agent, spec, asked, digest):
            case str() as refusal:
                pass
            case Approval() as given:
                call = call.model_copy(update={"approval": given})
            case Ask() as asks:
                return call.model_copy(update={"asks": asks})
    if refusal:
        result = ToolResultPart(call_id=asked.call_id, parts=(TextPart(text=refusal),), is_error=True)
        return call.model_copy(update={"result": result})
    return call.model_copy(update={"deadline_ms": own_deadline(draft, spec)})


def own_deadline(draft: TurnDraft, spec: ToolSpec | None) -> int | None:
    """When a call that is sent now is given up, None: with the turn."""
    seconds = spec.deadline_seconds if spec is not None else None
    return None if seconds is None else draft.now_ms + round(seconds * 1000)


def send_tool(draft: TurnDraft, task: Task, name: str, call: PendingTool, arguments: dict[str, Any]) -> None:
    """Send a tool call to its workers; the command `name` has the call's id."""
    agent = draft.agent(task)
    spec = agent.tool(call.tool)
    assert spec is not None
    invoke = ToolInvoke(
        tool=call.tool,
        arguments=arguments,
        call_id=call.call_id,
        agent=agent.name,
        user=task.user,
        policy=agent.policy.about(call.tool),
        origins=draft.state.origins,
        approval=call.approval,
    )
    draft.call(task, name, invoke, topics.tool_invoke(spec.toolset), deadline_ms=call.deadline_ms)
    if call.deadline_ms is not None:
        draft.set_timer(task, call.deadline_ms, "call", call.id)
    draft.signal(task, "tool_call", json.dumps(arguments, ensure_ascii=False), tool=call.tool)


def repeat(draft: TurnDraft, before: Turn, call_id: str) -> None:
    """Send a command again that was not begun because its deadline passed while the turn stood still."""
    task, name = before.task, f"again:{call_id}"
    if not draft.fits(name):
        end(draft, task, "failed", error=draft.too_large("the repeated call"))
        return
    draft.answer(call_id)
    if not isinstance(before.phase, AwaitingTools):
        draft.record(CallRepeated(id=call_id, new_id=draft.id(name)))
        draft.resume(before)
        send_request(draft, task, name)
        return
    at, old = next((at, call) for at, call in enumerate(before.pending) if call.id == call_id)
    draft.cancel_call_timers(task, old)
    draft.record(
        CallRepeated(
            id=call_id, new_id=draft.id(name), deadline_ms=own_deadline(draft, draft.agent(task).tool(old.tool))
        )
    )
    draft.resume(before)
    send_tool(draft, task, name, draft.current().pending[at], arguments_of(draft, at))


def arguments_of(draft: TurnDraft, at: int) -> dict[str, Any]:
    """The arguments of the call at that place of the last reply: a person's, or the model's."""
    edited = draft.current().pending[at].arguments
    return edited if edited is not None else draft.state.messages[-1].tool_calls[at].arguments


def go_on(draft: TurnDraft) -> None:
    """Call the model again when every tool of its last reply has answered."""
    turn = draft.state.turn
    if turn is not None and turn.pending and all(call.result is not None for call in turn.pending):
        call_again(draft)


def call_again(draft: TurnDraft) -> None:
    """Call the model with what has come in since its last reply: results, and what joined tasks ask."""
    turn = draft.current()
    name = f"model:{turn.task.id}:{turn.model_calls + 1}"
    if not draft.fits(name):
        end(draft, turn.task, "failed", error=draft.too_large("the request to the model"))
        return
    joined = turn.unheard
    draft.record(ModelCalled(id=draft.id(name)))
    for task in joined:
        draft.signal(task, "steered", f"joined the task {turn.task.id}, whose answer will be its own")
    ask_model(draft, turn.task, name)
