"""Days that are over: what was used on them is forgotten, so that the state store does not grow by every day and user.

A day is kept for a week after its end, as the reservations that were made on it are remembered.
"""

from __future__ import annotations

import datetime
import logging
from typing import Final, final

from rockbot.state.items import AmountItem
from rockbot.state.keys import Key, key
from rockbot.state.ports import StateStore
from rockbot_handlers.limits.accounts import day_of

__all__ = ["EVERY_SECONDS", "OldDays"]

logger = logging.getLogger(__name__)

#: Seconds between two looks.
EVERY_SECONDS: Final = 3600.0
_KEPT: Final = datetime.timedelta(days=8)
_PAGE: Final = 500


@final
class OldDays:
    """Removes the amounts of days that are long over, on one replica."""

    def __init__(self, store: StateStore, *, owner: str) -> None:
        self._store = store
        self._owner = owner

    async def sweep(self) -> int:
        """How many amounts were removed. Raises StateUnavailable."""
        lease = key("host", "lease", "limits")
        if await self._store.acquire_lease(lease, owner=self._owner, ttl=EVERY_SECONDS / 2) is None:
            return 0
        now_ms = await self._store.now_ms()
        before = datetime.datetime.fromtimestamp(now_ms / 1000, datetime.UTC).date() - _KEPT
        removed = 0
        after: str | None = None
        while True:
            page = await self._store.dump("amount", after=after, limit=_PAGE)
            amounts = [item.key for item in page.items if isinstance(item, AmountItem)]
            removed += await self._store.drop_amounts([each for each in amounts if _is_before(each, before)])
            if (after := page.next) is None:
                break
        if removed:
            logger.info("what was used on days that are long over was removed", extra={"count": removed})
        return removed


def _is_before(amount: Key, before: datetime.date) -> bool:
    day = day_of(amount)
    return day is not None and day < before
