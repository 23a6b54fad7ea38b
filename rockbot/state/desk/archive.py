"""A store as a file: JSON Lines, a header first, an item a line, and last what makes sure that nothing is missing.

Pure. The last line has the number and the digest of the items of each kind, and the SHA-256 of all bytes before it. Digests of
items do not depend on their order, because that is each store's own.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import typing
from collections import Counter
from typing import Any, Final, final

from rockbot.state.data import OutboxRow, Record, Snapshot, StateError, Timer
from rockbot.state.items import (
    KINDS,
    AmountItem,
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
    kind_of,
)

__all__ = ["FORMAT", "ArchiveError", "Tally", "footer_line", "header_line", "item_line", "read_header", "read_line"]

#: The format that is written; older ones are read.
FORMAT: Final = 1
_MODULUS: Final = 1 << 256
_CLASSES: Final[dict[str, type]] = dict(
    zip(
        KINDS,
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
        strict=True,
    )
)
_PARTS: Final[dict[str, type]] = {"record": Record, "snapshot": Snapshot, "row": OutboxRow, "timer": Timer}


class ArchiveError(StateError):
    """A file is no archive, is damaged, or was written by a newer release; the text says where."""


def header_line(*, server: str, release: str, at_ms: int) -> bytes:
    """The first line."""
    return _line({"rockbot_state": FORMAT, "release": release, "server": server, "at_ms": at_ms})


def read_header(line: bytes) -> dict[str, Any]:
    """What the first line says.

    Raises:
        ArchiveError: it is none, or that of a newer format.
    """
    found = _loads(line, 1)
    version = found.get("rockbot_state")
    if not isinstance(version, int):
        raise ArchiveError("this is no archive of state: its first line has no version")
    if version > FORMAT:
        raise ArchiveError(f"this archive has format {version}, and this release reads {FORMAT}: a newer one wrote it")
    return found


def item_line(item: Item) -> bytes:
    """An item as a line."""
    fields: dict[str, Any] = {"kind": kind_of(item)}
    for name, value in _fields(item):
        if name in _PARTS and dataclasses.is_dataclass(value):
            fields[name] = {inner: _told(each) for inner, each in _fields(value)}
        else:
            fields[name] = _told(value)
    return _line(fields)


def read_line(line: bytes, number: int) -> Item | dict[str, Any]:
    """The item of a line, or (the last line) the footer as it stands. `number` counts lines from 1, for errors.

    Raises:
        ArchiveError: it is neither.
    """
    found = _loads(line, number)
    if "end" in found:
        return found
    try:
        kind = _CLASSES[found["kind"]]
        return typing.cast("Item", _made(kind, found))
    except (LookupError, TypeError, ValueError, AttributeError) as exc:
        raise ArchiveError(f"line {number} of the archive is no item: {type(exc).__name__}: {exc}") from None


def footer_line(tally: Tally, sha256: str) -> bytes:
    """The last line."""
    return _line({"end": True, "counts": tally.counts, "digests": tally.digests, "sha256": sha256})


@final
class Tally:
    """Numbers and digests of items by kind, whatever order they come in. The counter is not among them: it may only grow."""

    def __init__(self) -> None:
        self._counts: Counter[ItemKind] = Counter()
        self._sums: Counter[ItemKind] = Counter()

    def add(self, item: Item, line: bytes | None = None) -> None:
        """Count an item; `line` is its line, when it was made already."""
        kind = kind_of(item)
        if kind == "number":
            return
        digest = hashlib.sha256(item_line(item) if line is None else line).digest()
        self._counts[kind] += 1
        self._sums[kind] = (self._sums[kind] + int.from_bytes(digest)) % _MODULUS

    @property
    def counts(self) -> dict[ItemKind, int]:
        """Items of each kind, of which there are any."""
        return {kind: self._counts[kind] for kind in KINDS if self._counts[kind]}

    @property
    def digests(self) -> dict[ItemKind, str]:
        """Their digests."""
        return {kind: f"{self._sums[kind]:064x}" for kind in KINDS if self._counts[kind]}

    def differences(self, other: Tally) -> list[str]:
        """In which kinds two tallies differ, in words; nothing when they are the same."""
        told = []
        for kind in KINDS:
            mine, its = self._counts[kind], other._counts[kind]
            if mine != its:
                told.append(f"{kind}: {mine} and {its}")
            elif self._sums[kind] != other._sums[kind]:
                told.append(f"{kind}: {mine} each, but not the same")
        return told


def _fields(value: Any) -> list[tuple[str, Any]]:
    return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]


def _told(value: Any) -> Any:
    return {"b64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def _made(kind: type, found: dict[str, Any]) -> Any:
    given = {}
    for name, value in ((field.name, found[field.name]) for field in dataclasses.fields(kind)):
        part = _PARTS.get(name) if isinstance(value, dict) and "b64" not in value else None
        given[name] = _made(part, value) if part else _bytes(value)
    return kind(**given)


def _bytes(value: Any) -> Any:
    return base64.b64decode(value["b64"], validate=True) if isinstance(value, dict) else value


def _line(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=True).encode() + b"\n"


def _loads(line: bytes, number: int) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        raise ArchiveError(f"line {number} of the archive is not JSON: it is damaged or cut") from None
    if not isinstance(found, dict):
        raise ArchiveError(f"line {number} of the archive is no object")
    return found
