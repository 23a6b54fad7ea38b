"""Tool calls: what a tool is, one call of it, and its result."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from rockbot.events.content import ContentPart, TextPart
from rockbot.events.event import Event
from rockbot.policies.approvals import Approval
from rockbot.policies.rules import Policy

__all__ = ["ToolInvoke", "ToolResult", "ToolSpec"]


class ToolSpec(BaseModel):
    """A tool as models and agents see it.

    `toolset` is the topic word of the workers that run it. `idempotent` means that calling twice with the same arguments
    does no more than calling once, `read_only` that it changes nothing. `timeout_seconds` bounds one call at its worker;
    `deadline_seconds` is how long the turn waits for the answer, waiting for a worker included (None: as long as the turn
    may take). `needs_approval` has a person asked where no rule of the agent's policy says otherwise. `on_exhausted` says
    what follows when the message of a call becomes a dead letter: the turn stands still until the letter is sent on, or
    the model is told that the call failed. `max_concurrency` is how many calls one worker process makes at a time (all of
    them together when `across_replicas`), `output_limit` how many characters of a result are told to the model; None leaves
    both to the worker.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    description: str
    input_schema: dict[str, Any]
    toolset: str
    idempotent: bool = False
    read_only: bool = False
    timeout_seconds: float = Field(default=60.0, gt=0)
    deadline_seconds: float | None = None
    needs_approval: bool = False
    on_exhausted: Literal["stall", "tell_model"] = "stall"
    max_concurrency: int | None = Field(default=None, ge=1)
    across_replicas: bool = False
    output_limit: int | None = Field(default=None, ge=200)

    @property
    def repeatable(self) -> bool:
        """Whether a call whose end is unknown may simply be made again."""
        return self.idempotent or self.read_only


class ToolInvoke(Event):
    """Call one tool; the result goes to the return address.

    `agent` is whose policy counts and `user` for whom it is done. `policy` are that agent's rules about this tool as the turn
    knows them, `origins` where the content in its context came from, `approval` what a person agreed to.
    """

    type_name: ClassVar[str] = "rockbot.tool.invoke"
    topics: ClassVar[tuple[str, ...]] = ("tool.invoke.*",)

    tool: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    call_id: str = ""
    agent: str = ""
    user: str = ""
    policy: Policy | None = None
    origins: tuple[str, ...] = ()
    approval: Approval | None = None


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
