"""How long history is kept: for ever, unless the settings name a number of days."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from typing import Final, final

from rockbot.history import History, TaskRow, read_row
from rockbot.plugins import Loop
from rockbot.settings_history import HistorySettings
from rockbot.state.desk.forgetting import forget_conversation
from rockbot.state.desk.forgotten import ForgetRefused
from rockbot.state.items import StreamItem, cursor
from rockbot.state.keys import (
    key,
    key_parts,
    task_key,
    task_of_key,
    task_time_key,
    tasks_by_time,
    tasks_of_conversation,
    time_order,
)
from rockbot.state.ports import StateStore, Write

__all__ = ["HistoryRetention", "history_loops"]

logger = logging.getLogger(__name__)

_EVERY: Final = 3600.0
_DAY_MS: Final = 86_400_000
#: Tasks that one run removes at most, so that the first run after years does not keep the store busy.
_MOST: Final = 2000
_PAGE: Final = 200


@final
class HistoryRetention:
    """Removes tasks that ended too long ago, and the conversations they belong to if that is wanted; on one replica."""

    def __init__(self, store: StateStore, settings: HistorySettings, *, owner: str) -> None:
        self._store = store
        self._settings = settings
        self._owner = owner

    async def run_once(self) -> int:
        """Remove what is too old; how many tasks went. Raises StateUnavailable."""
        lease = key("host", "lease", "history")
        if await self._store.acquire_lease(lease, owner=self._owner, ttl=_EVERY / 2) is None:
            return 0
        before_ms = await self._store.now_ms() - round(self._settings.keep_days * _DAY_MS)
        removed = 0
        async for tenant in self._tenants():
            async for row in self._old(tenant, before_ms):
                removed += await self._remove(tenant, row, before_ms)
                if removed >= _MOST:
                    return removed
        if removed:
            logger.info("old tasks were removed from history", extra={"count": removed})
        return removed

    async def _tenants(self) -> AsyncIterator[str]:
        """Everybody who has a conversation."""
        after: str | None = None
        while True:
            page = await self._store.dump("stream", after=after, limit=1)
            first = next((item for item in page.items if isinstance(item, StreamItem)), None)
            if first is None:
                return
            yield key_parts(first.stream)[0]
            # "0" is the sign behind the slash: behind everything of this tenant.
            after = cursor(f"{first.stream.partition('/')[0]}0")

    async def _old(self, tenant: str, before_ms: int) -> AsyncIterator[TaskRow]:
        prefix = tasks_by_time(tenant)
        after: str | None = f"{prefix}{time_order(before_ms)}0"
        while after is not None:
            page = await self._store.list(prefix, after=after, limit=_PAGE)
            for entry in page.entries:
                row = read_row(key_parts(entry.key)[-1], entry.value)
                if row is not None and row.ended and row.at_ms < before_ms:
                    yield row
            after = page.next

    async def _remove(self, tenant: str, row: TaskRow, before_ms: int) -> int:
        if await self._store.get(task_key(tenant, row.task_id)) is None:
            return 0  # it went with its conversation
        if self._settings.conversations and await self._is_over(tenant, row.conversation_id, before_ms):
            try:
                await forget_conversation(self._store, tenant, row.conversation_id)
            except ForgetRefused:
                return 0  # a task of it has just come
            return 1
        keys = (
            task_key(tenant, row.task_id),
            task_time_key(tenant, row.accepted_ms, row.task_id),
            task_of_key(tenant, row.conversation_id, row.accepted_ms, row.task_id),
        )
        await self._store.write([Write(key=each, value=None) for each in keys])
        return 1

    async def _is_over(self, tenant: str, conversation_id: str, before_ms: int) -> bool:
        page = await self._store.list(tasks_of_conversation(tenant, conversation_id), limit=1)
        if not page.entries:
            return False
        latest = await History(self._store).row(tenant, key_parts(page.entries[0].key)[-1])
        return latest is not None and latest.ended and latest.at_ms < before_ms


def history_loops(store: StateStore, settings: HistorySettings, *, owner: str) -> Sequence[Loop]:
    """What a host runs for it: nothing while everything is kept."""
    if not settings.keep_days:
        return ()
    return (Loop("old tasks", HistoryRetention(store, settings, owner=owner).run_once, every=_EVERY),)
