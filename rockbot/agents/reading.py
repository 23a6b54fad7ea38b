"""Agents with everything their settings point at: texts read, paths kept inside the agent's folder, errors with their line."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, final

from rockbot.agents.prompt import (
    Section,
    TextFile,
    identity_section,
    instructions_section,
    memory_section,
    skills_section,
    system_prompt,
)
from rockbot.agents.skills import READ_SKILL, SKILL_FILE, parse_skill
from rockbot.catalogue.catalogue import Catalogue
from rockbot.catalogue.routes import ModelRoute
from rockbot.errors import ConfigError
from rockbot.events.tools import ToolSpec
from rockbot.machines.agent_snapshot import AgentSnapshot, Skill
from rockbot.machines.approvals import ASK_USER
from rockbot.settings import Settings
from rockbot.settings_agents import DEFAULT_INSTRUCTIONS, AgentPlace, AgentSettings

__all__ = ["Agent", "read_agent", "read_memory"]

logger = logging.getLogger(__name__)

#: Bytes of a file that a prompt may be made of; a larger one is a mistake.
_LARGEST_FILE: Final = 1 << 20


@final
@dataclass(frozen=True, slots=True)
class Agent:
    """One agent as it is at present; immutable.

    `routes` say by role which models it uses. `sections` are those that do not change between tasks, in order. `files` is every
    file that it was made of, for whoever looks for changes.
    """

    name: str
    settings: AgentSettings
    routes: Mapping[str, tuple[ModelRoute, ...]]
    sections: tuple[Section, ...]
    skills: tuple[Skill, ...]
    place: AgentPlace = field(default_factory=AgentPlace, compare=False)
    files: tuple[Path, ...] = field(default=(), compare=False)

    @property
    def model(self) -> str:
        """The model of the calls that no rule takes elsewhere."""
        return self.routes["main"][-1].steps[0].model

    @property
    def context_window(self) -> int:
        """How many tokens its model takes: what the agent says, else what the catalogue knows, else the default."""
        known = self.routes["main"][-1].steps[0].context_window
        said = "context_window" in self.settings.model_fields_set
        return self.settings.context_window if said or known is None else known

    def snapshot(self, tools: Sequence[ToolSpec]) -> AgentSnapshot:
        """What a turn that begins now keeps; `tools` are all there are."""
        its = self.settings
        chosen = tuple(tool for tool in tools if its.tools is None or tool.name in its.tools)
        return AgentSnapshot(
            name=self.name,
            model=self.model,
            instructions=system_prompt(self.sections),
            tools=(*chosen, *([READ_SKILL] if self.skills else ()), *([ASK_USER] if its.ask_user else ())),
            max_model_calls=its.max_model_calls,
            max_output_tokens=its.max_output_tokens,
            max_waiting=its.max_waiting,
            context_window=self.context_window,
            count_tokens=its.count_tokens == "provider",
            compact_at=its.compact_at,
            keep_recent=its.keep_recent,
            policy=its.policy,
            skills=self.skills,
            routes=dict(self.routes),
            max_tool_calls=its.max_tool_calls,
            max_tokens=its.max_tokens,
            max_cost=its.max_cost,
            max_seconds=its.max_seconds,
            max_repeats=its.max_repeats,
            when_busy=its.when_busy,
            approval_seconds=its.approval_seconds,
        )


def read_agent(name: str, settings: Settings, catalogue: Catalogue | None = None) -> Agent:
    """Read an agent's files and put its prompt together; `catalogue` None is that of the settings.

    Raises:
        ConfigError: its model is none; a file is missing, unreadable, too large, or lies outside of the agent's folder; a skill
            is wrong.
    """
    models = catalogue or Catalogue(settings)
    routes: dict[str, tuple[ModelRoute, ...]] = {role: models.routes(name, role) for role in models.roles(name)}
    return _Reading(name, settings.agents[name], settings.agent_place(name)).agent(routes)


def read_memory(agent: Agent) -> Section | None:
    """The memory that lies in a file, as it is now; None for none, also while the file does not exist.

    Raises:
        ConfigError: as for `read_agent`.
    """
    path = agent.settings.memory_file
    if path is None:
        return None
    reading = _Reading(agent.name, agent.settings, agent.place)
    if not reading.inside(path, "memory_file").exists():
        return None
    text = reading.text(path, "memory_file")
    return memory_section(text, source=path, budget=agent.settings.budgets.memory)


@final
class _Reading:
    def __init__(self, name: str, its: AgentSettings, place: AgentPlace) -> None:
        self._name = name
        self._its = its
        self._place = place
        self._files: list[Path] = []

    def agent(self, routes: Mapping[str, tuple[ModelRoute, ...]]) -> Agent:
        its, budgets = self._its, self._its.budgets
        inline = its.instructions
        if inline is None:
            inline = "" if its.prompt_files else DEFAULT_INSTRUCTIONS
        skills = self._skills()
        sections = (
            identity_section(self._texts(its.identity_files, "identity_files"), budget=budgets.identity),
            instructions_section(inline, self._texts(its.prompt_files, "prompt_files"), budget=budgets.instructions),
            skills_section(skills, budget=budgets.skills),
        )
        made = tuple(section for section in sections if section is not None)
        for section in made:
            if section.omitted:
                logger.warning(
                    "a section of an agent's prompt is cut at its budget",
                    extra={
                        "agent": self._name,
                        "section": section.name,
                        "budget": section.budget,
                        "omitted": section.omitted,
                    },
                )
        if its.memory_file is not None:
            self.inside(its.memory_file, "memory_file")
        files = (*([self._place.file] if self._place.file else []), *self._files)
        return Agent(self._name, its, routes, made, skills, self._place, files)

    def inside(self, path: str, *key: str) -> Path:
        """The file of a relative path, which does not leave the agent's folder, not by a link either."""
        folder = self._place.folder
        if Path(path).is_absolute() or "\0" in path:
            raise self._wrong(f"{path!r} must be a path relative to {folder.absolute()}", *key)
        found = folder / path
        if not found.resolve().is_relative_to(folder.resolve()):
            raise self._wrong(f"{path!r} leads out of {folder.absolute()}, the folder of this agent", *key)
        return found

    def text(self, path: str, *key: str) -> str:
        """The text of a file, whole."""
        file = self.inside(path, *key)
        self._files.append(file)
        try:
            if file.stat().st_size > _LARGEST_FILE:
                raise self._wrong(f"{path!r} has more than {_LARGEST_FILE} bytes; a prompt is shorter", *key)
            return file.read_text(encoding="utf-8")
        except UnicodeDecodeError as exc:
            raise self._wrong(f"{path!r} is not UTF-8 (byte {exc.start})", *key) from None
        except FileNotFoundError:
            raise self._wrong(f"{path!r} does not exist in {self._place.folder.absolute()}", *key) from None
        except OSError as exc:
            raise self._wrong(f"{path!r} cannot be read: {exc.strerror or exc}", *key) from None

    def _texts(self, paths: Sequence[str], key: str) -> list[TextFile]:
        return [TextFile(path, self.text(path, key, str(at))) for at, path in enumerate(paths)]

    def _skills(self) -> tuple[Skill, ...]:
        if self._its.skills is None:
            return ()
        folder = self.inside(self._its.skills, "skills")
        if not folder.is_dir():
            raise self._wrong(f"{self._its.skills!r} is no folder in {self._place.folder.absolute()}", "skills")
        self._files.append(folder)
        found = []
        for path in sorted(folder.iterdir()):
            if path.name.startswith(".") or not (path / SKILL_FILE).exists():
                continue
            relative = str(Path(self._its.skills) / path.name / SKILL_FILE)
            try:
                found.append(parse_skill(self.text(relative, "skills"), folder=path.name))
            except ValueError as exc:
                raise self._wrong(f"the skill {relative!r}: {exc}", "skills") from None
        return tuple(found)

    def _wrong(self, problem: str, *key: str) -> ConfigError:
        where = self._place.at(*key)
        setting = f"agents.{self._name}.{key[0]}"
        return ConfigError(f"setting {setting!r}{f' (from {where})' if where else ''}: {problem}")
