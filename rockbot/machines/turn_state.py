"""The state of a conversation: what its journal amounts to.

A conversation holds the transcript, at most one turn under way with the tasks that joined it, and the tasks that wait. A turn is
in exactly one phase; what a phase does not have cannot be written down.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rockbot.events.approvals import ApprovalKind
from rockbot.events.content import ContentPart, Message, ToolResultPart
from rockbot.events.models import SegmentRef, Usage
from rockbot.events.tasks import TaskLane, TaskMode
from rockbot.machines.agent_snapshot import AgentRef, AgentSnapshot
from rockbot.machines.cutoffs import FailedCall
from rockbot.machines.limits import Used
from rockbot.policies.approvals import Approval

__all__ = [
    "Ask",
    "AwaitingModel",
    "AwaitingTools",
    "Compacting",
    "Conversation",
    "Joined",
    "PendingTool",
    "StalledCall",
    "StateName",
    "Task",
    "Turn",
]

#: Every state that a task can be in. The last four are its ends.
StateName = Literal[
    "received",
    "awaiting_model",
    "awaiting_tools",
    "awaiting_approval",
    "awaiting_input",
    "compacting",
    "stalled",
    "completed",
    "failed",
    "canceled",
    "expired",
]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Task(_Frozen):
    """One accepted task: what is asked, by whom, until when, and the `memory` that its agent brings along.

    Tasks of older releases hold their whole snapshot.

    `traceparent` is the trace context that it came with, `trace` the one of everything that is sent on its behalf.

    `place` is where a person wrote it (``<channel>.<account>``) and reads the answer; empty: it came from no channel.

    `root_id` is the task on whose behalf it was delegated, in the end; empty: itself. `mode` is what it asked to become when
    the conversation is busy.
    """

    id: str
    agent: AgentRef | AgentSnapshot
    parts: tuple[ContentPart, ...]
    memory: str = ""
    correlation_id: str | None = None
    reply_to: str | None = None
    deadline_ms: int
    allowed_ms: int
    accepted_ms: int = 0
    root_id: str = ""
    mode: TaskMode | None = None
    user: str = ""
    lane: TaskLane = "interactive"
    output_schema: dict[str, Any] | None = None
    place: str = ""
    traceparent: str | None = None
    trace: str | None = None

    @property
    def root(self) -> str:
        """The id under which its work is cancelled."""
        return self.root_id or self.id


class Ask(_Frozen):
    """Something that people were asked about a call; the id under which they answer is that of the call.

    `argument_hash` is that of the arguments they are shown.
    """

    kind: ApprovalKind
    text: str
    argument_hash: str
    asked_ms: int
    expires_ms: int
    choices: tuple[str, ...] = ()


class PendingTool(_Frozen):
    """One tool call of the last reply: answered (`result`), waiting for people (`asks`), or under way.

    `id` is the command's message id, `call_id` the model's. `arguments` are those a person put in place of the model's,
    `approval` what they agreed to. `deadline_ms` is when the model is told that no answer came.
    """

    id: str
    call_id: str
    tool: str
    argument_hash: str = ""
    result: ToolResultPart | None = None
    asks: Ask | None = None
    arguments: dict[str, Any] | None = None
    approval: Approval | None = None
    deadline_ms: int | None = None

    @model_validator(mode="after")
    def _in_one_place(self) -> PendingTool:
        if self.result is not None and self.asks is not None:
            raise ValueError("a call that was answered asks nobody")
        return self

    @property
    def under_way(self) -> bool:
        """Whether a worker is to answer it."""
        return self.result is None and self.asks is None


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


class Compacting(_Frozen):
    """The model was asked, with the command `id`, for a summary of all but the tail from its message number `cut` on.

    `forced`: the provider said that the transcript is too long, so without a summary there is no going on.
    """

    kind: Literal["compacting"] = "compacting"
    id: str
    cut: int
    forced: bool = False


class StalledCall(_Frozen):
    """A call under way whose message lies in a dead-letter queue, and why. `id` is the command's message id."""

    id: str
    reason: str


class Joined(_Frozen):
    """A task that joined the turn. `heard` says that the model has been told what it asks."""

    task: Task
    heard: bool = False


class Turn(_Frozen):
    """The turn under way.

    `deadline_ms` is the instant at which it ends unfinished. While calls are `stalled`, or people are asked, its clock
    stands, and the instant is the end of the patience with them. `said` is the last text of the model in this turn: the answer
    as far as there is one. `compacted_at` is the number of the model call before which a summary was last asked for: once
    for each call at most.
    """

    task: Task
    phase: Annotated[AwaitingModel | AwaitingTools | Compacting, Field(discriminator="kind")]
    deadline_ms: int
    model_calls: int = 0
    tool_calls: int = 0
    usage: Usage = Usage()
    cost: float | None = None
    stalled: tuple[StalledCall, ...] = ()
    compacted_at: int = 0
    joined: tuple[Joined, ...] = ()
    failures: tuple[FailedCall, ...] = ()
    said: str = ""

    def awaits(self, call: str) -> bool:
        """Whether the call with this id is under way."""
        return call in self.open_calls

    @property
    def pending(self) -> tuple[PendingTool, ...]:
        """The tool calls of the last reply, when they are what the turn waits for."""
        return self.phase.calls if isinstance(self.phase, AwaitingTools) else ()

    @property
    def open_calls(self) -> list[str]:
        """The ids of the calls that workers are to answer."""
        if isinstance(self.phase, AwaitingModel | Compacting):
            return [self.phase.id]
        return [call.id for call in self.pending if call.under_way]

    @property
    def asking(self) -> tuple[PendingTool, ...]:
        """The calls about which people are asked."""
        return tuple(call for call in self.pending if call.asks is not None)

    @property
    def stands(self) -> bool:
        """Whether its clock stands."""
        return bool(self.stalled or self.asking)

    @property
    def state(self) -> StateName:
        """The state it is in."""
        if self.stalled:
            return "stalled"
        if isinstance(self.phase, Compacting):
            return "compacting"
        if isinstance(self.phase, AwaitingModel):
            return "awaiting_model"
        if self.asking and not self.open_calls:
            questions = all(call.asks is not None and call.asks.kind == "question" for call in self.asking)
            return "awaiting_input" if questions else "awaiting_approval"
        return "awaiting_tools"

    @property
    def used(self) -> Used:
        """What it has used of its limits."""
        return Used(model_calls=self.model_calls, tool_calls=self.tool_calls, usage=self.usage, cost=self.cost)

    @property
    def unheard(self) -> tuple[Task, ...]:
        """The tasks that joined and that the model has not been told of."""
        return tuple(each.task for each in self.joined if not each.heard)


class Conversation(_Frozen):
    """Everything that is known of one conversation.

    `messages` is the tail of the transcript; what is older lies in segments of the state store, the newest of which is
    `sealed`. `token_factor` corrects estimates of tokens by what providers counted. `always` are tools that people approved for
    good in this conversation. `origins` is where everything came from that the model has been told so far, summaries included.
    """

    messages: tuple[Message, ...] = ()
    sealed: SegmentRef | None = None
    token_factor: float = 1.0
    turn: Turn | None = None
    waiting: tuple[Task, ...] = ()
    ended: int = 0
    always: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()

    @property
    def earlier(self) -> SegmentRef | None:
        """What of the sealed transcript the model is shown before `messages`."""
        sealed = self.sealed
        return sealed if sealed is not None and sealed.number > sealed.since else None
