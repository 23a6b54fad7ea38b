"""The agent loop that every contender runs: a model that costs nothing asks for a tool that costs nothing, ten times over.

What is measured lies between two calls of the model, and is two steps: its reply is taken and kept, the tool is called; what
that returned is kept, the model is called again. The time inside the model is taken out, and the tool takes none: what is
left is what the loop itself costs. All contenders keep every step before the next one begins; what survives a killed process
and what a power cut, is theirs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Final, final

__all__ = ["ANSWER", "ASK", "QUESTION", "STEPS", "WARM_UP", "Steps", "found"]

#: Model calls of a turn; each but the last asks for the tool.
STEPS: Final = 10
#: Turns that only warm a process up.
WARM_UP: Final = 3
QUESTION: Final = "What is in the store room? Look at every shelf. " * 4
#: What the model says beside its call, and in the end.
ASK: Final = "I look at the next shelf. " * 4
ANSWER: Final = "All shelves were looked at. " * 4


def found(shelf: int) -> str:
    """What the tool returns: some 300 characters."""
    return f"On shelf {shelf} there are " + ", ".join(f"{number} boxes of kind {number}" for number in range(12))


@final
class Steps:
    """The clock of one process: wall and CPU time between calls of the model.

    The first `warm_up` turns are not counted. Between two turns nothing is: a turn's first call of the model opens its
    first step.
    """

    def __init__(self, *, warm_up: int) -> None:
        self._warm_up = warm_up
        self._turns = 0
        self._wall: list[float] = []
        self._cpu: list[float] = []
        self._from: tuple[float, float] | None = None
        self._away = (0.0, 0.0)

    def model_began(self) -> None:
        """A call of the model begins: the step before it is over."""
        now = (time.perf_counter(), time.process_time())
        if self._from is not None and self._turns >= self._warm_up:
            self._wall.append(now[0] - self._from[0] - self._away[0])
            self._cpu.append(now[1] - self._from[1] - self._away[1])

    def model_ended(self) -> None:
        """It returns: what follows is the loop's."""
        self._from = (time.perf_counter(), time.process_time())
        self._away = (0.0, 0.0)

    def turn_ended(self) -> None:
        """The turn has its answer."""
        self._turns += 1
        self._from = None

    def result(self) -> dict[str, float]:
        """Milliseconds per step; the CPU time is that of this process with all its threads."""
        return {
            "p50_ms": 1000 * statistics.median(self._wall),
            "p99_ms": 1000 * _share(self._wall, 0.99),
            "cpu_ms": 1000 * statistics.fmean(self._cpu),
            "steps": len(self._wall),
        }


def _share(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
