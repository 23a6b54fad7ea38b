"""State in this process: everything a store promises except that it lasts.

For tests, and for `memory://`, which loses all of it when the process ends. Nothing here awaits, so every method is one
transaction of the event loop.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, final

from rockbot.state import rules
from rockbot.state.keys import Key, Prefix
from rockbot.state.ports import (
    ANY,
    Append,
    Entry,
    Lease,
    Loaded,
    OutboxRow,
    Page,
    Record,
    Reservation,
    Snapshot,
    Timer,
    _Any,
)
from rockbot_messaging.clock import Clock

__all__ = ["MemoryStateStore"]

_ADDRESS: Final = "memory://"
_SWEEP_EVERY: Final = 256


@dataclass(slots=True)
class _Stream:
    records: list[Record] = field(default_factory=list)
    snapshot: Snapshot | None = None
    handled: set[str] = field(default_factory=set)
    outbox: dict[str, OutboxRow] = field(default_factory=dict)


@dataclass(slots=True)
class _Outgoing:
    row: OutboxRow
    stream: _Stream
    touched_ms: int
    sends: int = 0
    claimed_until_ms: int = 0


@dataclass(slots=True)
class _Reserved:
    key: Key
    amount: float
    until_ms: int
    settled: bool = False


@dataclass(slots=True)
class _Data:
    """All there is. Versions and fencing tokens come from one counter, so that they grow over deletion and expiry."""

    counter: int = 0
    writes: int = 0
    values: dict[str, tuple[Entry, int | None]] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    streams: dict[str, _Stream] = field(default_factory=dict)
    outbox: dict[str, _Outgoing] = field(default_factory=dict)
    timers: dict[str, Timer] = field(default_factory=dict)
    leases: dict[str, Lease] = field(default_factory=dict)
    reserved: dict[str, _Reserved] = field(default_factory=dict)
    settled: dict[str, float] = field(default_factory=dict)


@final
class MemoryStateStore:
    """A `StateStore` of one process; closing it forgets everything."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._data: _Data | None = None

    async def open(self) -> None:
        self._data = self._data or _Data()

    async def close(self) -> None:
        self._data = None

    async def now_ms(self) -> int:
        return self._clock.now_ms()

    # -- values

    async def get(self, key: Key) -> Entry | None:
        return self._live(self._held(), key)

    async def put(self, key: Key, value: bytes, *, expect: int | _Any = ANY, ttl: float | None = None) -> int:
        data = self._held()
        entry = self._live(data, key)
        rules.check_version(key, expect, entry.version if entry else 0)
        return self._write(data, key, value, None if ttl is None else rules.instant(self._clock.now_ms(), ttl))

    async def delete(self, key: Key, *, expect: int | _Any = ANY) -> bool:
        data = self._held()
        entry = self._live(data, key)
        rules.check_version(key, expect, entry.version if entry else 0)
        self._remove(data, key)
        return entry is not None

    async def list(self, prefix: Prefix, *, after: str | None = None, limit: int = 100) -> Page:
        rules.check_limit(limit)
        data = self._held()
        start = bisect_left(data.order, prefix)
        if after is not None:
            start = max(start, bisect_right(data.order, after))
        entries: deque[Entry] = deque()
        for at in range(start, bisect_left(data.order, rules.prefix_end(prefix))):
            entry = self._live(data, data.order[at])
            if entry is None:
                continue
            if len(entries) == limit:
                return Page(tuple(entries), entries[-1].key)
            entries.append(entry)
        return Page(tuple(entries), None)

    def _live(self, data: _Data, key: str) -> Entry | None:
        entry, until_ms = data.values.get(key, (None, None))
        return None if rules.is_over(until_ms, self._clock.now_ms()) else entry

    def _write(self, data: _Data, key: Key, value: bytes, until_ms: int | None) -> int:
        if key not in data.values:
            insort(data.order, key)
        data.counter += 1
        data.values[key] = (Entry(key, value, data.counter), until_ms)
        self._sweep(data)
        return data.counter

    def _remove(self, data: _Data, key: str) -> None:
        if data.values.pop(key, None) is not None:
            del data.order[bisect_left(data.order, key)]

    def _sweep(self, data: _Data) -> None:
        data.writes += 1
        if data.writes % _SWEEP_EVERY:
            return
        now_ms = self._clock.now_ms()
        for key in [key for key, (_, until_ms) in data.values.items() if rules.is_over(until_ms, now_ms)]:
            self._remove(data, key)
        for name in [name for name, lease in data.leases.items() if rules.is_over(lease.until_ms, now_ms)]:
            del data.leases[name]
        for call in [call for call, held in data.reserved.items() if held.until_ms + rules.REMEMBER_MS <= now_ms]:
            del data.reserved[call]

    # -- streams

    async def append(self, step: Append) -> int:
        rules.check_step(step)
        data = self._held()
        stream = data.streams.get(step.stream) or _Stream()
        version = len(stream.records)
        handled = step.handled in stream.handled
        if handled or version != step.expected_version:
            raise rules.stream_conflict(step, version, handled=handled)
        now_ms = self._clock.now_ms()
        data.streams[step.stream] = stream
        stream.handled.add(step.handled)
        for number, value in enumerate(step.records, version + 1):
            stream.records.append(Record(number, value, now_ms))
        version = len(stream.records)
        if step.snapshot is not None:
            stream.snapshot = Snapshot(version, step.snapshot)
        for answered in step.answered:
            self._close_row(data, answered)
        for row in step.outbox:
            self._close_row(data, row.id)
            data.outbox[row.id] = _Outgoing(row, stream, now_ms)
            stream.outbox[row.id] = row
        for canceled in step.canceled_timers:
            data.timers.pop(canceled, None)
        for timer in step.timers:
            data.timers[timer.id] = timer
        for index in step.index:
            if index.value is None:
                self._remove(data, index.key)
            else:
                self._write(data, index.key, index.value, None)
        return version

    async def load(self, stream: Key, *, handled: str = "") -> Loaded:
        data = self._held()
        found = data.streams.get(stream) or _Stream()
        return Loaded(
            version=len(found.records),
            snapshot=found.snapshot,
            records=tuple(found.records[found.snapshot.version if found.snapshot else 0 :]),
            handled=handled in found.handled,
            unanswered=tuple(row for row in found.outbox.values() if handled and row.cause == handled),
        )

    async def read(self, stream: Key, *, after: int = 0, limit: int = 1000) -> Sequence[Record]:
        rules.check_limit(limit)
        found = self._held().streams.get(stream)
        return tuple(found.records[after : after + limit]) if found else ()

    # -- outbox

    async def mark_sent(self, ids: Sequence[str]) -> None:
        data = self._held()
        for sent in ids:
            out = data.outbox.get(sent)
            if out is None:
                continue
            if not out.row.awaits_answer:
                self._close_row(data, sent)
                continue
            out.sends += 1
            out.touched_ms = self._clock.now_ms()
            out.claimed_until_ms = 0

    async def claim_outbox(self, *, owner: str, idle: float, claim: float, limit: int) -> Sequence[OutboxRow]:  # noqa: ARG002 - one process, one owner
        rules.check_limit(limit)
        now_ms = self._clock.now_ms()
        idle_ms = rules.instant(0, idle)
        claimed = []
        for out in self._held().outbox.values():
            wait_ms = min(rules.longest_wait_ms(idle_ms), idle_ms << min(max(out.sends - 1, 0), 20))
            if out.touched_ms + wait_ms > now_ms or out.claimed_until_ms > now_ms:
                continue
            out.touched_ms = now_ms
            out.claimed_until_ms = rules.instant(now_ms, claim)
            claimed.append(out.row)
            if len(claimed) == limit:
                break
        return tuple(claimed)

    def _close_row(self, data: _Data, id: str) -> None:
        out = data.outbox.pop(id, None)
        if out is not None:
            del out.stream.outbox[id]

    # -- timers

    async def due(self, *, before_ms: int, limit: int) -> Sequence[Timer]:
        rules.check_limit(limit)
        found = [timer for timer in self._held().timers.values() if timer.due_ms <= before_ms]
        return tuple(sorted(found, key=lambda timer: (timer.due_ms, timer.id))[:limit])

    async def drop_timers(self, timers: Sequence[Timer]) -> None:
        held = self._held().timers
        for timer in timers:
            if timer.id in held and held[timer.id].due_ms == timer.due_ms:
                del held[timer.id]

    # -- leases

    async def acquire_lease(self, name: Key, *, owner: str, ttl: float) -> Lease | None:
        data = self._held()
        now_ms = self._clock.now_ms()
        held = data.leases.get(name)
        if held is not None and not rules.is_over(held.until_ms, now_ms):
            if held.owner != owner:
                return None
            token = held.token
        else:
            data.counter += 1
            token = data.counter
        data.leases[name] = Lease(name, owner, token, rules.instant(now_ms, ttl))
        return data.leases[name]

    async def release_lease(self, lease: Lease) -> None:
        data = self._held()
        held = data.leases.get(lease.name)
        if held is not None and held.token == lease.token:
            del data.leases[lease.name]

    # -- amounts

    async def reserve(self, key: Key, amount: float, *, limit: float, id: str, ttl: float) -> Reservation:
        rules.check_amount(amount, "a reservation")
        data = self._held()
        now_ms = self._clock.now_ms()
        until_ms = rules.instant(now_ms, ttl)
        taken = data.settled.get(key, 0.0) + sum(
            other.amount
            for other in data.reserved.values()
            if other.key == key and not other.settled and not rules.is_over(other.until_ms, now_ms)
        )
        held = data.reserved.get(id)
        if held is not None and (held.settled or not rules.is_over(held.until_ms, now_ms)):
            held.until_ms = max(held.until_ms, until_ms)
            return Reservation(True, taken, limit)
        if rules.exceeds(taken, amount, limit):
            return Reservation(False, taken, limit)
        data.reserved[id] = _Reserved(key, amount, until_ms)
        self._sweep(data)
        return Reservation(True, taken + amount, limit)

    async def settle(self, id: str, actual: float) -> None:
        rules.check_amount(actual, "the use")
        data = self._held()
        held = data.reserved.get(id)
        if held is None or held.settled:
            return
        if actual == 0:
            del data.reserved[id]
            return
        held.settled = True
        held.until_ms = max(held.until_ms, self._clock.now_ms())
        data.settled[held.key] = data.settled.get(held.key, 0.0) + actual

    def _held(self) -> _Data:
        if self._data is None:
            raise rules.not_open(_ADDRESS)
        return self._data
