"""Snapshots of agents in the state store: read when a turn needs one, removed when none does.

A task writes the snapshot it uses and a row that says so with the step that accepts it. Removing is safe without any
agreement between processes: a process trusts for an hour that a snapshot it wrote is there, rows are removed a week later
at the earliest, and only if nobody wrote them again meanwhile.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final, final

from rockbot.errors import PermanentFailure
from rockbot.machines.agent_snapshot import AgentRef, AgentSnapshot, StoredSnapshot
from rockbot.state.keys import AGENT_SNAPSHOTS, AGENT_USES, Prefix, agent_snapshot_key, key, key_parts
from rockbot.state.ports import Entry, StateStore, VersionConflict
from rockbot_messaging.clock import Clock

__all__ = ["SWEEP_SECONDS", "Snapshots"]

logger = logging.getLogger(__name__)

#: Seconds between two looks for snapshots that nobody needs.
SWEEP_SECONDS: Final = 3600.0
#: Seconds for which a process trusts that what it wrote is there.
_TRUSTED: Final = 3600.0
#: Seconds that a snapshot is kept after it was last written, used or not: who forks an old turn may still want it.
_KEPT: Final = 7 * 86_400
#: Seconds after which a use counts no more: longer than any task lives, also one that stands still at its end.
_LONGEST_USE: Final = 60 * 86_400
#: Snapshots that a process remembers.
_REMEMBERED: Final = 256


@final
class Snapshots:
    """The snapshots of one store. Safe to use from many tasks of one event loop."""

    def __init__(self, store: StateStore, clock: Clock, *, owner: str) -> None:
        self._store = store
        self._clock = clock
        self._owner = owner
        self._known: OrderedDict[str, AgentSnapshot] = OrderedDict()
        self._written: OrderedDict[str, float] = OrderedDict()

    @property
    def known(self) -> Mapping[str, AgentSnapshot]:
        """Those that were fetched, by digest; what `fetch` adds is in it at once."""
        return self._known

    async def fetch(self, ref: AgentRef) -> None:
        """Read one.

        Raises:
            PermanentFailure: it is not there, or was written by a newer release. StateUnavailable.
        """
        entry = await self._store.get(agent_snapshot_key(ref.snapshot))
        stored = StoredSnapshot.parse(entry.value) if entry is not None else None
        if stored is None:
            what = "is not in the state store" if entry is None else "was written by a newer release"
            raise PermanentFailure(
                f"the snapshot {ref.snapshot} of agent {ref.name!r} that this turn began with {what}"
            )
        # Under the name it was asked by: another release may compute another digest of the same content.
        _remember(self._known, ref.snapshot, stored.agent)

    def is_stored(self, agent: AgentSnapshot) -> bool:
        """Whether this process wrote it not long ago."""
        at = self._written.get(agent.digest)
        return at is not None and self._clock.monotonic() - at < _TRUSTED

    def note_stored(self, agent: AgentSnapshot) -> None:
        """A step that wrote it was stored."""
        if not self.is_stored(agent):
            _remember(self._written, agent.digest, self._clock.monotonic())
        _remember(self._known, agent.digest, agent)

    async def users(self) -> set[str]:
        """The names of the agents that open tasks belong to. Raises StateUnavailable."""
        return {agent for agent, _ in await self._uses()}

    async def sweep(self) -> int:
        """Remove what nobody needs, on one replica; returns how many snapshots went. Raises StateUnavailable."""
        name = key("host", "lease", "agent-snapshots")
        if await self._store.acquire_lease(name, owner=self._owner, ttl=SWEEP_SECONDS / 2) is None:
            return 0
        now = await self._store.now_ms()
        old: list[tuple[str, Entry]] = []
        for entry in await self._entries(AGENT_SNAPSHOTS):
            stored = StoredSnapshot.parse(entry.value)
            if stored is not None and now - stored.stored_ms > _KEPT * 1000:
                old.append((key_parts(entry.key)[-1], entry))
        if not old:
            return 0
        used = {digest for _, digest in await self._uses()}
        removed = 0
        for digest, entry in old:
            if digest in used:
                continue
            try:
                removed += await self._store.delete(entry.key, expect=entry.version)
            except VersionConflict:
                continue  # a task just wrote it again
        if removed:
            logger.info("snapshots of agents that no task uses were removed", extra={"count": removed})
        return removed

    async def _uses(self) -> set[tuple[str, str]]:
        now = await self._store.now_ms()
        found: set[tuple[str, str]] = set()
        for entry in await self._entries(AGENT_USES):
            agent, digest = key_parts(entry.key)[2:4]
            if now - int(entry.value) < _LONGEST_USE * 1000:
                found.add((agent, digest))
            else:
                await self._store.delete(entry.key)
        return found

    async def _entries(self, prefix: Prefix) -> list[Entry]:
        found: list[Entry] = []
        after: str | None = None
        while True:
            page = await self._store.list(prefix, after=after, limit=1000)
            found.extend(page.entries)
            if (after := page.next) is None:
                return found


def _remember(where: OrderedDict[str, Any], name: str, value: Any) -> None:
    where[name] = value
    where.move_to_end(name)
    if len(where) > _REMEMBERED:
        where.popitem(last=False)
