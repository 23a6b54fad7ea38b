"""A token bucket that all replicas share: one value in the state store, drawn from in chunks.

A process draws more than it needs at once, so that not every call writes; what it does not use within a few seconds is lost,
so that idle processes cannot hoard and then begin together. What was drawn is never more than the bucket had.
"""

from __future__ import annotations

import json
import logging
from typing import Final, final

from rockbot.state.keys import Key
from rockbot.state.ports import StateStore, VersionConflict
from rockbot_messaging.clock import Clock

__all__ = ["SharedBucket"]

logger = logging.getLogger(__name__)

#: Draws that fill a bucket.
_CHUNKS: Final = 20
#: Seconds that a process may keep what it drew.
_KEEP_SECONDS: Final = 10.0
#: Seconds after which an untouched bucket is full, whatever it owed.
_TTL: Final = 600.0
#: What floats lose on the way.
_LOST: Final = 1e-9


@final
class SharedBucket:
    """`per_minute` at first and at most, refilled evenly. Instants are the store's."""

    def __init__(self, store: StateStore, key: Key, per_minute: float, *, clock: Clock) -> None:
        self._store = store
        self._key = key
        self._most = per_minute
        self._clock = clock
        self._held = 0.0
        self._drawn_at = 0.0

    async def take(self, amount: float) -> float:
        """Take so much (never more than a whole bucket); returns 0, or the seconds after which there may be enough.

        Raises:
            StateUnavailable: the store cannot say.
        """
        amount = min(amount, self._most)
        if self._held > 0 and self._clock.monotonic() - self._drawn_at > _KEEP_SECONDS:
            self._held = 0.0
        if self._held < amount - _LOST:
            wait = await self._draw(amount)
            if wait:
                return wait
        self._held -= amount
        return 0.0

    def correct(self, amount: float) -> None:
        """Give back what was taken and not used; negative when more was used. The next draw makes up for it."""
        self._held += amount

    async def _draw(self, amount: float) -> float:
        while True:
            entry = await self._store.get(self._key)
            now_ms = await self._store.now_ms()
            level, at_ms = (self._most, now_ms) if entry is None else json.loads(entry.value)
            level = min(self._most, level + max(0, now_ms - at_ms) / 60_000 * self._most)
            missing = amount - self._held
            # The debt of a process may be more than a bucket ever has: a full one pays it, and stands below zero then.
            enough = min(missing, self._most)
            if level < enough - _LOST:
                return max(0.001, (enough - level) / self._most * 60)
            drawn = max(missing, min(level, self._most / _CHUNKS))
            value = json.dumps([level - drawn, now_ms]).encode()
            try:
                await self._store.put(self._key, value, expect=0 if entry is None else entry.version, ttl=_TTL)
            except VersionConflict:
                continue
            self._held += drawn
            self._drawn_at = self._clock.monotonic()
            return 0.0
