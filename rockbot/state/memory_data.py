"""What the store of one process holds, and how it is changed; every change is whole because nothing here awaits."""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field
from typing import Final, final

from rockbot.state import rules
from rockbot.state.keys import Key
from rockbot.state.ports import Entry, Lease, OutboxRow, Record, Snapshot, Timer

__all__ = ["Data", "Outgoing", "Reserved", "Stream"]

#: One write in so many sweeps.
_SWEEP_EVERY: Final = 256


@final
@dataclass(slots=True)
class Stream:
    """One stream; `outbox` are its open rows."""

    records: list[Record] = field(default_factory=list)
    snapshot: Snapshot | None = None
    handled: set[str] = field(default_factory=set)
    outbox: dict[str, OutboxRow] = field(default_factory=dict)


@final
@dataclass(slots=True)
class Outgoing:
    """An open row, and the rows it was stored with: those of a stream, or of the commit whose mark has that version."""

    row: OutboxRow
    siblings: dict[str, OutboxRow]
    commit: int
    touched_ms: int
    sends: int = 0
    claimed_until_ms: int = 0


@final
@dataclass(slots=True)
class Reserved:
    """An amount taken under a call's id."""

    key: Key
    amount: float
    until_ms: int
    settled: bool = False


@final
@dataclass(slots=True)
class Data:
    """All there is. Versions and fencing tokens come from one counter, so that they grow over deletion and expiry."""

    counter: int = 0
    writes: int = 0
    values: dict[str, tuple[Entry, int | None]] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    streams: dict[str, Stream] = field(default_factory=dict)
    commits: dict[int, dict[str, OutboxRow]] = field(default_factory=dict)
    outbox: dict[str, Outgoing] = field(default_factory=dict)
    timers: dict[str, Timer] = field(default_factory=dict)
    leases: dict[str, Lease] = field(default_factory=dict)
    reserved: dict[str, Reserved] = field(default_factory=dict)
    settled: dict[str, float] = field(default_factory=dict)

    def live(self, key: str, now_ms: int) -> Entry | None:
        """The entry of a key, unless its time is over."""
        entry, until_ms = self.values.get(key, (None, None))
        return None if rules.is_over(until_ms, now_ms) else entry

    def write(self, key: Key, value: bytes, until_ms: int | None, *, now_ms: int) -> int:
        """Set a value; its new version."""
        self.counter += 1
        version = self.counter
        self.keep(key, value, version, until_ms)
        self.sweep(now_ms)
        return version

    def keep(self, key: Key, value: bytes, version: int, until_ms: int | None) -> None:
        """Set a value that has its version already."""
        if key not in self.values:
            insort(self.order, key)
        self.values[key] = (Entry(key, value, version), until_ms)

    def remove(self, key: str) -> None:
        """Forget a value."""
        if self.values.pop(key, None) is not None:
            del self.order[bisect_left(self.order, key)]

    def add_row(self, row: OutboxRow, siblings: dict[str, OutboxRow], now_ms: int, *, commit: int = 0) -> None:
        """Open a row; an open one of the same id gives way."""
        self.close_row(row.id)
        self.outbox[row.id] = Outgoing(row, siblings, commit, now_ms)
        siblings[row.id] = row
        if commit:
            self.commits[commit] = siblings

    def close_row(self, id: str) -> None:
        """A row is done."""
        out = self.outbox.pop(id, None)
        if out is None:
            return
        del out.siblings[id]
        if not out.siblings:
            self.commits.pop(out.commit, None)

    def sweep(self, now_ms: int) -> None:
        """Now and then, remove what is over and what nobody can ask about any more."""
        self.writes += 1
        if self.writes % _SWEEP_EVERY:
            return
        for key in [key for key, (_, until_ms) in self.values.items() if rules.is_over(until_ms, now_ms)]:
            self.remove(key)
        for name in [name for name, lease in self.leases.items() if rules.is_over(lease.until_ms, now_ms)]:
            del self.leases[name]
        for call in [call for call, held in self.reserved.items() if held.until_ms + rules.REMEMBER_MS <= now_ms]:
            del self.reserved[call]
