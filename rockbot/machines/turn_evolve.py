"""How one record changes a conversation: the fold that makes the journal the truth and a snapshot a shortcut."""

from __future__ import annotations

from rockbot.events.content import Message, TextPart, ToolResultPart
from rockbot.machines.turn_records import (
    AnswerIgnored,
    CallRepeated,
    Compacted,
    CompactionBegan,
    CompactionFailed,
    ModelCalled,
    ModelReplied,
    StepFailed,
    TaskAccepted,
    ToolReturned,
    ToolsCalled,
    TranscriptSealed,
    TurnEnded,
    TurnRecord,
    TurnResumed,
    TurnStarted,
)
from rockbot.machines.turn_state import AwaitingModel, AwaitingTools, Compacting, Conversation, StalledCall, Turn

__all__ = ["evolve"]


def evolve(state: Conversation, record: TurnRecord) -> Conversation:
    """The conversation after one more record."""
    turn = state.turn
    match record:
        case TaskAccepted(task=task):
            return state.model_copy(update={"waiting": (*state.waiting, task)})
        case TurnStarted(model_call=call):
            task, rest = state.waiting[0], state.waiting[1:]
            messages = (*state.messages, Message(role="user", parts=task.parts))
            started = Turn(task=task, phase=AwaitingModel(id=call), deadline_ms=task.deadline_ms, model_calls=1)
            return state.model_copy(update={"messages": messages, "turn": started, "waiting": rest})
        case TurnEnded(task_id=task_id):
            waiting = tuple(task for task in state.waiting if task.id != task_id)
            changes = {"waiting": waiting, "ended": state.ended + 1}
            if turn is not None and turn.task.id == task_id:
                changes |= {"turn": None, "messages": _without_open_calls(state.messages, turn)}
            return state.model_copy(update=changes)
        case TranscriptSealed(messages=count, head=head):
            return state.model_copy(update={"messages": state.messages[count:], "sealed": head})
        case AnswerIgnored():
            return state
    if turn is None:
        return state
    match record:
        case CompactionBegan(id=call_id, cut=cut, forced=forced):
            phase = Compacting(id=call_id, cut=cut, forced=forced)
            changed = turn.model_copy(update={"phase": phase, "compacted_at": turn.model_calls})
            return state.model_copy(update={"turn": changed})
        case Compacted(message=message):
            sealed = state.sealed and state.sealed.model_copy(update={"since": state.sealed.number})
            messages = (message, *state.messages)
            return state.model_copy(
                update={"turn": _after_summary(turn, record), "messages": messages, "sealed": sealed}
            )
        case CompactionFailed():
            return state.model_copy(update={"turn": _after_summary(turn, record)})
        case ModelReplied(id=call_id, message=message, usage=usage, token_factor=factor):
            changed = turn.model_copy(update={"usage": turn.usage + usage, "stalled": _still_stalled(turn, call_id)})
            # An empty reply is legal; an empty message in a request is not.
            messages = (*state.messages, message) if message.parts else state.messages
            return state.model_copy(
                update={"messages": messages, "turn": changed, "token_factor": factor or state.token_factor}
            )
        case ToolsCalled(calls=calls):
            changed = turn.model_copy(
                update={"phase": AwaitingTools(calls=calls), "tool_calls": turn.tool_calls + len(calls)}
            )
            return state.model_copy(update={"turn": changed})
        case ToolReturned(id=call_id, result=result) if isinstance(turn.phase, AwaitingTools):
            calls = tuple(
                call.model_copy(update={"result": result}) if call.id == call_id else call for call in turn.phase.calls
            )
            changed = turn.model_copy(
                update={"phase": AwaitingTools(calls=calls), "stalled": _still_stalled(turn, call_id)}
            )
            return state.model_copy(update={"turn": changed})
        case ModelCalled(id=call_id) if isinstance(turn.phase, AwaitingTools):
            results = tuple(call.result for call in turn.phase.calls if call.result is not None)
            changed = turn.model_copy(update={"phase": AwaitingModel(id=call_id), "model_calls": turn.model_calls + 1})
            messages = (*state.messages, Message(role="user", parts=results))
            return state.model_copy(update={"messages": messages, "turn": changed})
        case StepFailed(id=call_id, reason=reason, deadline_ms=deadline_ms):
            stalled = (*_still_stalled(turn, call_id), StalledCall(id=call_id, reason=reason))
            changed = turn.model_copy(update={"stalled": stalled, "deadline_ms": deadline_ms})
            return state.model_copy(update={"turn": changed})
        case CallRepeated(id=call_id, new_id=new_id):
            changes = {"phase": _renamed(turn.phase, call_id, new_id), "stalled": _still_stalled(turn, call_id)}
            return state.model_copy(update={"turn": turn.model_copy(update=changes)})
        case TurnResumed(deadline_ms=deadline_ms):
            return state.model_copy(update={"turn": turn.model_copy(update={"deadline_ms": deadline_ms})})
    return state


def _still_stalled(turn: Turn, answered: str) -> tuple[StalledCall, ...]:
    return tuple(call for call in turn.stalled if call.id != answered)


def _after_summary(turn: Turn, record: Compacted | CompactionFailed) -> Turn:
    return turn.model_copy(
        update={
            "phase": AwaitingModel(id=record.model_call),
            "usage": turn.usage + record.usage,
            "stalled": _still_stalled(turn, record.id),
        }
    )


def _renamed(
    phase: AwaitingModel | AwaitingTools | Compacting, old: str, new: str
) -> AwaitingModel | AwaitingTools | Compacting:
    if not isinstance(phase, AwaitingTools):
        return phase.model_copy(update={"id": new})
    return AwaitingTools(
        calls=tuple(call.model_copy(update={"id": new}) if call.id == old else call for call in phase.calls)
    )


def _without_open_calls(messages: tuple[Message, ...], turn: Turn) -> tuple[Message, ...]:
    """The transcript of a turn that ends now. Providers refuse a transcript with a tool call that has no result."""
    asked = messages[-1].tool_calls if messages else ()
    if not asked:
        return messages
    came = [call.result for call in turn.phase.calls] if isinstance(turn.phase, AwaitingTools) else []
    results = tuple(
        (came[at] if at < len(came) else None)
        or ToolResultPart(
            call_id=call.call_id, parts=(TextPart(text="the task ended before this call"),), is_error=True
        )
        for at, call in enumerate(asked)
    )
    return (*messages, Message(role="user", parts=results))
