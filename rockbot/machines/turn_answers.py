"""What comes back to a turn: replies, results, and the news that there will be none.

Every answer names the call it is for. One that nothing waits for, because it is late or a copy, is noted and changes nothing.
"""

from __future__ import annotations

import json
from typing import Final

from rockbot.events.content import Message, TextPart, ToolResultPart, text_of
from rockbot.events.models import LlmResponse
from rockbot.events.tasks import APPROVAL_REQUIRED, ErrorInfo, StepExpired, StepRefused, StepStalled
from rockbot.events.tools import ToolResult
from rockbot.machines import turn_errors
from rockbot.machines.limits import exceeded
from rockbot.machines.turn_asking import ask_for_summary, send_request, take_summary
from rockbot.machines.turn_calls import call_again, call_tools, go_on, repeat
from rockbot.machines.turn_draft import TurnDraft
from rockbot.machines.turn_ends import end
from rockbot.machines.turn_people import ask_after_all
from rockbot.machines.turn_records import ModelReplied, StepFailed, ToolReturned
from rockbot.machines.turn_state import AwaitingTools, Compacting, PendingTool, Turn
from rockbot.tokens import corrected_factor, estimate_request

__all__ = [
    "STALL_LIMIT",
    "expired",
    "gave_up",
    "model_replied",
    "refused",
    "stalled",
    "tool_returned",
]

#: Seconds that a stalled turn waits for somebody to send its dead letter on.
STALL_LIMIT: Final = 7 * 86_400


def model_replied(draft: TurnDraft, response: LlmResponse) -> None:
    """The reply leads to tool calls, to another model call for those who joined meanwhile, or to the end."""
    turn, call = draft.awaited()
    if turn is None or isinstance(turn.phase, AwaitingTools) or turn.phase.id != call:
        draft.ignore(response.type_name)
        return
    draft.answer(call)
    if isinstance(turn.phase, Compacting):
        _summarised(draft, turn, turn.phase, response)
        return
    # What a model said when its window was full is cut off: it is asked again once there is room.
    asks_again = response.stop_reason == "context_window" and turn.compacted_at != turn.model_calls
    draft.record(
        ModelReplied(
            id=call,
            message=Message(role="assistant", parts=()) if asks_again else response.message,
            stop_reason=response.stop_reason,
            usage=response.usage,
            token_factor=_factor(draft, turn, response),
            cost=response.cost,
        )
    )
    draft.resume(turn)
    if asks_again and ask_for_summary(draft, turn.task, forced=True):
        return
    turn = draft.current()
    text, calls, stop = response.message.text, response.message.tool_calls, response.stop_reason
    over = exceeded(draft.agent(turn.task).limits, turn.used, more_tools=len(calls))
    if error := turn_errors.model_stopped(stop, wants_tools=bool(calls)):
        end(draft, turn.task, "failed", output=text, error=error, stop_reason=stop)
    elif calls and over:
        end(draft, turn.task, "failed", output=text, error=turn_errors.over_limit(*over), stop_reason=stop)
    elif calls:
        call_tools(draft, response)
    elif turn.unheard and not over:
        call_again(draft)
    elif turn.task.output_schema is not None and response.problem:
        error = turn_errors.invalid_output(response.problem)
        end(draft, turn.task, "failed", output=text, error=error, stop_reason=stop)
    else:
        if turn.task.output_schema is not None and response.structured is not None:
            text = json.dumps(response.structured, ensure_ascii=False)
        end(draft, turn.task, "completed", output=text, stop_reason=stop)


def _summarised(draft: TurnDraft, before: Turn, phase: Compacting, response: LlmResponse) -> None:
    task = before.task
    name = f"model:{task.id}:{before.model_calls}"
    problem = take_summary(draft, phase, response, name)
    draft.resume(before)
    if not draft.fits(name):
        end(draft, task, "failed", error=draft.too_large("the request to the model"))
    elif problem and phase.forced:
        end(draft, task, "failed", error=turn_errors.no_room(problem))
    else:
        send_request(draft, task, name)


def _factor(draft: TurnDraft, turn: Turn, response: LlmResponse) -> float:
    """The correction of estimates after a call that used so much."""
    state, usage = draft.state, response.usage
    reported = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
    if not reported:
        return state.token_factor
    estimated = estimate_request(draft.messages.request(turn.task, draft.agent(turn.task), state))
    return corrected_factor(state.token_factor, estimated=estimated, reported=reported)


def tool_returned(draft: TurnDraft, result: ToolResult) -> None:
    """A tool has answered; after the last one the model is called."""
    turn, call = draft.awaited()
    pending = _under_way(turn, call)
    if turn is None or pending is None:
        draft.ignore(result.type_name)
        return
    parts = result.parts
    if pending.arguments is not None:
        edited = json.dumps(pending.arguments, ensure_ascii=False)
        parts = (TextPart(text=f"[a person changed the arguments of this call to {edited}]"), *parts)
    _answer(draft, turn, pending, ToolResultPart(call_id=pending.call_id, parts=parts, is_error=result.is_error))


def stalled(draft: TurnDraft, event: StepStalled) -> None:
    """The message of a call became a dead letter: the turn stands still, or the model is told."""
    turn, call = draft.awaited()
    if turn is None or not turn.awaits(call):
        draft.ignore(event.type_name)
        return
    # The letter keeps the command now: publishing it again would only bring more letters.
    draft.answer(call)
    pending = _under_way(turn, call)
    if pending is not None and _tells_model(draft, turn, pending):
        _fail(draft, turn, pending, f"the call of {pending.tool} failed: {event.reason}")
        return
    if pending is not None:
        draft.cancel_call_timers(turn.task, pending)
    # The clock stands while a person has to act; a long limit takes its place.
    limit_ms = draft.now_ms + STALL_LIMIT * 1000
    deadline_ms = max(limit_ms, turn.deadline_ms) if turn.asking else limit_ms
    draft.record(
        StepFailed(
            id=call, deadline_ms=deadline_ms, message_id=event.message_id, queue=event.queue, reason=event.reason
        )
    )
    draft.set_timer(turn.task, deadline_ms)
    draft.signal(turn.task, "stalled", f"a step failed and waits in {event.queue}.dlq: {event.reason}")


def expired(draft: TurnDraft) -> None:
    """A call was not begun in time: its own time, the turn's, or one that no longer counts because the turn stood still."""
    turn, call = draft.awaited()
    if turn is None or not turn.awaits(call):
        draft.ignore(StepExpired.type_name)
        return
    pending = _under_way(turn, call)
    if turn.stands:
        # The turn's clock stood, the message's did not: its deadline says nothing any more.
        repeat(draft, turn, call)
    elif pending is not None and pending.deadline_ms is not None and draft.now_ms < turn.deadline_ms:
        gave_up(draft, turn, pending)
    else:
        draft.answer(call)
        end(draft, turn.task, "expired", error=turn_errors.late_step())


def gave_up(draft: TurnDraft, turn: Turn, pending: PendingTool) -> None:
    """A tool had its time: the model is told, and whoever is still at it stops."""
    spec = draft.agent(turn.task).tool(pending.tool)
    seconds = spec.deadline_seconds if spec is not None and spec.deadline_seconds is not None else 0.0
    draft.send(draft.messages.stop(turn.task, [pending.id], "its deadline passed"))
    _fail(draft, turn, pending, turn_errors.no_answer(pending.tool, seconds))


def refused(draft: TurnDraft, event: StepRefused) -> None:
    """A worker did not begin a call: it needs a person, the model is told, or the task ends with what there is."""
    turn, call = draft.awaited()
    if turn is None or not turn.awaits(call):
        draft.ignore(event.type_name)
        return
    pending = _under_way(turn, call)
    if pending is not None and event.code == APPROVAL_REQUIRED and pending.approval is None:
        ask_after_all(draft, turn.task, pending, event.message)
    elif pending is not None and (event.code == APPROVAL_REQUIRED or _tells_model(draft, turn, pending)):
        _fail(draft, turn, pending, f"{pending.tool} was not called: {event.message}")
    else:
        draft.answer(call)
        if event.limit:
            draft.signal(turn.task, "limit", event.message)
        end(draft, turn.task, "failed", error=ErrorInfo(code=event.code, message=event.message))


def _fail(draft: TurnDraft, turn: Turn, pending: PendingTool, text: str) -> None:
    result = ToolResultPart(call_id=pending.call_id, parts=(TextPart(text=text),), is_error=True)
    _answer(draft, turn, pending, result)


def _answer(draft: TurnDraft, before: Turn, pending: PendingTool, result: ToolResultPart) -> None:
    draft.answer(pending.id)
    draft.cancel_call_timers(before.task, pending)
    draft.record(ToolReturned(id=pending.id, result=result))
    draft.resume(before)
    draft.signal(before.task, "tool_result", text_of(result.parts), tool=pending.tool)
    go_on(draft)


def _tells_model(draft: TurnDraft, turn: Turn, pending: PendingTool) -> bool:
    spec = draft.agent(turn.task).tool(pending.tool)
    return spec is not None and spec.on_exhausted == "tell_model"


def _under_way(turn: Turn | None, call: str) -> PendingTool | None:
    if turn is None:
        return None
    return next((each for each in turn.pending if each.id == call and each.under_way), None)
