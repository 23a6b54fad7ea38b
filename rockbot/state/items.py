"""What a store holds, taken apart into items: how it is copied into another one, counted, and compared.

Every store gives out the same items for the same contents, whatever its tables look like. Leases are no items: they belong to
processes, and end by themselves; fencing tokens grow on over a copy because its counter is raised. Import it from
`rockbot.state.ports`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from rockbot.state.data import OutboxRow, Record, Snapshot, Timer
from rockbot.state.keys import Key

__all__ = [
    "DUMP_BYTES",
    "KINDS",
    "AmountItem",
    "Census",
    "Dump",
    "HandledItem",
    "Item",
    "ItemKind",
    "NumberItem",
    "RecordItem",
    "ReservationItem",
    "RowItem",
    "SnapshotItem",
    "StreamItem",
    "TimerItem",
    "ValueItem",
    "cursor",
    "kind_of",
    "place",
]

ItemKind = Literal[
    "number", "value", "stream", "record", "handled", "snapshot", "row", "timer", "amount", "reservation"
]
#: In the order in which they are restored: a stream before what belongs to it.
KINDS: Final[tuple[ItemKind, ...]] = get_args(ItemKind)
#: Bytes of content after which a page of items takes no further one, so that large values do not gather in memory.
DUMP_BYTES: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class NumberItem:
    """The counter behind all versions and fencing tokens: none that was given out is above it."""

    value: int


@dataclass(frozen=True, slots=True)
class ValueItem:
    """A value with its version, and when it is over (epoch milliseconds, None: never)."""

    key: Key
    value: bytes
    version: int
    until_ms: int | None


@dataclass(frozen=True, slots=True)
class StreamItem:
    """There is a stream of that name; restoring it begins it anew, without records."""

    stream: Key


@dataclass(frozen=True, slots=True)
class RecordItem:
    """One record of a stream; they come, and are restored, in order."""

    stream: Key
    record: Record


@dataclass(frozen=True, slots=True)
class HandledItem:
    """The stream has handled this message."""

    stream: Key
    message: str


@dataclass(frozen=True, slots=True)
class SnapshotItem:
    """The newest snapshot of a stream."""

    stream: Key
    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class RowItem:
    """An open row of the outbox: of `stream`, or (None) of the commit whose mark has the version `mark`.

    `sends` is how often it was sent, `touched_ms` when it was appended, sent or claimed last. Claims are not copied.
    """

    row: OutboxRow
    stream: Key | None
    mark: int
    sends: int
    touched_ms: int


@dataclass(frozen=True, slots=True)
class TimerItem:
    """A timer that has not been dropped."""

    timer: Timer


@dataclass(frozen=True, slots=True)
class AmountItem:
    """What is settled of a limited quantity."""

    key: Key
    settled: float


@dataclass(frozen=True, slots=True)
class ReservationItem:
    """An amount that a call reserved, or (`settled`) the memory that it was settled."""

    id: str
    key: Key
    amount: float
    until_ms: int
    settled: bool


Item = (
    NumberItem
    | ValueItem
    | StreamItem
    | RecordItem
    | HandledItem
    | SnapshotItem
    | RowItem
    | TimerItem
    | AmountItem
    | ReservationItem
)

_KIND_OF: Final[Mapping[type, ItemKind]] = dict(
    zip(
        (
            NumberItem,
            ValueItem,
            StreamItem,
            RecordItem,
            HandledItem,
            SnapshotItem,
            RowItem,
            TimerItem,
            AmountItem,
            ReservationItem,
        ),
        KINDS,
        strict=True,
    )
)


@dataclass(frozen=True, slots=True)
class Dump:
    """Some items of one kind in their order; `next` continues, None at the end."""

    items: tuple[Item, ...]
    next: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """A store as its operator sees it.

    `server` is what keeps it, `schema` the version of its form, `doubts` what may let it lose what it acknowledged, `size` its
    bytes (None: unknown). `counts` is how many there are of each kind of item but the counter. `over` values and leases are
    past their end and not removed yet; `lost_claims` are rows that a replica claimed and did not publish in time; `due_timers`
    wait for somebody to publish them, the first since `oldest_due_ms`.
    """

    server: str
    schema: int
    doubts: tuple[str, ...] = ()
    size: int | None = None
    counts: Mapping[ItemKind, int] = field(default_factory=dict)
    over: int = 0
    lost_claims: int = 0
    due_timers: int = 0
    oldest_due_ms: int | None = None


def kind_of(item: Item) -> ItemKind:
    """The kind of an item."""
    return _KIND_OF[type(item)]


def cursor(*place: str | int | float) -> str:
    """The end of a page as text, from the columns that its items are ordered by."""
    return json.dumps(place, ensure_ascii=False, separators=(",", ":"))


def place(after: str | None) -> tuple[str | int | float, ...] | None:
    """The columns of a cursor; None: the beginning."""
    return None if after is None else tuple(json.loads(after))
