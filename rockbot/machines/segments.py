"""Sealing: the older part of a transcript becomes immutable segments, so that no step carries the whole history.

Pure. A segment is written once, with the step that sealed it, and never changes; it links to the one before it by
digest, so that the newest reference vouches for everything behind it. What is not sealed yet is the tail, which travels
inline; its size is bounded, and with it the cost of a step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

from pydantic import BaseModel, ConfigDict

from rockbot.events.content import Message
from rockbot.events.models import SegmentRef
from rockbot.machines.transcript_rules import may_cut
from rockbot.tokens import estimate_messages

__all__ = [
    "KEEP_MESSAGES",
    "SEGMENT_BYTES",
    "TAIL_BYTES",
    "TAIL_MESSAGES",
    "Sealed",
    "Segment",
    "seal",
    "seal_first",
    "size_of",
]

#: Bytes of a tail that stays inline: half of what a message body may have before it goes by reference.
TAIL_BYTES: Final = 32 * 1024
#: Messages of a tail that stays inline: short ones, too, are read and written again with every step.
TAIL_MESSAGES: Final = 32
#: Messages that sealing leaves in the tail, as far as they have no more than a quarter of its bytes. Sealing all of them
#: would make segments of one step each.
KEEP_MESSAGES: Final = 8
#: Bytes from which on a segment takes no further message. A longer message is a segment by itself.
SEGMENT_BYTES: Final = 64 * 1024


@final
class Segment(BaseModel):
    """A sealed piece of a transcript as it is stored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    number: int
    previous: SegmentRef | None = None
    messages: tuple[Message, ...]


@final
@dataclass(frozen=True, slots=True)
class Sealed:
    """What sealing leads to: `rows` are the numbers and bytes of new segments, oldest first, `head` points at the last.

    `messages` is how many messages from the front of the tail are in them.
    """

    rows: tuple[tuple[int, bytes], ...]
    head: SegmentRef
    messages: int


def seal(tail: Sequence[Message], head: SegmentRef | None, *, limit: int | None = None) -> Sealed | None:
    """Seal the older part of a tail that has become too long; None when it has not.

    An assistant's message with tool calls and the message with their results stay together, on one side. `limit` is how
    many bytes a message body may have: the tail takes a quarter of it at most.
    """
    most = TAIL_BYTES if limit is None else min(TAIL_BYTES, limit // 4)
    sizes = [size_of(message) for message in tail]
    if len(tail) <= TAIL_MESSAGES and sum(sizes) <= most:
        return None
    return seal_first(tail, _kept_from(tail, sizes, most // 4), head)


def seal_first(tail: Sequence[Message], count: int, head: SegmentRef | None) -> Sealed | None:
    """Seal the first `count` messages of a tail, fewer when that would part calls from results; None when none is left."""
    while count and not may_cut(tail, count):
        count -= 1
    if not count:
        return None
    rows: list[tuple[int, bytes]] = []
    for piece in _pieces(tail[:count]):
        segment = Segment(number=head.number + 1 if head else 1, previous=head, messages=tuple(piece))
        data = segment.model_dump_json(exclude_none=True).encode()
        rows.append((segment.number, data))
        head = _after(head, segment, data)
    assert head is not None
    return Sealed(tuple(rows), head, count)


def size_of(message: Message) -> int:
    """The bytes of a message as it travels."""
    return message.weight.size


def _after(head: SegmentRef | None, segment: Segment, data: bytes) -> SegmentRef:
    shown = head if head is not None and head.number > head.since else None
    return SegmentRef(
        number=segment.number,
        sha256=hashlib.sha256(data).hexdigest(),
        messages=len(segment.messages),
        size=len(data),
        since=head.since if head else 0,
        total_messages=len(segment.messages) + (shown.total_messages if shown else 0),
        total_tokens=estimate_messages(segment.messages) + (shown.total_tokens if shown else 0),
    )


def _kept_from(tail: Sequence[Message], sizes: Sequence[int], most: int) -> int:
    """The place in the tail from which on messages are kept."""
    at, kept = len(tail), 0
    while at and len(tail) - at < KEEP_MESSAGES and kept + sizes[at - 1] <= most:
        at -= 1
        kept += sizes[at]
    while at < len(tail) and not may_cut(tail, at):
        at += 1  # rather a call too few than a tail without bound
    return at


def _pieces(messages: Sequence[Message]) -> list[list[Message]]:
    pieces: list[list[Message]] = []
    room = 0
    for at, message in enumerate(messages):
        size = size_of(message)
        if not pieces or (size > room and may_cut(messages, at)):
            pieces.append([])
            room = SEGMENT_BYTES
        pieces[-1].append(message)
        room -= size
    return pieces
