"""Slots of a backend across all replicas: so many calls under way at once, whoever makes them.

A slot is an amount of one, reserved under the call's id and prolonged while the call runs; a process that dies gives its
slots back when they run out.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final, final

from rockbot.state.keys import Key
from rockbot.state.ports import StateError, StateStore

__all__ = ["Slot", "Slots"]

logger = logging.getLogger(__name__)

#: Seconds that a slot lasts unless it is prolonged.
SLOT_SECONDS: Final = 15.0


@final
class Slots:
    """`most` slots under one key."""

    def __init__(self, store: StateStore, key: Key, most: int, *, seconds: float = SLOT_SECONDS) -> None:
        self._store = store
        self._key = key
        self._most = most
        self._seconds = seconds

    async def take(self, call_id: str, tenant: str) -> Slot | None:
        """A slot for this call, None when all are taken. Let go of it with `Slot.release`.

        Raises:
            StateUnavailable: the store cannot say.
        """
        held = f"slot:{self._key}:{tenant}:{call_id}"
        if not await self._reserve(held):
            return None
        return Slot(self, held)

    async def _reserve(self, id: str) -> bool:
        found = await self._store.reserve(self._key, 1, limit=self._most, id=id, ttl=self._seconds)
        return found.granted

    async def keep(self, id: str) -> None:
        """Prolong a slot until cancelled."""
        while True:
            await asyncio.sleep(self._seconds / 3)
            try:
                if not await self._reserve(id):
                    logger.warning("a slot ran out while its call was under way", extra={"slot": id})
            except StateError as exc:
                logger.warning(
                    "a slot could not be prolonged", extra={"slot": id, "error": f"{type(exc).__name__}: {exc}"}
                )

    async def free(self, id: str) -> None:
        """Give a slot back; one that cannot be given back runs out by itself."""
        try:
            await self._store.settle(id, 0)
        except StateError as exc:
            logger.info("a slot runs out by itself", extra={"slot": id, "error": f"{type(exc).__name__}: {exc}"})


@final
class Slot:
    """One slot, held and prolonged until it is released."""

    def __init__(self, slots: Slots, id: str) -> None:
        self._slots = slots
        self._id = id
        self._keeping = asyncio.create_task(slots.keep(id), name=f"keep {id}")

    async def release(self) -> None:
        """Give it back."""
        self._keeping.cancel()
        await asyncio.wait({self._keeping})
        await self._slots.free(self._id)
