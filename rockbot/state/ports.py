"""The port of state: everything durable that a host keeps outside the broker.

One store, one transaction: what belongs to one step of a machine (its records, outgoing commands, timers, index rows) is
one `Append`, stored whole or not at all. All instants are the store's own clock in epoch milliseconds (`now_ms`), so that
replicas with skewed clocks agree. Durations are seconds. Every store passes `rockbot.state.contract`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from rockbot.state.data import (
    ANY,
    Append,
    Commit,
    Entry,
    IndexRow,
    Lease,
    Loaded,
    OutboxRow,
    Page,
    Record,
    Reservation,
    Snapshot,
    StateError,
    StateUnavailable,
    Timer,
    VersionConflict,
    Write,
)
from rockbot.state.data import _Any as _Any
from rockbot.state.items import Census, Dump, Item, ItemKind
from rockbot.state.keys import Key, Prefix

__all__ = [
    "ANY",
    "Append",
    "Census",
    "Commit",
    "Dump",
    "Entry",
    "IndexRow",
    "Item",
    "ItemKind",
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
    "Write",
]


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

    async def write(self, writes: Sequence[Write]) -> None:
        """Write several values whole or not at all.

        Raises:
            VersionConflict: one of them has another version; none was written.
            ValueError: two of them are of one key.
        """
        ...

    async def commit(self, effect: Commit) -> None:
        """Store what one message did, together with the mark that it was handled.

        Its rows are open like those of a step: `claim_outbox` finds them, `mark_sent` ends them, also after the mark is over.

        Raises:
            VersionConflict: the mark exists, or a value has another version; nothing was stored.
            ValueError: two writes are of one key or of the mark, or a row has another cause.
        """
        ...

    async def committed(self, mark: Key, *, cause: str) -> Sequence[OutboxRow] | None:
        """The rows of a committed message that are not sent yet, in order; None when there is no such mark."""
        ...

    # -- streams ------------------------------------------------------------------------------------------------------

    async def append(self, step: Append) -> int:
        """Store a step whole; returns the stream's new version.

        Raises:
            VersionConflict: the stream has another version, or the message was handled already.
            ValueError: it has no record, handles no message, or a row has another cause than that.
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

    async def settle(self, id: str, actual: float) -> bool:
        """Replace a reservation by what was really used (also more than reserved; 0 gives it back); idempotent by id.

        False: nothing is reserved under this id (any more: it was given back, or ended long ago), so nothing was counted.
        """
        ...

    async def drop_amounts(self, keys: Sequence[Key]) -> int:
        """Forget what was used under these keys, which nobody counts against any more; of how many something was used.

        Reservations stay until they end, and are settled as ever.
        """
        ...

    # -- the whole store, for its operator ----------------------------------------------------------------------------

    async def census(self) -> Census:
        """Look at the store: how it keeps things, how many there are, what waits too long."""
        ...

    async def dump(self, kind: ItemKind, *, after: str | None = None, limit: int = 100) -> Dump:
        """Items of one kind in their order, from behind `after` (a former page's `next`).

        A page ends early when it has `rockbot.state.items.DUMP_BYTES` of content. What is written meanwhile may or may not
        be in later pages: for a copy that fits together, nobody writes.
        """
        ...

    async def restore(self, items: Sequence[Item]) -> None:
        """Store items of one kind, in the order in which they were dumped, in place of what has their names.

        Doing it again changes nothing. Records, handled messages, snapshots and rows need their stream.

        Raises:
            ValueError: they are of several kinds.
        """
        ...

    async def erase(self, under: Prefix) -> Mapping[ItemKind, int]:
        """Remove everything whose key or id is, or begins with, a prefix: how many of each kind were removed.

        With a stream or the mark of a commit go the rows of the outbox that belong to them. Not one transaction: what is
        written meanwhile may stay. Doing it again removes that too.
        """
        ...

    async def drop_rows(self, ids: Sequence[str]) -> int:
        """Remove rows of the outbox although nobody sent or answered them; how many there were."""
        ...
