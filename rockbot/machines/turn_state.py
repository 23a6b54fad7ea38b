"""The state of a conversation: what its journal amounts to.

A conversation holds the transcript, at most one turn under way, and the tasks that wait for it. A turn is in exactly one
phase; what a phase does not have cannot be written down.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from rockbot.events.content import ContentPart, Message, ToolResultPart
from rockbot.events.models import SegmentRef, Usage
from rockbot.events.tasks import TaskLane
from rockbot.machines.agent_snapshot import AgentRef, AgentSnapshot

__all__ = [
    "AwaitingModel",
    "AwaitingTools",
    "Compacting",
    "Conversation",
    "PendingTool",
    "StalledCall",
    "Task",
    "Turn",
]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Task(_Frozen):
    """One accepted task: what is asked, by whom, until when, and the `memory` that its agent brings along.

    Tasks of older releases hold their whole snapshot.
    """

    id: str
    agent: AgentRef | AgentSnapshot
    parts: tuple[ContentPart, ...]
    memory: str = ""
    correlation_id: str | None = None
    reply_to: str | None = None
    deadline_ms: int
    allowed_ms: int
    user: str = ""
    lane: TaskLane = "interactive"


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


class Turn(_Frozen):
    """The turn under way.

    `deadline_ms` is the instant at which it ends unfinished. While calls are `stalled` its clock stands, and the instant
    is the end of the patience with them. `compacted_at` is the number of the model call before which a summary was last
    asked for: once for each call at most.
    """

    task: Task
    phase: Annotated[AwaitingModel | AwaitingTools | Compacting, Field(discriminator="kind")]
    deadline_ms: int
    model_calls: int = 0
    tool_calls: int = 0
    usage: Usage = Usage()
    stalled: tuple[StalledCall, ...] = ()
    compacted_at: int = 0

    def awaits(self, call: str) -> bool:
        """Whether the call with this id has not been answered yet."""
        return call in self.open_calls

    @property
    def open_calls(self) -> list[str]:
        """The ids of the calls that have not been answered yet."""
        if isinstance(self.phase, AwaitingModel | Compacting):
            return [self.phase.id]
        return [call.id for call in self.phase.calls if call.result is None]


class Conversation(_Frozen):
    """Everything that is known of one conversation.

    `messages` is the tail of the transcript; what is older lies in segments of the state store, the newest of which is
    `sealed`. `token_factor` corrects estimates of tokens by what providers counted.
    """

    messages: tuple[Message, ...] = ()
    sealed: SegmentRef | None = None
    token_factor: float = 1.0
    turn: Turn | None = None
    waiting: tuple[Task, ...] = ()
    ended: int = 0

    @property
    def earlier(self) -> SegmentRef | None:
        """What of the sealed transcript the model is shown before `messages`."""
        sealed = self.sealed
        return sealed if sealed is not None and sealed.number > sealed.since else None
