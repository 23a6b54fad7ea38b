"""Model calls: one request, one reply, independent of any provider."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from rockbot.events.content import Message
from rockbot.events.event import Event
from rockbot.events.tools import ToolSpec

__all__ = ["LlmRequest", "LlmResponse", "StopReason", "Usage"]

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


class LlmRequest(Event):
    """Make one model call. `model` is ``<provider>/<model>``."""

    type_name: ClassVar[str] = "rockbot.llm.request"
    topics: ClassVar[tuple[str, ...]] = ("llm.request.*.*",)

    model: str
    system: str = ""
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    max_output_tokens: int = 4096


class LlmResponse(Event):
    """One finished model reply."""

    type_name: ClassVar[str] = "rockbot.llm.response"

    message: Message
    stop_reason: StopReason = "end_turn"
    model: str = ""
    usage: Usage = Usage()
