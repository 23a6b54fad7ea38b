"""The arithmetic that every store shares, so that no two of them disagree by a rounding or a boundary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from rockbot.state.items import KINDS, Item, ItemKind, kind_of
from rockbot.state.keys import Key, Prefix
from rockbot.state.ports import ANY, Append, Commit, OutboxRow, StateUnavailable, VersionConflict, Write, _Any

__all__ = [
    "REMEMBER_MS",
    "already_committed",
    "check_amount",
    "check_commit",
    "check_items",
    "check_limit",
    "check_step",
    "check_version",
    "check_writes",
    "counted",
    "exceeds",
    "instant",
    "is_over",
    "is_under",
    "longest_wait_ms",
    "not_open",
    "prefix_end",
    "stream_conflict",
]

#: How long the id of a settled or expired reservation is remembered, so that settling it again or late is understood.
REMEMBER_MS: Final = 7 * 24 * 3600 * 1000
#: Longest wait between two sendings of an outbox row, unless the caller's own `idle` is longer.
_LONGEST_WAIT_MS: Final = 600_000


def instant(now_ms: int, seconds: float) -> int:
    """The instant `seconds` from now."""
    return now_ms + round(seconds * 1000)


def is_over(until_ms: int | None, now_ms: int) -> bool:
    """Whether something that lasts until an instant (None: for ever) is over; at the instant itself it is."""
    return until_ms is not None and until_ms <= now_ms


def longest_wait_ms(idle_ms: int) -> int:
    """The bound of an outbox row's doubling wait: ten minutes, or `idle` when that is longer."""
    return max(_LONGEST_WAIT_MS, idle_ms)


def exceeds(taken: float, amount: float, limit: float) -> bool:
    """Whether `amount` more would exceed `limit`, forgiving what adding floats loses (a billionth of the limit)."""
    return taken + amount > limit + abs(limit) * 1e-9


def check_version(key: Key, expect: int | _Any, version: int) -> None:
    """Compare a key's version (0: no value) with the expected one.

    Raises:
        VersionConflict: they differ.
    """
    if expect is not ANY and expect != version:
        has = f"it has version {version}" if version else "it does not exist"
        raise VersionConflict(f"{key} was expected at version {expect}, but {has}; read it again")


def stream_conflict(step: Append, version: int, *, handled: bool) -> VersionConflict:
    """The error of a step that somebody else was faster than."""
    if handled:
        return VersionConflict(f"{step.stream}: message {step.handled} was handled already; load the stream again")
    return VersionConflict(
        f"{step.stream} was expected at version {step.expected_version}, but it has {version}; load it again"
    )


def check_step(step: Append) -> None:
    """Refuse what no store could give back.

    Raises:
        ValueError: a step without records or without the id of its message, or that sends what another message caused.
    """
    if not step.records:
        raise ValueError(f"a step of {step.stream} has no records")
    if not step.handled:
        raise ValueError(f"a step of {step.stream} does not say which message it handled")
    _check_causes(step.outbox, step.handled)


def check_writes(writes: Sequence[Write]) -> None:
    """Refuse writes that would depend on their order.

    Raises:
        ValueError: two of them are of one key.
    """
    keys: set[Key] = set()
    for write in writes:
        if write.key in keys:
            raise ValueError(f"{write.key} is written twice at once; write its last value only")
        keys.add(write.key)


def check_commit(effect: Commit) -> None:
    """Refuse what no store could give back.

    Raises:
        ValueError: it names no message, is not remembered, writes its own mark or sends what another message caused.
    """
    check_writes(effect.writes)
    if not effect.cause:
        raise ValueError(f"the commit {effect.mark} does not say which message it belongs to")
    if not effect.remember > 0:
        raise ValueError(f"the commit {effect.mark} must be remembered for more than {effect.remember} seconds")
    if any(write.key == effect.mark for write in effect.writes):
        raise ValueError(f"{effect.mark} is the mark of a commit and cannot be one of its effects")
    _check_causes(effect.outbox, effect.cause)


def _check_causes(rows: Sequence[OutboxRow], cause: str) -> None:
    if strange := next((row.id for row in rows if row.cause != cause), None):
        raise ValueError(f"message {strange} was not caused by {cause}, and cannot be sent with it")


def already_committed(effect: Commit) -> VersionConflict:
    """The error of a commit whose mark exists."""
    return VersionConflict(f"message {effect.cause} was handled already: {effect.mark} exists; read what it committed")


def check_limit(limit: int) -> None:
    """Raises ValueError: a page of no rows would never end a listing."""
    if limit < 1:
        raise ValueError(f"a limit of rows is at least 1, not {limit}")


def check_items(items: Sequence[Item]) -> ItemKind | None:
    """The kind of some items, None when there are none.

    Raises:
        ValueError: they are of several kinds.
    """
    kinds = {kind_of(item) for item in items}
    if len(kinds) > 1:
        raise ValueError(f"items are restored kind by kind, not {' and '.join(sorted(kinds))} at once")
    return kinds.pop() if kinds else None


def is_under(name: str, under: Prefix) -> bool:
    """Whether a key is the one that a prefix was made of, or under it."""
    return name.startswith(under) or name == under[:-1]


def counted(gone: Mapping[ItemKind, int]) -> dict[ItemKind, int]:
    """What was removed, in the order of kinds, without those of which nothing was."""
    return {kind: gone[kind] for kind in KINDS if gone.get(kind)}


def check_amount(amount: float, what: str) -> None:
    """Raises ValueError: amounts are not negative (and not NaN)."""
    if not amount >= 0:
        raise ValueError(f"{what} of a limited quantity cannot be {amount}")


def prefix_end(prefix: str) -> str:
    """The first text behind everything that begins with `prefix`, in code point order."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def not_open(address: str) -> StateUnavailable:
    """The error of a store that is used before `open` or after `close`."""
    return StateUnavailable(f"the state store {address} is not open")
