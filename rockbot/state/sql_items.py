"""Items out of SQL: for each kind the query that the SQL stores share, and how a row becomes an item.

`@` goes before every table's name, `?` stands for a parameter. The first columns are those an item is ordered by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

from rockbot.state.data import OutboxRow, Record, Snapshot, Timer
from rockbot.state.items import (
    DUMP_BYTES,
    AmountItem,
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
from rockbot.state.rules import REMEMBER_MS

__all__ = ["COUNTED", "ItemQuery", "page_of", "query_of"]

#: The table whose rows are the items of a kind.
COUNTED: Final[Mapping[ItemKind, str]] = {
    "value": "state_values",
    "stream": "state_streams",
    "record": "state_records",
    "handled": "state_handled",
    "snapshot": "state_snapshots",
    "row": "state_outbox",
    "timer": "state_timers",
    "amount": "state_amounts",
    "reservation": "state_reservations",
}


@final
@dataclass(frozen=True, slots=True)
class ItemQuery:
    """`columns` begin with the `ordered` ones; `content` is the number of the column whose bytes count, if any."""

    columns: tuple[str, ...]
    source: str
    ordered: int
    item: Callable[[Sequence[Any]], Item]
    content: int | None = None
    where: str = ""


_OF_STREAM: Final = "@state_streams AS held JOIN @{table} AS part ON part.stream = held.id"
_QUERIES: Final[Mapping[ItemKind, ItemQuery]] = {
    "value": ItemQuery(
        ("key", "value", "version", "expires_ms"),
        "@state_values",
        1,
        lambda row: ValueItem(row[0], bytes(row[1]), row[2], row[3]),
        content=1,
        where="(expires_ms IS NULL OR expires_ms > {now})",
    ),
    "stream": ItemQuery(("key",), "@state_streams", 1, lambda row: StreamItem(row[0])),
    "record": ItemQuery(
        ("held.key", "part.version", "part.value", "part.at_ms"),
        _OF_STREAM.format(table="state_records"),
        2,
        lambda row: RecordItem(row[0], Record(row[1], bytes(row[2]), row[3])),
        content=2,
    ),
    "handled": ItemQuery(
        ("held.key", "part.message"),
        _OF_STREAM.format(table="state_handled"),
        2,
        lambda row: HandledItem(row[0], row[1]),
    ),
    "snapshot": ItemQuery(
        ("held.key", "part.version", "part.value"),
        _OF_STREAM.format(table="state_snapshots"),
        1,
        lambda row: SnapshotItem(row[0], Snapshot(row[1], bytes(row[2]))),
        content=2,
    ),
    "row": ItemQuery(
        (
            "part.seq", "part.id", "part.cause", "part.message", "part.door", "part.address", "part.awaits_answer",
            "held.key", "part.stream", "part.sends", "part.touched_ms",
        ),
        "@state_outbox AS part LEFT JOIN @state_streams AS held ON held.id = part.stream",
        1,
        lambda row: RowItem(
            OutboxRow(
                id=row[1],
                cause=row[2],
                message=bytes(row[3]),
                door=row[4],
                address=row[5],
                awaits_answer=bool(row[6]),
            ),
            row[7],
            max(0, -row[8]),
            row[9],
            row[10],
        ),
        content=3,
    ),
    "timer": ItemQuery(
        ("id", "due_ms", "payload"),
        "@state_timers",
        1,
        lambda row: TimerItem(Timer(row[0], row[1], bytes(row[2]))),
        content=2,
    ),
    "amount": ItemQuery(("key", "settled"), "@state_amounts", 1, lambda row: AmountItem(row[0], float(row[1]))),
    "reservation": ItemQuery(
        ("id", "key", "amount", "until_ms", "settled"),
        "@state_reservations",
        1,
        lambda row: ReservationItem(row[0], row[1], float(row[2]), row[3], bool(row[4])),
        where=f"until_ms > {{now}} - {REMEMBER_MS}",
    ),
}  # fmt: skip


def query_of(kind: ItemKind, after: str | None, *, now: str, number: str) -> tuple[ItemQuery, str, list[Any]]:
    """The query of a kind from behind a cursor, with its parameters; it wants one more: how many rows.

    `now` is the instant as SQL, `number` the counter.
    """
    if kind == "number":
        query = ItemQuery(("value",), f"(SELECT {number} AS value) AS counter", 1, lambda row: NumberItem(row[0]))
    else:
        query = _QUERIES[kind]
    conditions, behind = [], place(after)
    if query.where:
        conditions.append(query.where.format(now=now))
    parameters: list[Any] = []
    if behind is not None:
        names = query.columns[: query.ordered]
        if len(names) > 1:  # so that the index of the first column is used
            conditions.append(f"{names[0]} >= ?")
            parameters.append(behind[0])
        conditions.append(f"({', '.join(names)}) > ({', '.join('?' * len(names))})")
        parameters += behind
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    order = ", ".join(query.columns[: query.ordered])
    columns = ", ".join(f"{column} AS c{at}" for at, column in enumerate(query.columns))
    return query, f"SELECT {columns} FROM {query.source}{where} ORDER BY {order} LIMIT ?", parameters  # noqa: S608 - our own names


def page_of(query: ItemQuery, rows: Sequence[Sequence[Any]], limit: int, *, more: bool = False) -> Dump:
    """A page out of rows, of which there may be more than go into it; `more` says that not all that there are were read."""
    items: list[Item] = []
    size = 0
    for at, row in enumerate(rows):
        if at == limit or size >= DUMP_BYTES:
            return Dump(tuple(items), cursor(*rows[at - 1][: query.ordered]))
        items.append(query.item(row))
        size += len(row[query.content]) if query.content is not None else 0
    return Dump(tuple(items), cursor(*rows[-1][: query.ordered]) if more else None)
