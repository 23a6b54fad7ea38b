"""The agent as a turn sees it, fixed when its task is accepted: settings that change later do not touch a running turn.

Journals and states name a snapshot by the digest of its content, so that it is stored once however many tasks use it and
no step carries it. A machine gets the snapshots that its process knows; one that is missing is asked for by
`SnapshotNeeded`, before anything was decided.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import final

from pydantic import BaseModel, ConfigDict, ValidationError

from rockbot.catalogue.routes import Choice, ModelRoute, choose
from rockbot.events.tasks import TaskLane, TaskMode
from rockbot.events.tools import ToolSpec
from rockbot.machines.limits import Limits
from rockbot.policies.rules import Policy

__all__ = ["AgentRef", "AgentSnapshot", "Skill", "SnapshotNeeded", "StoredSnapshot"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


@final
class AgentRef(_Frozen):
    """Which snapshot of which agent; `snapshot` is its digest."""

    name: str
    snapshot: str


@final
class Skill(_Frozen):
    """Something an agent can look up: when to do so is in `description`, what it says in `body`."""

    name: str
    description: str
    body: str


@final
class AgentSnapshot(_Frozen):
    """An agent, immutable. `instructions` is the system prompt but for what is noted per task.

    `skills` are what the tool `read_skill` reads from. `routes` say by role which model a call goes to; a role that has
    none takes those of ``main``, and `model` counts where there are none either (agents of older releases).
    `context_window` is how many tokens its model takes (`count_tokens`: by the provider's count before each call),
    `compact_at` the share of it from which on the transcript is summarised; the last `keep_recent` messages stay as they
    are.

    `max_seconds` bounds a turn's wall clock, `max_repeats` is how often a call may fail with the same arguments before it is
    not made any more (0: any number). `approval_seconds` is how long people may take to decide.
    """

    name: str
    model: str
    instructions: str
    tools: tuple[ToolSpec, ...]
    max_model_calls: int
    max_output_tokens: int
    max_waiting: int = 100
    policy: Policy = Policy()
    context_window: int = 128_000
    count_tokens: bool = False
    compact_at: float = 0.8
    keep_recent: int = 8
    skills: tuple[Skill, ...] = ()
    routes: dict[str, tuple[ModelRoute, ...]] = {}

    max_tool_calls: int | None = None
    max_tokens: int | None = None
    max_cost: float | None = None
    max_seconds: float | None = None
    max_repeats: int = 3
    when_busy: TaskMode = "queue"
    approval_seconds: float = 86_400

    def choice(self, role: str, *, lane: TaskLane, tokens: int) -> Choice:
        """The model for a call with so many tokens of input."""
        routes = self.routes.get(role) or self.routes.get("main")
        return choose(routes, lane=lane, tokens=tokens) if routes else Choice(model=self.model)

    @property
    def limits(self) -> Limits:
        """What one of its turns may use."""
        return Limits(
            model_calls=self.max_model_calls,
            tool_calls=self.max_tool_calls,
            tokens=self.max_tokens,
            cost=self.max_cost,
            seconds=self.max_seconds,
        )

    def tool(self, name: str) -> ToolSpec | None:
        """Its tool of that name."""
        return next((tool for tool in self.tools if tool.name == name), None)

    @cached_property
    def digest(self) -> str:
        """The name of this content: equal snapshots have equal ones, others do not."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:32]

    @property
    def ref(self) -> AgentRef:
        """What stands for it in journals."""
        return AgentRef(name=self.name, snapshot=self.digest)


@final
class StoredSnapshot(_Frozen):
    """The row of a snapshot. `stored_ms` is when a step that uses it was last written by a process that was not sure of it."""

    stored_ms: int
    agent: AgentSnapshot

    @classmethod
    def parse(cls, data: bytes) -> StoredSnapshot | None:
        """The row, None when this release cannot read it."""
        try:
            return cls.model_validate_json(data)
        except ValidationError:
            return None


@final
class SnapshotNeeded(Exception):
    """The state refers to a snapshot that the machine was not given; load it and decide again."""

    def __init__(self, ref: AgentRef) -> None:
        super().__init__(f"snapshot {ref.snapshot} of agent {ref.name!r}")
        self.ref = ref
