"""How many tasks are under way, in which state, and since when the longest: what tells a turn that is stuck from one that works.

Read from the state store, because a turn that stands still sends no messages. Every host tells the same numbers.
"""

from __future__ import annotations

import json
from typing import Any, Final, final

from rockbot.state.keys import AGENT_USES, key_parts, task_key
from rockbot.state.ports import StateStore
from rockbot_messaging.measures import Measures, Names

__all__ = ["LOOK_SECONDS", "OpenTurns"]

#: Seconds between two looks.
LOOK_SECONDS: Final = 60.0
#: Tasks that are looked at; with more under way than this, it is a part of them.
_MOST: Final = 1000


@final
class OpenTurns:
    """Sets the gauges of the tasks of one store."""

    def __init__(self, store: StateStore, measures: Measures) -> None:
        self._store = store
        self._measures = measures
        self._told: set[tuple[str, str]] = set()

    async def look(self) -> None:
        """Set them. Raises StateUnavailable."""
        now_ms = await self._store.now_ms()
        counts: dict[tuple[str, str], int] = {}
        longest: dict[tuple[str, str], float] = {}
        page = await self._store.list(AGENT_USES, limit=_MOST)
        for entry in page.entries:
            agent, _, tenant, task_id = key_parts(entry.key)[2:6]
            row = await self._store.get(task_key(tenant, task_id))
            if row is None:
                continue
            said: dict[str, Any] = json.loads(row.value)
            which = (agent, str(said.get("status", "")))
            counts[which] = counts.get(which, 0) + 1
            age = max(0, now_ms - int(said.get("at_ms", now_ms))) / 1000
            longest[which] = max(longest.get(which, 0), age)
        for which in self._told | counts.keys():
            agent, state = which
            self._measures.gauge(Names.TURNS_OPEN, counts.get(which, 0), agent=agent, state=state)
            self._measures.gauge(Names.TURN_OLDEST, longest.get(which, 0), agent=agent, state=state)
        self._told |= counts.keys()
