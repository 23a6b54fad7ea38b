"""How long to pause between two attempts at something that many processes try at the same time."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final, final

__all__ = ["Chance", "Pauses"]

#: A number from 0 up to, not including, 1.
Chance = Callable[[], float]

_SPREAD: Final = 0.5
_GROWTH: Final = 2.0


@final
class Pauses:
    """Pauses (seconds) that double from `first` to `longest`, each up to a half longer by chance, so that processes that
    lost a broker together do not come back together."""

    def __init__(self, first: float, longest: float, chance: Chance = random.random) -> None:
        self._first = first
        self._longest = max(first, longest)
        self._chance = chance
        self._now = first

    def next(self) -> float:
        """How long to pause now."""
        pause, self._now = self._now, min(self._now * _GROWTH, self._longest)
        return pause * (1 + _SPREAD * self._chance())

    def reset(self) -> None:
        """Begin with the first pause again."""
        self._now = self._first
