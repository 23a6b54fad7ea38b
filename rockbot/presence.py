"""What a process says of itself where others can read it: a row in the state store that ends with the process.

Health endpoints answer whoever can reach the process; an operator with nothing but broker and store reads these rows.
"""

from __future__ import annotations

import dataclasses
import os
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, final

from pydantic import BaseModel, ConfigDict, ValidationError

from rockbot.state.keys import Key, key, prefix
from rockbot.state.ports import StateStore
from rockbot_messaging.clock import IdSource
from rockbot_messaging.ports import MessageBus
from rockbot_messaging.regulation import OutageStatus

if TYPE_CHECKING:
    from rockbot.agents.roster import ReloadStatus

__all__ = ["REFRESH_SECONDS", "Presence", "ProcessStatus", "ToldAgents", "ToldOutage", "process_owner", "processes"]

#: Seconds between two writes of a row; it is forgotten when six of them are missing.
REFRESH_SECONDS: Final = 10.0
_TTL_SECONDS: Final = 6 * REFRESH_SECONDS


def process_owner(ids: IdSource) -> str:
    """A name for this process in claims and leases: readable, and never used again."""
    return f"{socket.gethostname()}:{os.getpid()}:{ids.new_id()[:8]}"


class _Told(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class ToldOutage(_Told):
    """An outage of one subscription in one process. See `OutageStatus`."""

    subscription: str
    since_ms: int
    error: str
    probes: int
    waiting: int
    probe_in: float


class ToldAgents(_Told):
    """How agents stand in one process. See `ReloadStatus`."""

    generation: int
    loaded_ms: int
    refused: str = ""
    refused_ms: int = 0
    restart: tuple[str, ...] = ()


class ProcessStatus(_Told):
    """One process. `what` is ``host`` or a service's name, `at_ms` when it said so by its own clock."""

    owner: str
    what: str
    at_ms: int
    connected: bool
    broker: str
    subscriptions: tuple[str, ...]
    idle_seconds: dict[str, float]
    outages: tuple[ToldOutage, ...]
    agents: ToldAgents | None = None


@final
class Presence:
    """Keeps the row of this process. `owner` names it, as in claims and leases."""

    def __init__(
        self,
        store: StateStore,
        bus: MessageBus,
        *,
        owner: str,
        what: str,
        subscriptions: Callable[[], Sequence[str]],
        outages: Callable[[], Sequence[OutageStatus]],
        agents: Callable[[], ReloadStatus] | None = None,
    ) -> None:
        self._store = store
        self._bus = bus
        self._owner = owner
        self._what = what
        self._subscriptions = subscriptions
        self._outages = outages
        self._agents = agents

    async def run_once(self) -> None:
        """Write the row as things are now. Raises StateUnavailable."""
        health = self._bus.health()
        status = ProcessStatus(
            owner=self._owner,
            what=self._what,
            at_ms=await self._store.now_ms(),
            connected=health.connected,
            broker=health.detail,
            subscriptions=tuple(sorted(self._subscriptions())),
            idle_seconds=health.idle_seconds,
            outages=tuple(ToldOutage(**dataclasses.asdict(outage)) for outage in self._outages()),
            agents=None if self._agents is None else ToldAgents(**dataclasses.asdict(self._agents())),
        )
        await self._store.put(_key(self._owner), status.model_dump_json().encode(), ttl=_TTL_SECONDS)

    async def leave(self) -> None:
        """Remove the row. Raises StateUnavailable: it ends by itself."""
        await self._store.delete(_key(self._owner))


async def processes(store: StateStore) -> list[ProcessStatus]:
    """Every process that said something in the last minute, by its name. Raises StateUnavailable."""
    found: list[ProcessStatus] = []
    after: str | None = None
    while True:
        page = await store.list(prefix("host", "status"), after=after)
        for entry in page.entries:
            try:
                found.append(ProcessStatus.model_validate_json(entry.value))
            except ValidationError:
                continue  # of another release
        if (after := page.next) is None:
            return found


def _key(owner: str) -> Key:
    return key("host", "status", owner)
