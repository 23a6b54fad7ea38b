"""Settings of agents: what one is, where files of them lie, how much of what it may be shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, final

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from rockbot.catalogue.routes import Role
from rockbot.events.tasks import TaskMode
from rockbot.policies import Policy
from rockbot.toml_lines import line_of
from rockbot_messaging.topics import check_word

__all__ = ["DEFAULT_INSTRUCTIONS", "AgentFileSettings", "AgentPlace", "AgentSettings", "ContextBudgets"]

#: What an agent is told that has neither instructions nor prompt files.
DEFAULT_INSTRUCTIONS: Final = "You are a helpful assistant. Use the tools for anything that needs computing."


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ContextBudgets(_Section):
    """How many characters of each section of the system prompt the model is shown.

    What has more is cut there, and ends with a marker that says how much is missing.
    """

    identity: int = Field(default=20_000, ge=100, le=1_000_000)
    instructions: int = Field(default=60_000, ge=100, le=1_000_000)
    skills: int = Field(default=10_000, ge=100, le=1_000_000)
    memory: int = Field(default=20_000, ge=100, le=1_000_000)


class AgentSettings(_Section):
    """One agent.

    `model` None means the host's, `models` has those of single roles; `tools` None means all that are installed.
    `max_model_calls` bounds one task, `timeout_seconds` is the deadline of a task that brings none. `max_waiting` is how many
    tasks may wait in one conversation for the one under way; what comes beyond is answered as failed (`busy`) at once.
    `policy` says which calls of its tools are allowed, denied, or need a person's approval.

    `context_window` is how many tokens the model takes, `compact_at` the share of them from which on the older part of a
    conversation is summarised; up to `keep_recent` messages stay as they are. That is decided by an estimate; with
    `count_tokens` ``provider`` the provider counts before each call as well, which costs a request.

    `max_tool_calls`, `max_tokens`, `max_cost` (money, in the currency of the price table) and `max_seconds` (wall clock) bound
    one task, too; None is no bound. `max_repeats` is how often a tool may fail with the same arguments before the call is not
    made any more (0: any number). `when_busy` is what becomes of a task that comes while another one runs in its conversation.
    `ask_user` gives the model the tool of that name. `approval_seconds` is how long people may take to approve or answer.

    `instructions` None is a default text unless there are `prompt_files`, which follow the instructions; `identity_files` go
    before them. `skills` is a folder of folders with a ``SKILL.md``. All of them are paths below the folder of the file that
    defines the agent. Its memory is `memory_file`, read anew for each task, or with `memory_state` the value that the state
    store has for it.

    `channels` are those of people whose messages it answers (``user.message.<channel>.<account>``); a channel has one agent.
    """

    instructions: str | None = None
    prompt_files: tuple[str, ...] = ()
    identity_files: tuple[str, ...] = ()
    skills: str | None = None
    memory_file: str | None = None
    memory_state: bool = False
    budgets: ContextBudgets = ContextBudgets()
    model: str | None = None
    models: dict[Role, str] = Field(default_factory=dict)
    tools: tuple[str, ...] | None = None
    max_model_calls: int = Field(default=25, ge=1, le=1000)
    max_output_tokens: int = Field(default=4096, ge=1)
    timeout_seconds: float = Field(default=3600, gt=0, le=30 * 86_400)
    max_waiting: int = Field(default=100, ge=0, le=10_000)
    count_tokens: Literal["estimate", "provider"] = "estimate"
    context_window: int = Field(default=128_000, ge=1000)
    compact_at: float = Field(default=0.8, gt=0, le=1)
    keep_recent: int = Field(default=8, ge=0, le=32)
    policy: Policy = Policy()
    max_tool_calls: int | None = Field(default=None, ge=0)
    max_tokens: int | None = Field(default=None, ge=1)
    max_cost: float | None = Field(default=None, gt=0)
    max_seconds: float | None = Field(default=None, gt=0, le=30 * 86_400)
    max_repeats: int = Field(default=3, ge=0)
    when_busy: TaskMode = "steer"
    ask_user: bool = False
    approval_seconds: float = Field(default=86_400, gt=0, le=30 * 86_400)
    channels: tuple[str, ...] = ()

    @field_validator("channels")
    @classmethod
    def _channels_are_words(cls, channels: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(check_word, channels))

    @model_validator(mode="after")
    def _one_memory(self) -> AgentSettings:
        if self.memory_file is not None and self.memory_state:
            raise ValueError("memory_file and memory_state exclude each other: an agent has one memory")
        return self


class AgentFileSettings(_Section):
    """Files that define agents: each ``<name>.toml`` in `folder` is one.

    `poll_seconds` is how often files of agents are looked at for changes; 0 never does.
    """

    folder: Path | None = None
    poll_seconds: float = Field(default=5, ge=0, le=3600)


@final
@dataclass(frozen=True, slots=True)
class AgentPlace:
    """Where an agent is defined: the file (None: the environment, or a program), its folder, the lines of its keys."""

    file: Path | None = None
    folder: Path = field(default_factory=Path)
    lines: Mapping[tuple[str, ...], int] = field(default_factory=dict)

    def at(self, *path: str) -> str:
        """The file, and the line of a key of the agent, for an error's text; empty when there is no file."""
        if self.file is None:
            return ""
        line = line_of(self.lines, path) if path else self.lines.get(())
        return f"{self.file}, line {line}" if line is not None else str(self.file)
