"""Retry arithmetic: how long a message waits, and when it has had enough.

Delays are made of a few fixed steps, because a broker expires messages of one queue in order: a queue per step has no
message waiting behind one that is due later. A delay that is no step is walked: the largest step that fits, and again,
until it is due. It may come late by less than the smallest step, never early.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, final

__all__ = [
    "DELAY_STEPS",
    "Backoff",
    "Exponential",
    "Fixed",
    "Immediate",
    "NoRetry",
    "RetryPolicy",
    "RetryRule",
    "Steps",
    "Terms",
    "handback_wait",
    "next_step",
    "span",
]

#: Seconds: 1 s, 5 s, 30 s, 2 min, 10 min, 1 h.
DELAY_STEPS: Final = (1, 5, 30, 120, 600, 3600)

#: Seconds that a first, second, ... return without an attempt waits when it does not say; the last one repeats. Whatever
#: it says, it waits the first of them at least: a hand-back is bounded by much larger numbers than an attempt.
_HANDBACK_WAITS: Final = (1.0, 5.0, 30.0)


def next_step(remaining: float) -> int:
    """The step (seconds) to wait now when `remaining` seconds are left; the smallest one when less than it is left.

    0 when nothing is left: the message goes straight back to its queue.
    """
    if remaining <= 0:
        return 0
    fitting = [step for step in DELAY_STEPS if step <= remaining]
    return fitting[-1] if fitting else DELAY_STEPS[0]


def handback_wait(after: float | None, handbacks: int) -> float:
    """Seconds that a return waits which asks for `after` and comes after `handbacks` others."""
    if after is None:
        return _HANDBACK_WAITS[min(max(handbacks, 0), len(_HANDBACK_WAITS) - 1)]
    return max(after, _HANDBACK_WAITS[0])


@final
@dataclass(frozen=True, slots=True)
class NoRetry:
    """The first failure is the last."""

    def delay(self, attempt: int, seed: str) -> float | None:  # noqa: ARG002
        return None

    def describe(self) -> str:
        return "no retry"


@final
@dataclass(frozen=True, slots=True)
class Immediate:
    """Again at once, through the queue."""

    def delay(self, attempt: int, seed: str) -> float | None:  # noqa: ARG002
        return 0.0

    def describe(self) -> str:
        return "at once"


@final
@dataclass(frozen=True, slots=True)
class Fixed:
    """The same wait (seconds) each time."""

    seconds: float = 5.0

    def __post_init__(self) -> None:
        _check_seconds(self.seconds)

    def delay(self, attempt: int, seed: str) -> float | None:  # noqa: ARG002
        return self.seconds

    def describe(self) -> str:
        return f"every {self.seconds:g} s"


@final
@dataclass(frozen=True, slots=True)
class Steps:
    """These waits (seconds) before attempt 2, 3, ...; the last one repeats."""

    seconds: tuple[float, ...] = (1, 5, 30, 120)

    def __post_init__(self) -> None:
        if not self.seconds:
            raise ValueError("steps of a backoff must not be empty")
        _check_seconds(*self.seconds)

    def delay(self, attempt: int, seed: str) -> float | None:  # noqa: ARG002
        return self.seconds[min(attempt, len(self.seconds)) - 1]

    def describe(self) -> str:
        return f"after {', '.join(f'{delay:g}' for delay in self.seconds)} s"


@final
@dataclass(frozen=True, slots=True)
class Exponential:
    """`first` times `factor` to the power of the failures before, at most `longest` seconds.

    With `jitter` the wait is anywhere between 0 and that ("full jitter"), so that messages that failed together do not come
    back together. It is drawn from message id and attempt, so the same failure always waits as long.
    """

    first: float = 1.0
    factor: float = 2.0
    longest: float = 600.0
    jitter: bool = True

    def __post_init__(self) -> None:
        _check_seconds(self.first, self.longest)
        if not 1 <= self.factor < math.inf:
            raise ValueError("an exponential backoff needs a factor of at least 1")

    def delay(self, attempt: int, seed: str) -> float | None:
        exponent = min(attempt - 1, 64)
        try:
            wait = min(self.first * self.factor**exponent, self.longest)
        except OverflowError:
            wait = self.longest
        return wait * _share(seed, attempt) if self.jitter else wait

    def describe(self) -> str:
        spread = ", full jitter" if self.jitter else ""
        return f"{self.first:g} s times {self.factor:g} each time, at most {self.longest:g} s{spread}"


Backoff = NoRetry | Immediate | Fixed | Steps | Exponential


@final
@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for one failure: how long to wait, how often to try, and for how long (seconds)."""

    backoff: Backoff
    max_attempts: int
    max_age: float | None

    @property
    def cells(self) -> tuple[str, str, str]:
        """Attempts, waits and age, for people."""
        attempts = 1 if isinstance(self.backoff, NoRetry) else self.max_attempts
        waits = self.backoff.describe() if attempts > 1 else "-"
        return str(attempts), waits, "no limit" if self.max_age is None else span(self.max_age)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RetryRule:
    """What differs for some errors. `errors` are class names; a rule also covers their subclasses, `Exception` all of them.

    What is None is as in the policy.
    """

    errors: tuple[str, ...]
    backoff: Backoff | None = None
    max_attempts: int | None = None
    max_age: float | None = None

    def __post_init__(self) -> None:
        if not self.errors or not all(self.errors):
            raise ValueError("a retry rule needs at least one error class by name")
        _check_bounds(self.max_attempts, self.max_age)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """What a counted Retry leads to.

    Args:
        max_attempts: the attempt that fails with this number is dead-lettered.
        delays: seconds before attempt 2, 3, ...; the last one repeats. Short for ``backoff=Steps(delays)``.
        backoff: another rule for the waits than `delays`.
        max_age: seconds after the first failure after which the next one is dead-lettered; None for no limit.
        rules: for particular errors; the first that fits decides. A verdict that says itself how long to wait is obeyed
            whatever `delays` or `backoff` say, within `max_attempts` and `max_age`.
        max_handbacks: returns that cost no attempt, before the message is dead-lettered all the same.
        max_handback_age: seconds after the first failure or return after which a return is dead-lettered (a week).
    """

    max_attempts: int = 5
    delays: tuple[float, ...] = (1, 5, 30, 120)
    backoff: Backoff | None = None
    max_age: float | None = None
    rules: tuple[RetryRule, ...] = ()
    max_handbacks: int = 1000
    max_handback_age: float = 7 * 86_400

    def __post_init__(self) -> None:
        if self.max_attempts < 1 or self.max_handbacks < 0 or not self.delays or min(self.delays) < 0:
            raise ValueError("a retry policy needs max_attempts >= 1, max_handbacks >= 0 and delays >= 0")
        _check_bounds(self.max_attempts, self.max_age)
        _check_bounds(None, self.max_handback_age)

    def terms(self, error_type: str, error_bases: Iterable[str] = ()) -> Terms:
        """What holds for an error of this class with these base classes: the first rule that covers it, else the policy."""
        names = {error_type, *error_bases, *(["Exception"] if error_type else [])}
        for rule in self.rules:
            if names.intersection(rule.errors):
                return self._under(rule)
        return self._general

    @property
    def _general(self) -> Terms:
        return Terms(self.backoff or Steps(self.delays), self.max_attempts, self.max_age)

    def _under(self, rule: RetryRule) -> Terms:
        general = self._general
        return Terms(
            rule.backoff or general.backoff, rule.max_attempts or general.max_attempts, rule.max_age or general.max_age
        )

    def describe(self) -> str:
        """The policy as a small table: a row for each rule and one for all other errors, then what bounds hand-backs."""
        rows = [("errors", "attempts", "waits", "age")]
        rows += [(", ".join(rule.errors), *self._under(rule).cells) for rule in self.rules]
        rows.append(("any other" if self.rules else "any", *self._general.cells))
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = [
            " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        ]
        bound = f"hand-backs: at most {self.max_handbacks}, over at most {span(self.max_handback_age)}"
        return "\n".join([*lines, bound])

    def summary(self) -> str:
        """The policy in one line."""
        attempts, waits, age = self._general.cells
        parts = ["1 attempt" if attempts == "1" else f"{attempts} attempts, {waits}"]
        if self.max_age is not None:
            parts.append(f"over at most {age}")
        rules = f"; {len(self.rules)} rule{'s' * (len(self.rules) > 1)} for particular errors" if self.rules else ""
        return f"{', '.join(parts)}; then a dead letter{rules}"


def span(seconds: float) -> str:
    """A duration for people, in the largest unit that divides it: ``90 s``, ``15 min``, ``7 d``."""
    for unit, name in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit and seconds % unit == 0:
            return f"{seconds / unit:g} {name}"
    return f"{seconds:g} s"


def _share(seed: str, attempt: int) -> float:
    digest = hashlib.blake2b(f"{seed}\0{attempt}".encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest) / (1 << 64)


def _check_seconds(*values: float) -> None:
    if not all(0 <= value < math.inf for value in values):
        raise ValueError("waits must be at least 0 seconds, and finite")


def _check_bounds(attempts: int | None, age: float | None) -> None:
    if attempts is not None and attempts < 1:
        raise ValueError("max_attempts must be at least 1")
    if age is not None and not 0 < age < math.inf:
        raise ValueError("an age limit must be above 0 seconds")
