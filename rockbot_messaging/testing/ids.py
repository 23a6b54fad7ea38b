"""Ids that a test can foresee."""

from __future__ import annotations

from typing import final

__all__ = ["SequenceIds"]


@final
class SequenceIds:
    """Implements `rockbot_messaging.clock.IdSource`: UUID-shaped, counting from 1, told apart by `series`."""

    def __init__(self, series: int = 0) -> None:
        self._series = series
        self._last = 0

    def new_id(self) -> str:
        self._last += 1
        return f"{self._series:08x}-0000-4000-8000-{self._last:012x}"
