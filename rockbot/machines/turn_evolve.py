"""How one record changes a conversation: the fold that makes the journal the truth and a snapshot a shortcut."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rockbot.events.content import Message, TextPart, ToolResultPart, origins_of
from rockbot.machines.cutoffs import noted
from rockbot.machines.turn_records import (
    AnswerIgnored,
    AskDecided,
    CallAsked,
    CallRepeated,
    Compacted,
    CompactionBegan,
    CompactionFailed,
    ConversationForked,
    ModelCalled,
    ModelReplied,
    StepFailed,
    TaskAccepted,
    TaskJoined,
    ToolReturned,
    ToolsCalled,
    TranscriptSealed,
    TurnEnded,
    TurnRecord,
    TurnResumed,
    TurnStarted,
)
from rockbot.machines.turn_state import (
    AwaitingModel,
    AwaitingTools,
    Compacting,
    Conversation,
    Joined,
    PendingTool,
    StalledCall,
    Task,
    Turn,
)
from rockbot.policies.approvals import Approval

__all__ = ["evolve"]


def evolve(state: Conversation, record: TurnRecord) -> Conversation:
    """The conversation after one more record."""
    match record:
        case TaskAccepted(task=task):
            return state.model_copy(update={"waiting": (*state.waiting, task)})
        case TurnStarted():
            return _started(state, record)
        case TurnEnded(task_id=task_id):
            return _ended(state, task_id)
        case TranscriptSealed(messages=count, head=head):
            return state.model_copy(update={"messages": state.messages[count:], "sealed": head})
        case ConversationForked():
            copied = {"messages", "sealed", "token_factor", "always", "origins"}
            return state.model_copy(update={name: getattr(record, name) for name in copied})
        case AnswerIgnored():
            return state
    turn = state.turn
    if turn is None:
        return state
    match record:
        case TaskJoined(task_id=task_id, heard=heard):
            task = next(task for task in state.waiting if task.id == task_id)
            waiting = tuple(each for each in state.waiting if each is not task)
            joined = (*turn.joined, Joined(task=task, heard=heard))
            return state.model_copy(update={"waiting": waiting, "turn": turn.model_copy(update={"joined": joined})})
        case ModelReplied(message=message):
            # An empty reply is legal; an empty message in a request is not.
            messages = (*state.messages, message) if message.parts else state.messages
            factor = record.token_factor or state.token_factor
            changes = {"messages": messages, "turn": _replied(turn, record), "token_factor": factor}
            return state.model_copy(update=changes)
        case Compacted(message=message):
            sealed = state.sealed and state.sealed.model_copy(update={"since": state.sealed.number})
            changes = {"messages": (message, *state.messages), "turn": _after_summary(turn, record), "sealed": sealed}
            return state.model_copy(update=changes)
        case ModelCalled(id=call_id):
            return _called_again(state, turn, call_id)
        case AskDecided(always=True, id=call_id) if (asked := _find(turn, call_id)) is not None:
            state = state.model_copy(update={"always": (*state.always, asked.tool)})
    return state.model_copy(update={"turn": _within(turn, record)})


def _within(turn: Turn, record: TurnRecord) -> Turn:
    """What changes the turn and nothing else of the conversation."""
    match record:
        case CompactionBegan(id=call_id, cut=cut, forced=forced):
            phase = Compacting(id=call_id, cut=cut, forced=forced)
            return turn.model_copy(update={"phase": phase, "compacted_at": turn.model_calls})
        case CompactionFailed():
            return _after_summary(turn, record)
        case ToolsCalled(calls=calls, deadline_ms=deadline_ms):
            changes = {"phase": AwaitingTools(calls=calls), "tool_calls": turn.tool_calls + len(calls)}
            return turn.model_copy(update=changes | _deadline(deadline_ms))
        case CallAsked(id=call_id, ask=ask, deadline_ms=deadline_ms):
            asked = _with(turn, call_id, lambda call: call.model_copy(update={"asks": ask, "deadline_ms": None}))
            return asked.model_copy(update=_deadline(deadline_ms) | {"stalled": _still_stalled(turn, call_id)})
        case AskDecided(id=call_id):
            return _with(turn, call_id, lambda call: _decided(call, record))
        case ToolReturned(id=call_id, result=result):
            call = _find(turn, call_id)
            if call is None:
                return turn
            answered = _with(turn, call_id, lambda call: call.model_copy(update={"result": result, "asks": None}))
            failures = noted(turn.failures, call.tool, call.argument_hash, failed=result.is_error)
            return answered.model_copy(update={"stalled": _still_stalled(turn, call_id), "failures": failures})
        case StepFailed(id=call_id, reason=reason, deadline_ms=deadline_ms):
            stalled = (*_still_stalled(turn, call_id), StalledCall(id=call_id, reason=reason))
            return turn.model_copy(update={"stalled": stalled, "deadline_ms": deadline_ms})
        case CallRepeated(id=call_id, new_id=new_id, deadline_ms=deadline_ms):
            if not isinstance(turn.phase, AwaitingTools):
                renamed = turn.model_copy(update={"phase": turn.phase.model_copy(update={"id": new_id})})
            else:
                renamed = _with(
                    turn, call_id, lambda call: call.model_copy(update={"id": new_id, "deadline_ms": deadline_ms})
                )
            return renamed.model_copy(update={"stalled": _still_stalled(turn, call_id)})
        case TurnResumed(deadline_ms=deadline_ms):
            return turn.model_copy(update={"deadline_ms": deadline_ms})
    return turn


def _started(state: Conversation, record: TurnStarted) -> Conversation:
    task = next(task for task in state.waiting if not record.task_id or task.id == record.task_id)
    messages = (*state.messages, Message(role="user", parts=task.parts))
    started = Turn(task=task, phase=AwaitingModel(id=record.model_call), deadline_ms=task.deadline_ms, model_calls=1)
    waiting = tuple(each for each in state.waiting if each is not task)
    changes = {"messages": messages, "turn": started, "waiting": waiting, "origins": _heard(state, [task])}
    return state.model_copy(update=changes)


def _ended(state: Conversation, task_id: str) -> Conversation:
    """Whoever joined and was not heard waits again, before those that came later."""
    turn = state.turn
    waiting = tuple(task for task in state.waiting if task.id != task_id)
    changes: dict[str, object] = {"ended": state.ended + 1}
    if turn is not None and turn.task.id == task_id:
        waiting = (*turn.unheard, *waiting)
        changes |= {"turn": None, "messages": _without_open_calls(state.messages, turn)}
        changes |= {"origins": _heard(state, [], turn.pending)}
    elif turn is not None:
        joined = tuple(each for each in turn.joined if each.task.id != task_id)
        changes |= {"turn": turn.model_copy(update={"joined": joined})}
    return state.model_copy(update=changes | {"waiting": waiting})


def _replied(turn: Turn, record: ModelReplied) -> Turn:
    return turn.model_copy(update=_paid(turn, record) | {"said": record.message.text or turn.said})


def _after_summary(turn: Turn, record: Compacted | CompactionFailed) -> Turn:
    return turn.model_copy(update=_paid(turn, record) | {"phase": AwaitingModel(id=record.model_call)})


def _paid(turn: Turn, record: ModelReplied | Compacted | CompactionFailed) -> dict[str, object]:
    """What a finished model call adds to the turn."""
    return {
        "usage": turn.usage + record.usage,
        "cost": turn.cost if record.cost is None else (turn.cost or 0.0) + record.cost,
        "stalled": _still_stalled(turn, record.id),
    }


def _called_again(state: Conversation, turn: Turn, call_id: str) -> Conversation:
    results = tuple(call.result for call in turn.pending if call.result is not None)
    told = [Message(role="user", parts=results)] if results else []
    told += [Message(role="user", parts=task.parts) for task in turn.unheard]
    joined = tuple(each.model_copy(update={"heard": True}) for each in turn.joined)
    changes = {"phase": AwaitingModel(id=call_id), "model_calls": turn.model_calls + 1, "joined": joined}
    origins = _heard(state, turn.unheard, turn.pending)
    return state.model_copy(
        update={"messages": (*state.messages, *told), "turn": turn.model_copy(update=changes), "origins": origins}
    )


def _heard(state: Conversation, tasks: Iterable[Task], calls: Iterable[PendingTool] = ()) -> tuple[str, ...]:
    """The origins of the conversation, with those of what the model is told now."""
    origins = set(state.origins)
    for task in tasks:
        origins |= origins_of(task.parts, otherwise="user")
    for call in calls:
        if call.result is not None:
            origins |= origins_of(call.result.parts, otherwise=f"tool:{call.tool}")
    return tuple(sorted(origins))


def _decided(call: PendingTool, record: AskDecided) -> PendingTool:
    if not record.new_id:
        return call  # its result follows
    approval = Approval(approval_id=call.id, argument_hash=record.approved_hash, by=record.by)
    changes = {
        "id": record.new_id,
        "asks": None,
        "arguments": record.arguments,
        "approval": approval,
        "argument_hash": record.approved_hash,
        "deadline_ms": record.deadline_ms,
    }
    return call.model_copy(update=changes)


def _find(turn: Turn, call_id: str) -> PendingTool | None:
    return next((call for call in turn.pending if call.id == call_id), None)


def _with(turn: Turn, call_id: str, change: Callable[[PendingTool], PendingTool]) -> Turn:
    """The turn with one of its tool calls changed; a call that it does not have changes nothing."""
    if not isinstance(turn.phase, AwaitingTools):
        return turn
    calls = tuple(change(call) if call.id == call_id else call for call in turn.phase.calls)
    return turn.model_copy(update={"phase": AwaitingTools(calls=calls)})


def _deadline(deadline_ms: int | None) -> dict[str, object]:
    return {} if deadline_ms is None else {"deadline_ms": deadline_ms}


def _still_stalled(turn: Turn, answered: str) -> tuple[StalledCall, ...]:
    return tuple(call for call in turn.stalled if call.id != answered)


def _without_open_calls(messages: tuple[Message, ...], turn: Turn) -> tuple[Message, ...]:
    """The transcript of a turn that ends now. Providers refuse a transcript with a tool call that has no result."""
    asked = messages[-1].tool_calls if messages else ()
    if not asked:
        return messages
    came = [call.result for call in turn.pending]
    results = tuple(
        (came[at] if at < len(came) else None)
        or ToolResultPart(
            call_id=call.call_id, parts=(TextPart(text="the task ended before this call"),), is_error=True
        )
        for at, call in enumerate(asked)
    )
    return (*messages, Message(role="user", parts=results))
