"""Which agents there are at present: an immutable set, replaced whole by a reload or not at all.

A reload reads the settings from the same sources again. What is wrong with them refuses it: the set in force stays, and
says so until a reload succeeds. Agents and the names of models change; other settings need a restart, and
are named.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, final

from rockbot.agents.reading import Agent, read_agent
from rockbot.catalogue.catalogue import Catalogue
from rockbot.errors import ConfigError
from rockbot.settings import Settings
from rockbot_messaging.clock import Clock

__all__ = ["AgentSet", "ReloadStatus", "Roster"]

logger = logging.getLogger(__name__)

#: Settings that a reload takes over.
_TAKEN: Final = frozenset({"agents", "models", "tiers"})


@final
@dataclass(frozen=True, slots=True)
class AgentSet:
    """All agents at one time; `generation` counts from 1 in each process."""

    agents: Mapping[str, Agent]
    settings: Settings
    catalogue: Catalogue
    generation: int = 1

    @classmethod
    def read(cls, settings: Settings, generation: int = 1) -> AgentSet:
        """Read every agent's files. Raises ConfigError: as `read_agent`, the first one that is wrong; two have one channel."""
        _check_channels(settings)
        catalogue = Catalogue(settings)
        agents = {name: read_agent(name, settings, catalogue) for name in settings.agents}
        return cls(agents, settings, catalogue, generation)

    def answers_on(self, channel: str) -> str | None:
        """The agent that has a channel."""
        return next((name for name, agent in self.agents.items() if channel in agent.settings.channels), None)

    @property
    def files(self) -> frozenset[Path]:
        """Every file and folder that they are made of."""
        found = {path for agent in self.agents.values() for path in agent.files}
        folder = self.settings.agent_files.folder
        return frozenset(found | ({folder} if folder is not None else set()))


@final
@dataclass(frozen=True, slots=True)
class ReloadStatus:
    """How agents stand in one process.

    `refused` is what is wrong with the configuration that was refused last, empty when the one in force is the newest;
    `restart` names settings that have changed and count only after a restart.
    """

    generation: int
    loaded_ms: int
    refused: str = ""
    refused_ms: int = 0
    restart: tuple[str, ...] = field(default=())


@final
class Roster:
    """The agents in force, and how they are replaced. Making one reads the files of all agents.

    Raises:
        ConfigError: an agent's files are wrong.
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._clock = clock
        self._started = settings
        self._current = AgentSet.read(settings)
        self._status = ReloadStatus(1, clock.now_ms())
        self._checks: list[Callable[[AgentSet], None]] = []
        self._listeners: list[Callable[[], None]] = []
        self._seen = fingerprint(self._current.files)
        self._reloading = asyncio.Lock()

    @property
    def current(self) -> AgentSet:
        """The set in force."""
        return self._current

    @property
    def status(self) -> ReloadStatus:
        """How agents stand."""
        return self._status

    def get(self, name: str) -> Agent | None:
        """An agent, None when there is none of that name (any more)."""
        return self._current.agents.get(name)

    def check(self, check: Callable[[AgentSet], None]) -> None:
        """Have every new set looked at before it is in force; a ConfigError refuses it."""
        self._checks.append(check)

    def on_change(self, listener: Callable[[], None]) -> None:
        """Have this called after a new set came into force."""
        self._listeners.append(listener)

    async def reload(self, why: str) -> ReloadStatus:
        """Read everything again and put it in force if all of it is right; never raises for what is wrong in files."""
        async with self._reloading:
            return await self._reload(why)

    async def poll(self) -> None:
        """Reload if a file of the agents has changed since the last look."""
        async with self._reloading:
            if await asyncio.to_thread(fingerprint, self._current.files) != self._seen:
                await self._reload("a file has changed")

    async def _reload(self, why: str) -> ReloadStatus:
        # Before reading: what changes meanwhile is seen by the next poll.
        seen = await asyncio.to_thread(fingerprint, self._current.files)
        try:
            new = await asyncio.to_thread(self._read)
            for check in self._checks:
                check(new)
        except ConfigError as exc:
            self._seen = seen
            now = self._clock.now_ms()
            self._status = ReloadStatus(self._current.generation, self._status.loaded_ms, str(exc), now)
            logger.error("new agents were refused; those in force stay", extra={"why": why, "error": str(exc)})
            return self._status
        old, self._current = self._current, new
        # A file that the old set did not have may have changed since it was read; that is found by the next reload.
        self._seen = seen if new.files == old.files else await asyncio.to_thread(fingerprint, new.files)
        restart = _other_changes(self._started, new.settings)
        self._status = ReloadStatus(new.generation, self._clock.now_ms(), restart=restart)
        extra = {"why": why, "generation": new.generation, **_differences(old, new)}
        logger.info("agents were loaded again", extra=extra)
        if restart:
            logger.warning("settings have changed that need a restart", extra={"settings": list(restart)})
        for listener in self._listeners:
            listener()
        return self._status

    def _read(self) -> AgentSet:
        settings = self._current.settings.reread()
        if settings is None:
            raise ConfigError("this process was not started from settings that could be read again")
        return AgentSet.read(settings, self._current.generation + 1)


def fingerprint(paths: frozenset[Path]) -> frozenset[tuple[str, int, int, int]]:
    """What changes when one of these files does, or when one appears in or goes from one of these folders.

    A link is followed: a mounted Kubernetes ConfigMap changes by exchanging one.
    """
    found: set[tuple[str, int, int, int]] = set()
    for path in paths:
        inner = sorted(path.glob("*.toml")) + sorted(path.glob("*/SKILL.md")) if path.is_dir() else []
        for file in (path, *inner):
            try:
                status = file.stat()
            except OSError:
                continue
            found.add((str(file), status.st_ino, status.st_mtime_ns, status.st_size))
    return frozenset(found)


def _check_channels(settings: Settings) -> None:
    having: dict[str, str] = {}
    for name, agent in settings.agents.items():
        for channel in dict.fromkeys(agent.channels):
            other = having.setdefault(channel, name)
            if other != name:
                place = settings.agent_place(name).at("channels")
                raise ConfigError(
                    f"setting 'agents.{name}.channels'{f' (from {place})' if place else ''}: channel {channel!r} is that of"
                    f" agent {other!r} already, and a message gets one answer"
                )


def _other_changes(old: Settings, new: Settings) -> tuple[str, ...]:
    return tuple(
        name for name in Settings.model_fields if name not in _TAKEN and getattr(old, name) != getattr(new, name)
    )


def _differences(old: AgentSet, new: AgentSet) -> dict[str, list[str]]:
    changed = [name for name in new.agents.keys() & old.agents.keys() if new.agents[name] != old.agents[name]]
    return {
        "added": sorted(new.agents.keys() - old.agents.keys()),
        "removed": sorted(old.agents.keys() - new.agents.keys()),
        "changed": sorted(changed),
    }
