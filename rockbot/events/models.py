"""Model calls: one request, one reply, independent of any provider."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from rockbot.catalogue.routes import CallLane, FallReason
from rockbot.events.content import Message
from rockbot.events.event import Event
from rockbot.events.tools import ToolSpec
from rockbot_messaging.ports import Door

__all__ = ["Fallen", "LlmDelta", "LlmRequest", "LlmResponse", "SegmentRef", "StopReason", "Usage"]

StopReason = Literal["end_turn", "tool_use", "max_tokens", "stop_sequence", "refusal", "context_window", "other"]


class Usage(BaseModel):
    """Tokens of one model call, as the provider counted them."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cache_read_tokens=self.cache_read_tokens + other.cache_read_tokens,
            cache_write_tokens=self.cache_write_tokens + other.cache_write_tokens,
        )


class SegmentRef(BaseModel):
    """Points at a sealed piece of a conversation's transcript, and by its links at everything sealed before it.

    `number` counts the conversation's segments from 1, `sha256` (hex) and `size` (bytes) are those of the stored segment,
    `messages` is how many it has. Segments up to number `since` are no longer shown to the model, because a summary stands
    for them. `total_messages` and `total_tokens` (estimated) count what is shown: this segment and those behind it, back to
    `since`.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    number: int = Field(ge=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    messages: int
    size: int
    since: int = 0
    total_messages: int
    total_tokens: int


class Fallen(BaseModel):
    """A model that a call was meant for before, and why it went on to another one."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    model: str
    reason: FallReason
    message: str = ""


class LlmRequest(Event):
    """Make one model call. `model` is ``<provider>/<model>``.

    The transcript is what `earlier` points at (the segments lie in the state store, under the envelope's tenant and
    conversation), then `messages`. A request that is whole by itself has no `earlier`.
    With `input_limit` the worker has the provider count the input first, and answers that it does not fit the context
    window when it has more tokens, without a call. `output_schema` is the JSON schema of what the reply's text shall be;
    a reply that calls tools is none yet.

    `agent` and `user` are whose limits count, `role` is what the model is to be here (``main``: the turn's own replies,
    ``memory``: a summary of the transcript). When the call fails in one of the ways of `fall_on`, the same message goes on to
    the first of `fallbacks`; `fallen` are the models that it was meant for before.
    """

    type_name: ClassVar[str] = "rockbot.llm.request"
    topics: ClassVar[tuple[str, ...]] = ("llm.request.*.*",)

    model: str
    system: str = ""
    messages: tuple[Message, ...]
    earlier: SegmentRef | None = None
    tools: tuple[ToolSpec, ...] = ()
    max_output_tokens: int = 4096
    input_limit: int | None = None
    agent: str = ""
    user: str = ""
    role: str = "main"
    lane: CallLane = "interactive"
    fallbacks: tuple[str, ...] = ()
    fall_on: tuple[FallReason, ...] = ()
    fallen: tuple[Fallen, ...] = ()
    output_schema: dict[str, Any] | None = None


class LlmResponse(Event):
    """One finished model reply.

    `structured` is the object that `LlmRequest.output_schema` asked for. `problem` is empty, or says why the reply is none,
    also after the model was asked once to mend it. `model` is the one that answered. `cost` is what the call took, in the
    currency of the price table; None when its price is not known.
    """

    type_name: ClassVar[str] = "rockbot.llm.response"

    message: Message
    stop_reason: StopReason = "end_turn"
    model: str = ""
    usage: Usage = Usage()
    cost: float | None = None
    structured: Any = None
    problem: str = ""


class LlmDelta(Event):
    """Some of a reply's text, while the model writes it. Deltas may be lost; the reply they make is not.

    The key is (task, call, attempt, sequence, offset). `attempt` grows with every attempt at the call: a greater one opens with
    `reset` and forgets what the one before it said, and what comes of a smaller one is late. `sequence` counts the deltas of an
    attempt from 0, `offset` the Unicode code points of text before this one. `done` says that the reply is complete: its text
    is what the deltas of this attempt make together.
    """

    type_name: ClassVar[str] = "rockbot.llm.delta"
    topics: ClassVar[tuple[str, ...]] = ("llm.delta.*",)
    door: ClassVar[Door] = Door.LOSSY

    task_id: str = ""
    conversation_id: str
    call_id: str
    attempt: int
    sequence: int
    offset: int
    text: str = ""
    reset: bool = False
    done: bool = False
