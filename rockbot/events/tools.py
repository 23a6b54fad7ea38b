"""Tool calls: what a tool is, one call of it, and its result."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from rockbot.events.content import ContentPart, TextPart
from rockbot.events.event import Event

__all__ = ["ToolInvoke", "ToolResult", "ToolSpec"]


class ToolSpec(BaseModel):
    """A tool as models and agents see it.

    `toolset` is the topic word of the workers that run it. `idempotent` means that calling twice with the same arguments
    does no more than calling once. `timeout_seconds` bounds one call at its worker; `deadline_seconds` is how long the turn
    waits for the answer, waiting for a worker included (None: as long as the turn may take). `needs_approval` has a
    person asked before each call. `on_exhausted` says what follows when the message of a call becomes a dead letter: the
    turn stands still until the letter is sent on, or the model is told that the call failed. `max_concurrency` is how many
    calls one worker process makes at a time, `output_limit` how many characters of a result are told to the model; None
    leaves both to the worker.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    description: str
    input_schema: dict[str, Any]
    toolset: str
    idempotent: bool = False
    read_only: bool = False
    timeout_seconds: float = 60.0
    deadline_seconds: float | None = None
    needs_approval: bool = False
    on_exhausted: Literal["stall", "tell_model"] = "stall"
    max_concurrency: int | None = None
    output_limit: int | None = None


class ToolInvoke(Event):
    """Call one tool; the result goes to the return address."""

    type_name: ClassVar[str] = "rockbot.tool.invoke"
    topics: ClassVar[tuple[str, ...]] = ("tool.invoke.*",)

    tool: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    call_id: str = ""


class ToolResult(Event):
    """What came of one tool call. What the tool itself reports, failures included, is a result."""

    type_name: ClassVar[str] = "rockbot.tool.result"

    call_id: str = ""
    tool: str = ""
    parts: tuple[ContentPart, ...] = ()
    is_error: bool = False

    @classmethod
    def failure(cls, invoke: ToolInvoke, text: str) -> ToolResult:
        """The result that says why a call could not be made."""
        return cls(call_id=invoke.call_id, tool=invoke.tool, parts=(TextPart(text=text),), is_error=True)
