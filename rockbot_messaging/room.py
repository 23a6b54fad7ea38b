"""Which deliveries may be worked on side by side, the same in every provider.

A delivery that comes back was in some process's hands when that process died, perhaps because of it. It is handled
alone, so that if it kills this process too, its neighbours were not being worked on.
"""

from __future__ import annotations

from typing import final

__all__ = ["Room"]


@final
class Room:
    """Room for `parallelism` deliveries; one that must be alone has all of it.

    Deliveries are asked for in their order: behind one that must wait, the others wait too.
    """

    __slots__ = ("_alone", "_parallelism", "active")

    def __init__(self, parallelism: int) -> None:
        self._parallelism = parallelism
        self._alone = False
        self.active = 0

    def has_place(self, alone: bool, /) -> bool:
        """Whether the next delivery may be begun now."""
        return not (self._alone or self.active >= self._parallelism or (alone and self.active))

    def admit(self, alone: bool, /) -> bool:
        """Begin the next delivery if it may be begun now; says whether it was."""
        if self._alone or self.active >= self._parallelism or (alone and self.active):
            return False
        self.active += 1
        self._alone = alone
        return True

    def leave(self) -> None:
        """It has ended. If it was alone, nothing else was begun meanwhile."""
        self.active -= 1
        self._alone = False
