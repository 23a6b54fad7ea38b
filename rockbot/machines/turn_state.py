"""The state of a conversation and the records its journal is made of.

A conversation holds the transcript, at most one turn under way, and the tasks that wait for it. A turn is in exactly one
phase; what a phase does not have cannot be written down.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from rockbot.events.content import ContentPart, Message, ToolResultPart
from rockbot.events.models import StopReason, Usage
from rockbot.events.tasks import ErrorInfo, TaskOutcome
from rockbot.events.tools import ToolSpec

__all__ = [
    "RECORDS",
    "AnswerIgnored",
    "AwaitingModel",
    "AwaitingTools",
    "Conversation",
    "ModelCalled",
    "ModelReplied",
    "PendingTool",
    "StepFailed",
    "Task",
    "TaskAccepted",
    "ToolReturned",
    "ToolsCalled",
    "Turn",
    "TurnEnded",
    "TurnRecord",
    "TurnStarted",
]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class AgentSnapshot(_Frozen):
    """The agent as it was when the task was accepted; a later change of settings does not touch a running turn."""

    name: str
    model: str
    instructions: str
    tools: tuple[ToolSpec, ...]
    max_model_calls: int
    max_output_tokens: int


class Task(_Frozen):
    """One accepted task: what is asked, by whom, until when."""

    id: str
    agent: AgentSnapshot
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


class Turn(_Frozen):
    """The turn under way. `stalled`: why steps of it lie in a dead-letter queue; meanwhile its clock stands."""

    task: Task
    phase: Annotated[AwaitingModel | AwaitingTools, Field(discriminator="kind")]
    model_calls: int = 0
    tool_calls: int = 0
    usage: Usage = Usage()
    stalled: tuple[str, ...] = ()


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
    """A step of the turn lies in a dead-letter queue."""

    kind: Literal["step_failed"] = "step_failed"
    message_id: str
    queue: str
    reason: str


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
            started = Turn(task=task, phase=AwaitingModel(id=call), model_calls=1)
            return state.model_copy(update={"messages": messages, "turn": started, "waiting": rest})
        case TurnEnded(task_id=task_id):
            waiting = tuple(task for task in state.waiting if task.id != task_id)
            ours = turn is not None and turn.task.id == task_id
            return state.model_copy(
                update={"turn": None if ours else turn, "waiting": waiting, "ended": state.ended + 1}
            )
        case AnswerIgnored():
            return state
    if turn is None:
        return state
    match record:
        case ModelReplied(message=message, usage=usage):
            changed = turn.model_copy(update={"usage": turn.usage + usage, "stalled": ()})
            return state.model_copy(update={"messages": (*state.messages, message), "turn": changed})
        case ToolsCalled(calls=calls):
            changed = turn.model_copy(
                update={"phase": AwaitingTools(calls=calls), "tool_calls": turn.tool_calls + len(calls)}
            )
            return state.model_copy(update={"turn": changed})
        case ToolReturned(id=call_id, result=result) if isinstance(turn.phase, AwaitingTools):
            calls = tuple(
                call.model_copy(update={"result": result}) if call.id == call_id else call for call in turn.phase.calls
            )
            changed = turn.model_copy(update={"phase": AwaitingTools(calls=calls), "stalled": ()})
            return state.model_copy(update={"turn": changed})
        case ModelCalled(id=call_id) if isinstance(turn.phase, AwaitingTools):
            results = tuple(call.result for call in turn.phase.calls if call.result is not None)
            changed = turn.model_copy(update={"phase": AwaitingModel(id=call_id), "model_calls": turn.model_calls + 1})
            messages = (*state.messages, Message(role="user", parts=results))
            return state.model_copy(update={"messages": messages, "turn": changed})
        case StepFailed(reason=reason):
            return state.model_copy(update={"turn": turn.model_copy(update={"stalled": (*turn.stalled, reason)})})
    return state
