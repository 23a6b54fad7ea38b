"""Retry arithmetic: how long a message waits, and when it has had enough.

Delays are made of a few fixed steps, because a broker expires messages of one queue in order: a queue per step has no
message waiting behind one that is due later. A delay that is no step is walked: the largest step that fits, and again,
until it is due. It may come late by less than the smallest step, never early.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

__all__ = ["DELAY_STEPS", "RetryPolicy", "next_step"]

#: Seconds: 1 s, 5 s, 30 s, 2 min, 10 min, 1 h.
DELAY_STEPS: Final = (1, 5, 30, 120, 600, 3600)


def next_step(remaining: float) -> int:
    """The step (seconds) to wait now when `remaining` seconds are left; the smallest one when less than it is left."""
    fitting = [step for step in DELAY_STEPS if step <= remaining]
    return fitting[-1] if fitting else DELAY_STEPS[0]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """What a counted Retry leads to.

    Args:
        max_attempts: the attempt that fails with this number is dead-lettered.
        delays: seconds before attempt 2, 3, ...; the last one repeats.
        max_handbacks: returns that cost no attempt, before the message is dead-lettered all the same.
    """

    max_attempts: int = 5
    delays: tuple[float, ...] = (1, 5, 30, 120)
    max_handbacks: int = 1000

    def __post_init__(self) -> None:
        if self.max_attempts < 1 or self.max_handbacks < 0 or not self.delays or min(self.delays) < 0:
            raise ValueError("a retry policy needs max_attempts >= 1, max_handbacks >= 0 and delays >= 0")

    def delay_after(self, attempt: int) -> float:
        """Seconds to wait after the failure of `attempt` (from 1)."""
        return self.delays[min(attempt, len(self.delays)) - 1]

    def describe(self) -> str:
        """The policy in one line."""
        waits = ", ".join(f"{delay:g} s" for delay in self.delays)
        return f"{self.max_attempts} attempts, waiting {waits}; then a dead letter"
