"""The port of state: everything durable that a host keeps outside the broker.

One store, one transaction: what belongs to one step of a machine (its records, outgoing commands, timers, index rows) is
one `Append`, stored whole or not at all. All instants are the store's own clock in epoch milliseconds (`now_ms`), so that
replicas with skewed clocks agree. Durations are seconds. Every store passes `rockbot.state.contract`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Protocol, final

from rockbot.state.keys import Key, Prefix

__all__ = [
    "ANY",
    "Append",
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
    "StateStore",
    "StateUnavailable",
    "Timer",
    "VersionConflict",
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


class StateStore(Protocol):
    """A durable store. Any method may raise `StateUnavailable`. Safe to use from many tasks and many processes."""

    async def open(self) -> None:
        """Connect and bring the schema up to date.

        Raises:
            StateUnavailable: it cannot be reached, or was written by a newer release; the text names the address.
        """
        ...

    async def close(self) -> None:
        """Finish what is under way and disconnect; idempotent."""
        ...

    async def now_ms(self) -> int:
        """The store's clock."""
        ...

    # -- values -------------------------------------------------------------------------------------------------------

    async def get(self, key: Key) -> Entry | None:
        """The entry, unless there is none or its time to live is over."""
        ...

    async def put(self, key: Key, value: bytes, *, expect: int | _Any = ANY, ttl: float | None = None) -> int:
        """Write a value if its version is the expected one (0: it must not exist); returns the new version.

        A time to live (seconds) belongs to this write: the next put without one makes the value permanent.

        Raises:
            VersionConflict: it has another version.
        """
        ...

    async def delete(self, key: Key, *, expect: int | _Any = ANY) -> bool:
        """Remove a value; whether there was one.

        Raises:
            VersionConflict: it has another version.
        """
        ...

    async def list(self, prefix: Prefix, *, after: str | None = None, limit: int = 100) -> Page:
        """Entries under a prefix in key order, from behind `after` (a former page's `next`)."""
        ...

    # -- streams ------------------------------------------------------------------------------------------------------

    async def append(self, step: Append) -> int:
        """Store a step whole; returns the stream's new version.

        Raises:
            VersionConflict: the stream has another version, or the message was handled already.
        """
        ...

    async def load(self, stream: Key, *, handled: str = "") -> Loaded:
        """Read a stream (version 0 when there is none), and what was done with the message `handled`."""
        ...

    async def read(self, stream: Key, *, after: int = 0, limit: int = 1000) -> Sequence[Record]:
        """Records in order, from behind version `after`: the whole story, also before snapshots."""
        ...

    # -- outbox -------------------------------------------------------------------------------------------------------

    async def mark_sent(self, ids: Sequence[str]) -> None:
        """These rows were published and confirmed: rows that await no answer are done, the others are checked later."""
        ...

    async def claim_outbox(self, *, owner: str, idle: float, claim: float, limit: int) -> Sequence[OutboxRow]:
        """Rows that are not done and were not touched (appended, sent or claimed) for `idle` seconds, oldest first.

        Each is claimed for `claim` seconds by compare-and-set: of replicas that ask together, one gets it. A row that was
        sent before waits twice as long after each further sending, up to ten minutes.
        """
        ...

    # -- timers -------------------------------------------------------------------------------------------------------

    async def due(self, *, before_ms: int, limit: int) -> Sequence[Timer]:
        """Timers due at or before that instant, earliest first. They stay until dropped or canceled."""
        ...

    async def drop_timers(self, timers: Sequence[Timer]) -> None:
        """Remove timers that were acted upon, unless they have been moved to another instant meanwhile."""
        ...

    # -- leases -------------------------------------------------------------------------------------------------------

    async def acquire_lease(self, name: Key, *, owner: str, ttl: float) -> Lease | None:
        """Take a free or expired lease (new token), or prolong one's own (same token); None when another holds it."""
        ...

    async def release_lease(self, lease: Lease) -> None:
        """Give it back early; does nothing when it is no longer held."""
        ...

    # -- amounts ------------------------------------------------------------------------------------------------------

    async def reserve(
        self,
        key: Key,
        amount: float,
        *,
        limit: float,
        id: str,
        ttl: float,
    ) -> Reservation:
        """Take `amount` of a limited quantity under a call's id, before the call; idempotent by id.

        Not granted when it would exceed `limit`. A reservation that is not settled within `ttl` seconds is given back.
        """
        ...

    async def settle(self, id: str, actual: float) -> None:
        """Replace a reservation by what was really used (also more than reserved; 0 gives it back); idempotent by id."""
        ...
