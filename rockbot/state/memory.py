"""State in this process: everything a store promises except that it lasts.

For tests, and for `memory://`, which loses all of it when the process ends. Nothing here awaits, so every method is one
transaction of the event loop.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final, final

from rockbot.state import memory_whole, rules
from rockbot.state.keys import Key, Prefix
from rockbot.state.memory_data import Data, Reserved, Stream
from rockbot.state.ports import (
    ANY,
    Append,
    Census,
    Commit,
    Dump,
    Entry,
    Item,
    ItemKind,
    Lease,
    Loaded,
    OutboxRow,
    Page,
    Record,
    Reservation,
    Snapshot,
    Timer,
    Write,
    _Any,
)
from rockbot_messaging.clock import Clock

__all__ = ["MemoryStateStore"]

_ADDRESS: Final = "memory://"


@final
class MemoryStateStore:
    """A `StateStore` of one process; closing it forgets everything."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._data: Data | None = None

    async def open(self) -> None:
        self._data = self._data or Data()

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
        now_ms = self._clock.now_ms()
        return data.write(key, value, None if ttl is None else rules.instant(now_ms, ttl), now_ms=now_ms)

    async def delete(self, key: Key, *, expect: int | _Any = ANY) -> bool:
        data = self._held()
        entry = self._live(data, key)
        rules.check_version(key, expect, entry.version if entry else 0)
        data.remove(key)
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

    async def write(self, writes: Sequence[Write]) -> None:
        rules.check_writes(writes)
        data = self._held()
        self._check(data, writes)
        self._write_all(data, writes)

    async def commit(self, effect: Commit) -> None:
        rules.check_commit(effect)
        data = self._held()
        if self._live(data, effect.mark):
            raise rules.already_committed(effect)
        self._check(data, effect.writes)
        now_ms = self._clock.now_ms()
        until_ms = rules.instant(now_ms, effect.remember)
        mark = data.write(effect.mark, effect.cause.encode(), until_ms, now_ms=now_ms)
        self._write_all(data, effect.writes)
        rows: dict[str, OutboxRow] = {}
        for row in effect.outbox:
            data.add_row(row, rows, now_ms, commit=mark)

    async def committed(self, mark: Key, *, cause: str) -> Sequence[OutboxRow] | None:
        data = self._held()
        entry = self._live(data, mark)
        if entry is None:
            return None
        return tuple(row for row in data.commits.get(entry.version, {}).values() if row.cause == cause)

    def _live(self, data: Data, key: str) -> Entry | None:
        return data.live(key, self._clock.now_ms())

    def _check(self, data: Data, writes: Sequence[Write]) -> None:
        for write in writes:
            entry = self._live(data, write.key)
            rules.check_version(write.key, write.expect, entry.version if entry else 0)

    def _write_all(self, data: Data, writes: Sequence[Write]) -> None:
        now_ms = self._clock.now_ms()
        for write in writes:
            if write.value is None:
                data.remove(write.key)
            else:
                until_ms = None if write.ttl is None else rules.instant(now_ms, write.ttl)
                data.write(write.key, write.value, until_ms, now_ms=now_ms)

    # -- streams

    async def append(self, step: Append) -> int:
        rules.check_step(step)
        data = self._held()
        stream = data.streams.get(step.stream) or Stream()
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
            data.close_row(answered)
        for row in step.outbox:
            data.add_row(row, stream.outbox, now_ms)
        for canceled in step.canceled_timers:
            data.timers.pop(canceled, None)
        for timer in step.timers:
            data.timers[timer.id] = timer
        for index in step.index:
            if index.value is None:
                data.remove(index.key)
            else:
                data.write(index.key, index.value, None, now_ms=now_ms)
        return version

    async def load(self, stream: Key, *, handled: str = "") -> Loaded:
        data = self._held()
        found = data.streams.get(stream) or Stream()
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
                data.close_row(sent)
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
        data.reserved[id] = Reserved(key, amount, until_ms)
        data.sweep(now_ms)
        return Reservation(True, taken + amount, limit)

    async def settle(self, id: str, actual: float) -> bool:
        rules.check_amount(actual, "the use")
        data = self._held()
        held = data.reserved.get(id)
        if held is None or held.settled:
            return held is not None
        if actual == 0:
            del data.reserved[id]
            return True
        held.settled = True
        held.until_ms = max(held.until_ms, self._clock.now_ms())
        data.settled[held.key] = data.settled.get(held.key, 0.0) + actual
        return True

    async def drop_amounts(self, keys: Sequence[Key]) -> int:
        data = self._held()
        return sum(data.settled.pop(key, None) is not None for key in keys)

    # -- whole

    async def census(self) -> Census:
        return memory_whole.census(self._held(), self._clock.now_ms())

    async def dump(self, kind: ItemKind, *, after: str | None = None, limit: int = 100) -> Dump:
        rules.check_limit(limit)
        return memory_whole.dump(self._held(), kind, after, limit, self._clock.now_ms())

    async def restore(self, items: Sequence[Item]) -> None:
        rules.check_items(items)
        memory_whole.restore(self._held(), items)

    async def erase(self, under: Prefix) -> Mapping[ItemKind, int]:
        return memory_whole.erase(self._held(), under)

    async def drop_rows(self, ids: Sequence[str]) -> int:
        return memory_whole.drop_rows(self._held(), ids)

    def _held(self) -> Data:
        if self._data is None:
            raise rules.not_open(_ADDRESS)
        return self._data
