"""What goes into a store and comes out of it, as data, and what a store raises. Import it from `rockbot.state.ports`."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Final, final

from rockbot.state.keys import Key

__all__ = [
    "ANY",
    "Append",
    "Commit",
    "Entry",
    "IndexRow",
    "Lease",
    "Loaded",
    "OutboxRow",
    "Page",
    "Record",
    "Reservation",
    "Snapshot",
    "StateError",
    "StateUnavailable",
    "Timer",
    "VersionConflict",
    "Write",
]


class StateError(Exception):
    """Root of what a store raises."""


class VersionConflict(StateError):
    """Somebody else wrote first; load again and decide again."""


class StateUnavailable(StateError):
    """The store cannot be reached or cannot write (disk full, read-only, locked); the text says what to check."""


class _Any(Enum):
    ANY = "any"


#: Write whatever the stored version is.
ANY: Final = _Any.ANY


@final
@dataclass(frozen=True, slots=True)
class Entry:
    """A value and its version; versions of a key only grow, also over deletion and expiry."""

    key: Key
    value: bytes
    version: int


@final
@dataclass(frozen=True, slots=True)
class Page:
    """Some entries in key order; `next` continues the listing, None at its end."""

    entries: tuple[Entry, ...]
    next: str | None


@final
@dataclass(frozen=True, slots=True)
class Record:
    """One journal record; `version` counts from 1 within its stream."""

    version: int
    value: bytes
    at_ms: int


@final
@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a stream after its record `version`."""

    version: int
    value: bytes


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxRow:
    """A command that left, or is to leave, with a step.

    `id` is the message id, `cause` the id of the message whose step it belongs to, `message` the packed envelope, `door`
    where it is published. `awaits_answer` keeps the row open (and re-published by recovery) until an append names it in
    `answered`; other rows are done when they are sent.
    """

    id: str
    cause: str
    message: bytes
    door: str
    address: str = ""
    awaits_answer: bool = False


@final
@dataclass(frozen=True, slots=True)
class Timer:
    """Something that falls due. `id` is unique in the store; setting it again moves it."""

    id: str
    due_ms: int
    payload: bytes


@final
@dataclass(frozen=True, slots=True)
class IndexRow:
    """A key written with the step: its value, or None to delete it. Read with `get` and `list`."""

    key: Key
    value: bytes | None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Append:
    """One step of one stream, stored atomically.

    `expected_version` is the number of records the stream had when the step was decided (0: none). `handled` is the id of the
    message this step handled; it is remembered for as long as the stream exists. At least one record is needed.
    """

    stream: Key
    expected_version: int
    records: tuple[bytes, ...]
    handled: str
    snapshot: bytes | None = None
    outbox: tuple[OutboxRow, ...] = ()
    answered: tuple[str, ...] = ()
    timers: tuple[Timer, ...] = ()
    canceled_timers: tuple[str, ...] = ()
    index: tuple[IndexRow, ...] = ()


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """A value to be written (None: deleted) if its version is the expected one; `ttl` in seconds."""

    key: Key
    value: bytes | None
    expect: int | _Any = ANY
    ttl: float | None = None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """What handling one message did outside of any stream, stored whole or not at all.

    `mark` is the key that says the message was handled; it must not exist, and lasts for `remember` seconds. `cause` is the
    message's id, `writes` are its effects, `outbox` the messages it sends (their `cause` is this one).
    """

    mark: Key
    remember: float
    cause: str
    writes: tuple[Write, ...] = ()
    outbox: tuple[OutboxRow, ...] = ()


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A stream as one consistent read: newest snapshot, the records after it, and what was done with one message.

    `handled` says whether the message asked about was handled; `unanswered` are the outbox rows it caused that are not
    done, in the order they were appended: what has to be published again when it is delivered again.
    """

    version: int
    snapshot: Snapshot | None
    records: tuple[Record, ...]
    handled: bool = False
    unanswered: tuple[OutboxRow, ...] = ()


@final
@dataclass(frozen=True, slots=True)
class Lease:
    """Exclusive for a while. `token` grows with every new holder: pass it along, refuse smaller ones (fencing)."""

    name: str
    owner: str
    token: int
    until_ms: int


@final
@dataclass(frozen=True, slots=True)
class Reservation:
    """Whether an amount was granted, and how much of the limit is taken now (settled and reserved)."""

    granted: bool
    taken: float
    limit: float = field(default=0.0)
