"""The records that a conversation's journal is made of: everything that can have happened.

A record says what is the case since, in the words of the machine; `rockbot.machines.turn_evolve` folds it into the state. Its
`kind` is stored and never changes; a new kind is read by newer releases only.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from rockbot.events.approvals import DecisionKind
from rockbot.events.content import Message, ToolResultPart
from rockbot.events.models import SegmentRef, StopReason, Usage
from rockbot.events.tasks import ErrorInfo, TaskOutcome
from rockbot.machines.turn_state import Ask, PendingTool, Task

__all__ = [
    "RECORDS",
    "AnswerIgnored",
    "AskDecided",
    "CallAsked",
    "CallRepeated",
    "Compacted",
    "CompactionBegan",
    "CompactionFailed",
    "ConversationForked",
    "ModelCalled",
    "ModelReplied",
    "StepFailed",
    "TaskAccepted",
    "TaskJoined",
    "ToolReturned",
    "ToolsCalled",
    "TranscriptSealed",
    "TurnEnded",
    "TurnRecord",
    "TurnResumed",
    "TurnStarted",
]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class TaskAccepted(_Frozen):
    """A task joined the conversation."""

    kind: Literal["task_accepted"] = "task_accepted"
    task: Task


class TurnStarted(_Frozen):
    """A waiting task became the turn (the first one, unless `task_id` says which), and its input part of the transcript."""

    kind: Literal["turn_started"] = "turn_started"
    model_call: str
    task_id: str = ""


class TaskJoined(_Frozen):
    """A waiting task joined the turn under way. `heard`: its text answered a question of the model."""

    kind: Literal["task_joined"] = "task_joined"
    task_id: str
    heard: bool = False


class ModelReplied(_Frozen):
    """The model's reply to the command `id` is part of the transcript. `token_factor` corrects estimates since."""

    kind: Literal["model_replied"] = "model_replied"
    id: str
    message: Message
    stop_reason: StopReason
    usage: Usage
    token_factor: float | None = None
    cost: float | None = None


class ToolsCalled(_Frozen):
    """The tools of the last reply were called; calls that could not be made have their result already.

    `deadline_ms` is where the turn's deadline moved because people are asked about some of them; None: it did not move.
    """

    kind: Literal["tools_called"] = "tools_called"
    calls: tuple[PendingTool, ...]
    deadline_ms: int | None = None


class CallAsked(_Frozen):
    """The worker of the call `id` did not begin it without a person's approval; people are asked until `deadline_ms` at most."""

    kind: Literal["call_asked"] = "call_asked"
    id: str
    ask: Ask
    deadline_ms: int


class AskDecided(_Frozen):
    """A person, or the timer, decided about the call `id`: who (`by`), when, and for which arguments.

    An approved call was sent as `new_id`, with `arguments` in place of the model's when they were edited. `always`: its tool
    needs no approval in this conversation any more. A denied call, and an answered question, has its result in the next
    record.
    """

    kind: Literal["ask_decided"] = "ask_decided"
    id: str
    decision: DecisionKind
    by: str
    at_ms: int
    argument_hash: str
    text: str = ""
    new_id: str = ""
    arguments: dict[str, Any] | None = None
    approved_hash: str = ""
    deadline_ms: int | None = None
    always: bool = False


class ToolReturned(_Frozen):
    """One tool answered."""

    kind: Literal["tool_returned"] = "tool_returned"
    id: str
    result: ToolResultPart


class ModelCalled(_Frozen):
    """The model was called again: all tools had answered, or tasks joined that it has not heard.

    The results, then the texts of those tasks, are part of the transcript.
    """

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
    deadline_ms: int | None = None


class TurnResumed(_Frozen):
    """The last stalled call was answered, the last decision made: the clock runs again, until this deadline."""

    kind: Literal["turn_resumed"] = "turn_resumed"
    deadline_ms: int


class TranscriptSealed(_Frozen):
    """The first `messages` of the tail lie in segments now, the last of which is `head`."""

    kind: Literal["transcript_sealed"] = "transcript_sealed"
    messages: int
    head: SegmentRef


class CompactionBegan(_Frozen):
    """The command `id` asks for a summary of everything before message `cut` of the tail; the model's own call waits."""

    kind: Literal["compaction_began"] = "compaction_began"
    id: str
    cut: int
    forced: bool = False


class Compacted(_Frozen):
    """`message` stands for everything that is sealed by now; the model was called with it as `model_call`."""

    kind: Literal["compacted"] = "compacted"
    id: str
    message: Message
    usage: Usage
    model_call: str
    cost: float | None = None


class CompactionFailed(_Frozen):
    """The command `id` brought no summary; the model was called without one, as `model_call`."""

    kind: Literal["compaction_failed"] = "compaction_failed"
    id: str
    reason: str
    usage: Usage
    model_call: str
    cost: float | None = None


class ConversationForked(_Frozen):
    """It begins as a copy of `source` after its record `version`: its transcript, and what was approved for good."""

    kind: Literal["conversation_forked"] = "conversation_forked"
    source: str
    version: int
    messages: tuple[Message, ...]
    sealed: SegmentRef | None = None
    token_factor: float = 1.0
    always: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()


class AnswerIgnored(_Frozen):
    """An answer or a timer came that nothing waits for (late, repeated): it is noted and changes nothing."""

    kind: Literal["answer_ignored"] = "answer_ignored"
    type: str
    id: str


class TurnEnded(_Frozen):
    """The one end of a task: of the turn under way, of one that joined it, or of one that never became a turn.

    `answered_by` is the task whose turn a joined one ended with.
    """

    kind: Literal["turn_ended"] = "turn_ended"
    task_id: str
    status: TaskOutcome
    output: str = ""
    error: ErrorInfo | None = None
    answered_by: str = ""


TurnRecord = (
    TaskAccepted
    | TurnStarted
    | TaskJoined
    | ModelReplied
    | ToolsCalled
    | CallAsked
    | AskDecided
    | ToolReturned
    | ModelCalled
    | StepFailed
    | CallRepeated
    | TurnResumed
    | TranscriptSealed
    | CompactionBegan
    | Compacted
    | CompactionFailed
    | ConversationForked
    | AnswerIgnored
    | TurnEnded
)

RECORDS: TypeAdapter[TurnRecord] = TypeAdapter(Annotated[TurnRecord, Field(discriminator="kind")])
