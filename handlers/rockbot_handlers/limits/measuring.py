"""What is left of the limits, as it is measured: by the calls that this process makes, and by the clock when a day is over."""

from __future__ import annotations

import datetime
from typing import Final, final

from rockbot.state.ports import StateStore
from rockbot_handlers.limits.accounts import Allowance
from rockbot_messaging.measures import NO_MEASURES, Measures, Names

__all__ = ["LOOK_SECONDS", "LimitMeasures"]

#: Seconds between two looks whether the day is over.
LOOK_SECONDS: Final = 60.0


@final
class LimitMeasures:
    """Counts and gauges of limits."""

    def __init__(self, measures: Measures = NO_MEASURES) -> None:
        self._measures = measures
        self._days: dict[str, datetime.date] = {}

    def refused(self, limit: Allowance) -> None:
        """A call was forbidden."""
        self._measures.count(Names.LIMIT_REFUSALS, 1, limit=limit.label)

    def taken(self, limit: Allowance, amount: float, day: datetime.date) -> None:
        """So much of a limit is taken; of limits that are one for everybody they name: those that each has alone would be
        told as one."""
        if limit.everybody:
            return
        left = 1 - amount / limit.limit if limit.limit else 0.0
        self._days[limit.label] = day
        self._measures.gauge(Names.LIMIT_LEFT, min(1.0, max(0.0, left)), limit=limit.label)

    async def look(self, store: StateStore) -> None:
        """Tell that limits are whole again which nobody has asked for since their day ended. Raises StateUnavailable."""
        today = datetime.datetime.fromtimestamp(await store.now_ms() / 1000, datetime.UTC).date()
        for label in [label for label, day in self._days.items() if day < today]:
            del self._days[label]
            self._measures.gauge(Names.LIMIT_LEFT, 1.0, limit=label)
