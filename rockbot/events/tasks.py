"""Tasks: what an agent is asked, what it answers, and what it tells those who watch."""

from __future__ import annotations

from typing import Any, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from rockbot.events.content import ContentPart, TextPart
from rockbot.events.event import Event
from rockbot.events.models import StopReason, Usage
from rockbot_messaging.notices import STALLED_TYPE
from rockbot_messaging.ports import Door

__all__ = [
    "APPROVAL_REQUIRED",
    "AgentResponse",
    "AgentStatus",
    "AgentTask",
    "ErrorInfo",
    "StatusKind",
    "StepExpired",
    "StepRefused",
    "StepStalled",
    "TaskLane",
    "TaskMode",
    "TaskOutcome",
    "TimerDue",
]

TaskOutcome = Literal["completed", "failed", "canceled", "expired"]
#: What becomes of a task that arrives while another one runs in its conversation.
TaskMode = Literal["steer", "queue", "interrupt"]
TaskLane = Literal["interactive", "delegated", "scheduled"]
StatusKind = Literal[
    "accepted",
    "queued",
    "steered",
    "model_call",
    "model_reply",
    "tool_call",
    "tool_progress",
    "tool_result",
    "compacting",
    "approval",
    "question",
    "decided",
    "limit",
    "compacting",
    "stalled",
    "ended",
]


class AgentTask(Event):
    """Ask an agent. ``{"input": "..."}`` is a whole task.

    `conversation_id` continues a conversation (an envelope's conversation goes before it); `timeout_seconds` bounds the
    task when the envelope has no deadline. `mode` says what happens when the conversation is busy (None: the agent's setting
    `when_busy`): join the running task, wait for its end, or end it. `user` is whose limits count, `lane` how urgent its model
    calls are. With an `output_schema` (a JSON schema) the answer's output is a JSON value that is valid against it.

    What a person writes on a channel (``user.message.<channel>.<account>``) is a task, too: of the conversation
    ``<channel>.<account>`` and of a user of that name, unless it says otherwise.
    """

    type_name: ClassVar[str] = "rockbot.agent.task"
    topics: ClassVar[tuple[str, ...]] = ("agent.task", "agent.task.*", "user.message.*.*")

    input: str | tuple[ContentPart, ...] = Field(min_length=1)
    conversation_id: str | None = Field(default=None, min_length=1, max_length=200)
    timeout_seconds: float | None = Field(default=None, gt=0, le=30 * 86400)
    mode: TaskMode | None = None
    user: str = Field(default="", max_length=200)
    lane: TaskLane = "interactive"
    output_schema: dict[str, Any] | None = None

    @property
    def parts(self) -> tuple[ContentPart, ...]:
        """The input as parts."""
        return (TextPart(text=self.input),) if isinstance(self.input, str) else self.input


class ErrorInfo(BaseModel):
    """Why a task did not complete: a stable code for programs, a sentence for people."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    code: str
    message: str


class AgentResponse(Event):
    """The one terminal event of a task: on its reply queue, else on ``user.reply.<channel>.<account>`` for what a person wrote
    on a channel, else on ``agent.response.<agent>``. `stop_reason` is how the model's last reply ended: by itself, or cut short.

    `answered_by` is the task whose turn gave the answer when this one joined it (empty: its own). `cost` is the money its
    model calls took, in the currency of the price table; None when a price is not known.
    """

    type_name: ClassVar[str] = "rockbot.agent.response"
    topics: ClassVar[tuple[str, ...]] = ("agent.response.*", "user.reply.*.*")
    door: ClassVar[Door] = Door.PUBLIC

    task_id: str
    conversation_id: str
    agent: str
    status: TaskOutcome
    output: str = ""
    parts: tuple[ContentPart, ...] = ()
    error: ErrorInfo | None = None
    stop_reason: StopReason = "end_turn"
    model_calls: int = 0
    tool_calls: int = 0
    usage: Usage = Usage()
    cost: float | None = None
    answered_by: str = ""


class AgentStatus(Event):
    """One step of a task as it happens, for watchers; may be lost. `fraction` is how much of a tool's work is done, 0 to 1."""

    type_name: ClassVar[str] = "rockbot.agent.status"
    topics: ClassVar[tuple[str, ...]] = ("agent.status.*",)
    door: ClassVar[Door] = Door.LOSSY

    task_id: str
    conversation_id: str
    agent: str
    kind: StatusKind
    text: str = ""
    tool: str = ""
    step: int = 0
    fraction: float | None = None


class StepStalled(Event):
    """A step of a turn lies in a dead-letter queue; the turn waits until somebody sends it on."""

    type_name: ClassVar[str] = STALLED_TYPE

    message_id: str
    queue: str
    reason: str


class StepExpired(Event):
    """A command was not begun because its deadline had passed; the answer to any command that has a return address."""

    type_name: ClassVar[str] = "rockbot.agent.step-expired"

    message_id: str


#: Code of a refusal that a person's approval would lift.
APPROVAL_REQUIRED: Final = "approval_required"


class StepRefused(Event):
    """A command was not begun because a limit forbids it; the answer of a worker that keeps one.

    `limit` names it, `code` and `message` are what the task's answer says. `permanent` false means that the same command
    may be allowed later (the limit of a day).
    """

    type_name: ClassVar[str] = "rockbot.agent.step.refused"

    message_id: str
    code: str = "limit"
    message: str
    limit: str = ""
    permanent: bool = True


class TimerDue(Event):
    """A durable timer fell due. Stale ones, those whose `due_ms` is not what the timer is set to now, are ignored."""

    type_name: ClassVar[str] = "rockbot.timer.due"
    topics: ClassVar[tuple[str, ...]] = ("timer.due.*",)

    timer_id: str
    purpose: str
    due_ms: int
