"""Marks that handling a redelivered message was begun, on top of any state store: a small number that ends by itself."""

from __future__ import annotations

from typing import Final, final

from rockbot.state.keys import Key, key
from rockbot.state.ports import StateStore, VersionConflict

__all__ = ["StateStartMarks"]

#: Longer than processes that die and are restarted ever more slowly need to begin a message three times.
_DAY_SECONDS: Final = 24 * 3600.0


@final
class StateStartMarks:
    """`StartMarks` in `store`, as durable as that is. A mark vanishes `keep_seconds` after the last start."""

    def __init__(self, store: StateStore, *, keep_seconds: float = _DAY_SECONDS) -> None:
        self._store = store
        self._keep = keep_seconds

    async def begun(self, subscription: str, message_id: str, *, tenant: str) -> int:
        """See `StartMarks.begun`. Raises StateUnavailable; ValueError: no key can be made of these ids."""
        count, _ = await self._read(_key(subscription, message_id, tenant))
        return count

    async def begin(self, subscription: str, message_id: str, *, tenant: str) -> int:
        """See `StartMarks.begin`. Raises as `begun`."""
        key = _key(subscription, message_id, tenant)
        while True:
            count, version = await self._read(key)
            try:
                await self._store.put(key, str(count + 1).encode(), expect=version, ttl=self._keep)
            except VersionConflict:
                continue
            return count + 1

    async def end(self, subscription: str, message_id: str, *, tenant: str) -> None:
        """See `StartMarks.end`. Raises as `begun`."""
        await self._store.delete(_key(subscription, message_id, tenant))

    async def _read(self, key: Key) -> tuple[int, int]:
        entry = await self._store.get(key)
        if entry is None:
            return 0, 0
        return int(entry.value) if entry.value.isdigit() else 0, entry.version


def _key(subscription: str, message_id: str, tenant: str) -> Key:
    return key(tenant, "started", subscription, message_id)
