"""The text so far of replies that models are writing, for those who come late to watch.

One value per call, written by the worker that makes it and gone after its time to live: what was said for good is in the
journal. A worker that fell behind (its claim ran out, another one makes the call) never writes over a later attempt.
"""

from __future__ import annotations

from typing import final

from pydantic import BaseModel, ConfigDict, ValidationError

from rockbot.state.keys import reply_key, reply_prefix
from rockbot.state.ports import StateStore, VersionConflict

__all__ = ["ReplySnapshot", "ReplySnapshots"]

#: Snapshots read at once. A conversation has one model call under way, and those of the last minutes.
_PAGE = 100


@final
class ReplySnapshot(BaseModel):
    """What the deltas of one attempt made so far: those whose `sequence` is below this one."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    task_id: str = ""
    call_id: str
    attempt: int
    sequence: int
    text: str = ""
    done: bool = False


@final
class ReplySnapshots:
    """Reads and writes them in a store. Every method may raise `StateUnavailable`."""

    def __init__(self, store: StateStore) -> None:
        self._store = store

    async def put(self, tenant: str, conversation_id: str, snapshot: ReplySnapshot, *, ttl: float) -> bool:
        """Keep a snapshot for `ttl` seconds; False when a later attempt has written one."""
        key = reply_key(tenant, conversation_id, snapshot.call_id)
        value = snapshot.model_dump_json(exclude_defaults=True).encode()
        try:
            await self._store.put(key, value, expect=0, ttl=ttl)
            return True  # nearly every reply is kept once
        except VersionConflict:
            pass
        while True:
            entry = await self._store.get(key)
            if entry is not None and (there := _read(entry.value)) is not None and there.attempt > snapshot.attempt:
                return False
            try:
                await self._store.put(key, value, expect=0 if entry is None else entry.version, ttl=ttl)
            except VersionConflict:
                continue
            return True

    async def of(self, tenant: str, conversation_id: str) -> list[ReplySnapshot]:
        """The snapshots of a conversation's calls, in no order that means anything."""
        page = await self._store.list(reply_prefix(tenant, conversation_id), limit=_PAGE)
        entries = list(page.entries)
        while page.next is not None:
            page = await self._store.list(reply_prefix(tenant, conversation_id), after=page.next, limit=_PAGE)
            entries += page.entries
        return [snapshot for entry in entries if (snapshot := _read(entry.value)) is not None]


def _read(value: bytes) -> ReplySnapshot | None:
    """What a release of ours wrote; None for anything else, which a watcher can do without."""
    try:
        return ReplySnapshot.model_validate_json(value)
    except ValidationError:
        return None
