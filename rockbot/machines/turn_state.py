"""The state of a conversation and the records its journal is made of.

A conversation holds the transcript, at most one turn under way, and the tasks that wait for it. A turn is in exactly one
phase; what a phase does not have cannot be written down.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from rockbot.events.content import ContentPart, Message, TextPart, ToolResultPart
from rockbot.events.models import StopReason, Usage
from rockbot.events.tasks import ErrorInfo, TaskOutcome
from rockbot.machines.agent_snapshot import AgentRef, AgentSnapshot

__all__ = [
    "RECORDS",
    "AnswerIgnored",
    "AwaitingModel",
    "AwaitingTools",
    "CallRepeated",
    "Conversation",
    "ModelCalled",
    "ModelReplied",
    "PendingTool",
    "StalledCall",
    "StepFailed",
    "Task",
    "TaskAccepted",
    "ToolReturned",
    "ToolsCalled",
    "Turn",
    "TurnEnded",
    "TurnRecord",
    "TurnResumed",
    "TurnStarted",
]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Task(_Frozen):
    """One accepted task: what is asked, by whom, until when. Tasks of older releases hold their whole snapshot."""

    id: str
    agent: AgentRef | AgentSnapshot
    parts: tuple[ContentPart, ...]
    correlation_id: str | None = None
    reply_to: str | None = None
    deadline_ms: int
    allowed_ms: int


class PendingTool(_Frozen):
    """One tool call under way. `id` is the command's message id, `call_id` the model's; `result` None until it came."""

    id: str
    call_id: str
    tool: str
    result: ToolResultPart | None = None


class AwaitingModel(_Frozen):
    """The model was called with the command `id`."""

    kind: Literal["awaiting_model"] = "awaiting_model"
    id: str


class AwaitingTools(_Frozen):
    """At least one of these tools has not answered."""

    kind: Literal["awaiting_tools"] = "awaiting_tools"
    calls: tuple[PendingTool, ...]

    @property
    def complete(self) -> bool:
        """Whether every tool has answered."""
        return all(call.result is not None for call in self.calls)


class StalledCall(_Frozen):
    """A call under way whose message lies in a dead-letter queue, and why. `id` is the command's message id."""

    id: str
    reason: str


class Turn(_Frozen):
    """The turn under way.

    `deadline_ms` is the instant at which it ends unfinished. While calls are `stalled` its clock stands, and the instant
    is the end of the patience with them.
    """

    task: Task
    phase: Annotated[AwaitingModel | AwaitingTools, Field(discriminator="kind")]
    deadline_ms: int
    model_calls: int = 0
    tool_calls: int = 0
    usage: Usage = Usage()
    stalled: tuple[StalledCall, ...] = ()

    def awaits(self, call: str) -> bool:
        """Whether the call with this id has not been answered yet."""
        return call in self.open_calls

    @property
    def open_calls(self) -> list[str]:
        """The ids of the calls that have not been answered yet."""
        if isinstance(self.phase, AwaitingModel):
            return [self.phase.id]
        return [call.id for call in self.phase.calls if call.result is None]


class Conversation(_Frozen):
    """Everything that is known of one conversation."""

    messages: tuple[Message, ...] = ()
    turn: Turn | None = None
    waiting: tuple[Task, ...] = ()
    ended: int = 0


class TaskAccepted(_Frozen):
    """A task joined the conversation."""

    kind: Literal["task_accepted"] = "task_accepted"
    task: Task


class TurnStarted(_Frozen):
    """The first waiting task became the turn, and its input part of the transcript."""

    kind: Literal["turn_started"] = "turn_started"
    model_call: str


class ModelReplied(_Frozen):
    """The model's reply to the command `id` is part of the transcript."""

    kind: Literal["model_replied"] = "model_replied"
    id: str
    message: Message
    stop_reason: StopReason
    usage: Usage


class ToolsCalled(_Frozen):
    """The tools of the last reply were called; calls that could not be made have their result already."""

    kind: Literal["tools_called"] = "tools_called"
    calls: tuple[PendingTool, ...]


class ToolReturned(_Frozen):
    """One tool answered."""

    kind: Literal["tool_returned"] = "tool_returned"
    id: str
    result: ToolResultPart


class ModelCalled(_Frozen):
    """All tools had answered; their results are part of the transcript and the model was called again."""

    kind: Literal["model_called"] = "model_called"
    id: str


class StepFailed(_Frozen):
    """A step of the turn, the one for the call `id`, lies in a dead-letter queue; the turn waits until `deadline_ms`."""

    kind: Literal["step_failed"] = "step_failed"
    id: str
    deadline_ms: int
    message_id: str
    queue: str
    reason: str


class CallRepeated(_Frozen):
    """The call `id` was not begun because its deadline passed while the turn stood still; it was sent again as `new_id`."""

    kind: Literal["call_repeated"] = "call_repeated"
    id: str
    new_id: str


class TurnResumed(_Frozen):
    """The last stalled call was answered: the clock runs again, until this deadline."""

    kind: Literal["turn_resumed"] = "turn_resumed"
    deadline_ms: int


class AnswerIgnored(_Frozen):
    """An answer or a timer came that nothing waits for (late, repeated): it is noted and changes nothing."""

    kind: Literal["answer_ignored"] = "answer_ignored"
    type: str
    id: str


class TurnEnded(_Frozen):
    """The one end of a task: of the turn under way, or of a task that never became one."""

    kind: Literal["turn_ended"] = "turn_ended"
    task_id: str
    status: TaskOutcome
    output: str = ""
    error: ErrorInfo | None = None


TurnRecord = (
    TaskAccepted
    | TurnStarted
    | ModelReplied
    | ToolsCalled
    | ToolReturned
    | ModelCalled
    | StepFailed
    | CallRepeated
    | TurnResumed
    | AnswerIgnored
    | TurnEnded
)

RECORDS: TypeAdapter[TurnRecord] = TypeAdapter(Annotated[TurnRecord, Field(discriminator="kind")])


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
        case AnswerIgnored():
            return state
    if turn is None:
        return state
    match record:
        case ModelReplied(id=call_id, message=message, usage=usage):
            changed = turn.model_copy(update={"usage": turn.usage + usage, "stalled": _still_stalled(turn, call_id)})
            # An empty reply is legal; an empty message in a request is not.
            messages = (*state.messages, message) if message.parts else state.messages
            return state.model_copy(update={"messages": messages, "turn": changed})
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


def _renamed(phase: AwaitingModel | AwaitingTools, old: str, new: str) -> AwaitingModel | AwaitingTools:
    if isinstance(phase, AwaitingModel):
        return AwaitingModel(id=new)
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
