"""What an agent remembers between conversations, as a section of its prompt: read when a task is accepted, kept with it.

This is the seam for whatever keeps memories: it writes a file, or the value under `agent_memory_key`; nothing here does.
"""

from __future__ import annotations

import asyncio
from typing import final

from rockbot.agents.prompt import Section, memory_section
from rockbot.agents.reading import Agent, read_memory
from rockbot.errors import ConfigError, TemporaryFailure
from rockbot.state.keys import agent_memory_key
from rockbot.state.ports import StateStore

__all__ = ["Memories"]


@final
class Memories:
    """Reads memories from where each agent's settings say."""

    def __init__(self, state: StateStore) -> None:
        self._state = state

    async def section(self, agent: Agent, *, tenant: str) -> Section | None:
        """The memory of an agent for a tenant, within its budget; None when there is none.

        Raises:
            TemporaryFailure: its file cannot be read at present. StateUnavailable.
        """
        if agent.settings.memory_file is not None:
            try:
                return await asyncio.to_thread(read_memory, agent)
            except ConfigError as exc:
                raise TemporaryFailure(str(exc)) from exc
        if not agent.settings.memory_state:
            return None
        entry = await self._state.get(agent_memory_key(tenant, agent.name))
        if entry is None:
            return None
        text = entry.value.decode("utf-8", "replace")
        return memory_section(text, source="state", budget=agent.settings.budgets.memory)
