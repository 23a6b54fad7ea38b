"""A Redis store as a whole: counting, taking apart, restoring and erasing it, a page in each script."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rockbot.state import rules
from rockbot.state.data import OutboxRow, Record, Snapshot, Timer
from rockbot.state.items import (
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
from rockbot.state.redis_server import FORM, RedisServer

__all__ = ["census", "dump", "erase", "restore"]

#: The order of what the erasing scripts return.
_ERASED: Final[tuple[ItemKind, ...]] = ("value", "stream", "record", "handled", "snapshot", "row")
_BEGINNING: Final = "-1e18"
_PAGE: Final = 500


async def census(server: RedisServer) -> Census:
    name, size, doubts = await server.facts()
    values, rows, timers, amounts, calls, over, due, oldest, _ = await server.run("count")
    streams = Counter[ItemKind]()
    after = "-"
    while True:
        there, records, handled, snapshots, last = await server.run("count_streams", after)
        streams.update({"stream": there, "record": records, "handled": handled, "snapshot": snapshots})
        if not there:
            break
        after = f"({last.decode()}"
    lost = at = 0
    while at < rows:
        seen, more = await server.run("count_claims", at, _PAGE)
        lost += more
        at += max(seen, 1)
    return Census(
        server=name,
        schema=FORM,
        doubts=doubts,
        size=size,
        counts={
            "value": values,
            **{kind: streams[kind] for kind in ("stream", "record", "handled", "snapshot")},
            "row": rows,
            "timer": timers,
            "amount": amounts,
            "reservation": calls,
        },
        over=over,
        lost_claims=lost,
        due_timers=due,
        oldest_due_ms=None if oldest is None else round(float(oldest)),
    )


# -- taking apart


async def dump(server: RedisServer, kind: ItemKind, *, after: str | None, limit: int) -> Dump:
    if kind == "number":
        return Dump((NumberItem((await server.run("count"))[-1]),) if after is None else (), None)
    behind = place(after)
    match kind:
        case "record":
            begin = behind or ("", 0)
        case "handled":
            begin = behind or ("", "")
        case "timer" | "reservation":
            begin = behind or (_BEGINNING, "")
        case "row":
            begin = behind or (_BEGINNING,)
        case _:
            begin = behind or ("",)
    rows = await server.run(f"dump_{kind}", *begin, limit)
    more = bool(rows) and rows[-1] is None
    rows = rows[:-1] if more else rows
    return Dump(tuple(_item(kind, row) for row in rows), _place(kind, rows[-1]) if more else None)


def _place(kind: ItemKind, row: Sequence[Any]) -> str:
    match kind:
        case "record":
            return cursor(row[0].decode(), row[1])
        case "handled":
            return cursor(row[0].decode(), row[1].decode())
        case "timer" | "reservation":
            return cursor(round(float(row[0])), row[1].decode())
        case "row":
            return cursor(round(float(row[0])))
        case _:
            return cursor(row[0].decode())


def _item(kind: ItemKind, row: Sequence[Any]) -> Item:
    name = row[0].decode() if isinstance(row[0], bytes) else ""
    match kind:
        case "value":
            return ValueItem(Key(name), row[1], int(row[2]), int(row[3]) if row[3] else None)
        case "stream":
            return StreamItem(Key(name))
        case "record":
            at_ms, _, value = row[2].partition(b"\n")
            return RecordItem(Key(name), Record(row[1], value, int(at_ms)))
        case "handled":
            return HandledItem(Key(name), row[1].decode())
        case "snapshot":
            return SnapshotItem(Key(name), Snapshot(int(row[1]), row[2]))
        case "row":
            return _row(row)
        case "timer":
            return TimerItem(Timer(row[1].decode(), round(float(name)), row[2]))
        case "amount":
            return AmountItem(Key(name), float(row[1]))
        case _:
            key, amount, settled = Key(row[2].decode()), float(row[3]), row[4] == b"1"
            return ReservationItem(row[1].decode(), key, amount, round(float(name)), settled)


def _row(told: Sequence[Any]) -> RowItem:
    _, name, cause, message, door, address, awaits, owner, sends, touched = told
    row = OutboxRow(
        id=name.decode(),
        cause=cause.decode(),
        message=message,
        door=door.decode(),
        address=address.decode(),
        awaits_answer=awaits == b"1",
    )
    whose = owner.decode()
    stream = Key(whose[1:]) if whose.startswith("s") else None
    return RowItem(row, stream, 0 if stream else int(whose[1:]), int(sends), int(touched))


# -- restoring


async def restore(server: RedisServer, kind: ItemKind, items: Sequence[Any]) -> None:
    told: list[Any] = [rules.REMEMBER_MS] if kind == "reservation" else []
    told.append(len(items))
    for item in items:
        told += _told(kind, item)
    await server.run(f"restore_{kind}", *told)


def _told(kind: ItemKind, item: Any) -> Sequence[Any]:
    match kind:
        case "number":
            return (item.value,)
        case "value":
            return (item.key, item.value, item.version, "" if item.until_ms is None else item.until_ms)
        case "stream":
            return (item.stream,)
        case "record":
            record = item.record
            return (item.stream, record.version, b"%d\n%b" % (record.at_ms, record.value))
        case "handled":
            return (item.stream, item.message)
        case "snapshot":
            return (item.stream, item.snapshot.version, item.snapshot.value)
        case "row":
            row = item.row
            owner = f"c{item.mark}" if item.stream is None else f"s{item.stream}"
            told = (row.id, row.cause, row.door, row.address, int(row.awaits_answer), row.message)
            return (owner, item.sends, item.touched_ms, *told)
        case "timer":
            return (item.timer.id, item.timer.due_ms, item.timer.payload)
        case "amount":
            return (item.key, repr(item.settled))
        case _:
            return (item.id, item.key, repr(item.amount), item.until_ms, int(item.settled))


# -- erasing


async def erase(server: RedisServer, under: Prefix) -> Mapping[ItemKind, int]:
    gone: Counter[ItemKind] = Counter()
    mine = (under[:-1], f"[{under}", f"({rules.prefix_end(under)}")
    await _until_nothing(server, gone, "erase_streams", *mine)
    parts = under[:-1].split("/")
    for space in sorted(name.decode() for name in await server.run("spaces")):
        if space.split("/")[: len(parts)] == parts[:2]:
            await _until_nothing(server, gone, "erase_values", space, *mine)
    gone["timer"] = await _erase_items(server, "timer", under)
    gone["amount"] = await _erase_items(server, "amount", under)
    gone["reservation"] = await _erase_items(server, "reservation", under)
    return rules.counted(gone)


async def _until_nothing(server: RedisServer, gone: Counter[ItemKind], script: str, *told: str) -> None:
    while True:
        counts = dict(zip(_ERASED, await server.run(script, *told), strict=True))
        if not any(counts.values()):
            return
        gone.update(counts)


async def _erase_items(server: RedisServer, kind: ItemKind, under: Prefix) -> int:
    """Erase timers, amounts and reservations, of which there are as many as there is work under way."""
    gone, after = 0, None
    while True:
        page = await dump(server, kind, after=after, limit=_PAGE)
        names = [name for item in page.items if (name := _name_under(item, under)) is not None]
        if names:
            gone += int(await server.run(f"erase_{kind}s", len(names), *names))
        if (after := page.next) is None:
            return gone


def _name_under(item: Item, under: Prefix) -> str | None:
    match item:
        case TimerItem(timer=timer):
            return timer.id if rules.is_under(timer.id, under) else None
        case AmountItem(key=key):
            return key if rules.is_under(key, under) else None
        case ReservationItem(id=name, key=key):
            return name if rules.is_under(key, under) else None
    return None
