"""The store of one process as a whole: counting, taking apart, restoring and erasing it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from heapq import nsmallest
from typing import Any

from rockbot.state import rules
from rockbot.state.items import (
    DUMP_BYTES,
    AmountItem,
    Census,
    Dump,
    HandledItem,
    Item,
    ItemKind,
    NumberItem,
    RecordItem,
    ReservationItem,
    RowItem,
    SnapshotItem,
    StreamItem,
    TimerItem,
    ValueItem,
    cursor,
    place,
)
from rockbot.state.keys import Key, Prefix
from rockbot.state.memory_data import Data, Reserved, Stream

__all__ = ["census", "drop_rows", "dump", "erase", "restore"]


def census(data: Data, now_ms: int) -> Census:
    dues = [timer.due_ms for timer in data.timers.values() if timer.due_ms <= now_ms]
    over = [until_ms for _, until_ms in data.values.values()] + [lease.until_ms for lease in data.leases.values()]
    return Census(
        server="memory",
        schema=1,
        doubts=("it ends with its process",),
        counts={
            "value": len(data.values),
            "stream": len(data.streams),
            "record": sum(len(stream.records) for stream in data.streams.values()),
            "handled": sum(len(stream.handled) for stream in data.streams.values()),
            "snapshot": sum(stream.snapshot is not None for stream in data.streams.values()),
            "row": len(data.outbox),
            "timer": len(data.timers),
            "amount": len(data.settled),
            "reservation": len(data.reserved),
        },
        over=sum(rules.is_over(until_ms, now_ms) for until_ms in over),
        lost_claims=sum(0 < out.claimed_until_ms <= now_ms for out in data.outbox.values()),
        due_timers=len(dues),
        oldest_due_ms=min(dues, default=None),
    )


def dump(data: Data, kind: ItemKind, after: str | None, limit: int, now_ms: int) -> Dump:
    behind = place(after)
    found = (each for each in _items(data, kind, now_ms) if behind is None or each[0] > behind)
    first = nsmallest(limit + 1, found, key=lambda each: each[0])
    items: list[Item] = []
    size = 0
    for at, (_, item, length) in enumerate(first):
        if at == limit or size >= DUMP_BYTES:
            return Dump(tuple(items), cursor(*first[at - 1][0]))
        items.append(item)
        size += length
    return Dump(tuple(items), None)


def _items(data: Data, kind: ItemKind, now_ms: int) -> Iterator[tuple[tuple[Any, ...], Item, int]]:
    """Place, item and bytes of everything of a kind, in no order."""
    match kind:
        case "number":
            yield (0,), NumberItem(data.counter), 0
        case "value":
            for entry, until_ms in data.values.values():
                if not rules.is_over(until_ms, now_ms):
                    item = ValueItem(entry.key, entry.value, entry.version, until_ms)
                    yield (entry.key,), item, len(entry.value)
        case "row":
            streams = {id(stream.outbox): Key(name) for name, stream in data.streams.items()}
            for number, out in enumerate(data.outbox.values()):
                owner = streams.get(id(out.siblings))
                yield (number,), RowItem(out.row, owner, out.commit, out.sends, out.touched_ms), len(out.row.message)
        case "timer":
            for timer in data.timers.values():
                yield (timer.id,), TimerItem(timer), len(timer.payload)
        case "amount":
            for name, settled in data.settled.items():
                yield (name,), AmountItem(Key(name), settled), 0
        case "reservation":
            for call, held in data.reserved.items():
                if held.until_ms + rules.REMEMBER_MS > now_ms:
                    yield (call,), ReservationItem(call, held.key, held.amount, held.until_ms, held.settled), 0
        case _:
            for name, stream in data.streams.items():
                yield from _of_stream(Key(name), stream, kind)


def _of_stream(name: Key, stream: Stream, kind: ItemKind) -> Iterator[tuple[tuple[Any, ...], Item, int]]:
    match kind:
        case "stream":
            yield (name,), StreamItem(name), 0
        case "record":
            for record in stream.records:
                yield (name, record.version), RecordItem(name, record), len(record.value)
        case "handled":
            for message in stream.handled:
                yield (name, message), HandledItem(name, message), 0
        case "snapshot" if stream.snapshot is not None:
            yield (name,), SnapshotItem(name, stream.snapshot), len(stream.snapshot.value)


def restore(data: Data, items: Sequence[Item]) -> None:
    for item in items:
        match item:
            case NumberItem(value=number):
                data.counter = max(data.counter, number)
            case ValueItem():
                data.keep(item.key, item.value, item.version, item.until_ms)
            case StreamItem(stream=name):
                _remove_stream(data, name)
                data.streams[name] = Stream()
            case RecordItem(stream=name, record=record):
                records = data.streams[name].records
                if record.version > len(records):
                    records.append(record)
            case HandledItem(stream=name, message=message):
                data.streams[name].handled.add(message)
            case SnapshotItem(stream=name, snapshot=snapshot):
                data.streams[name].snapshot = snapshot
            case RowItem(row=row):
                siblings = data.commits.get(item.mark, {}) if item.stream is None else data.streams[item.stream].outbox
                data.add_row(row, siblings, item.touched_ms, commit=item.mark)
                data.outbox[row.id].sends = item.sends
            case TimerItem(timer=timer):
                data.timers[timer.id] = timer
            case AmountItem():
                data.settled[item.key] = item.settled
            case ReservationItem():
                data.reserved[item.id] = Reserved(item.key, item.amount, item.until_ms, item.settled)


def erase(data: Data, under: Prefix) -> Mapping[ItemKind, int]:
    gone: Counter[ItemKind] = Counter()
    for name in [name for name in data.streams if rules.is_under(name, under)]:
        stream = data.streams[name]
        gone["stream"] += 1
        gone["record"] += len(stream.records)
        gone["handled"] += len(stream.handled)
        gone["snapshot"] += stream.snapshot is not None
        gone["row"] += len(stream.outbox)
        _remove_stream(data, name)
    for name in [name for name in data.values if rules.is_under(name, under)]:
        for row in list(data.commits.get(data.values[name][0].version, ())):
            data.close_row(row)
            gone["row"] += 1
        data.remove(name)
        gone["value"] += 1
    for timer in [timer for timer in data.timers if rules.is_under(timer, under)]:
        del data.timers[timer]
        gone["timer"] += 1
    for name in [name for name in data.settled if rules.is_under(name, under)]:
        del data.settled[name]
        gone["amount"] += 1
    for call in [call for call, held in data.reserved.items() if rules.is_under(held.key, under)]:
        del data.reserved[call]
        gone["reservation"] += 1
    for name in [name for name in data.leases if rules.is_under(name, under)]:
        del data.leases[name]
    return rules.counted(gone)


def drop_rows(data: Data, ids: Sequence[str]) -> int:
    there = [row for row in dict.fromkeys(ids) if row in data.outbox]
    for row in there:
        data.close_row(row)
    return len(there)


def _remove_stream(data: Data, name: str) -> None:
    stream = data.streams.pop(name, None)
    for row in list(stream.outbox if stream else ()):
        data.close_row(row)
