"""Reading a transcript: what was sealed into segments, from the state store, checked by digest.

The model worker reads what a request points at, through a cache, because segments never change. Whoever wants the whole
story of a conversation (timelines, forks, exports) reads it page by page.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import Final, final

from pydantic import ValidationError

from rockbot.errors import RockBotError
from rockbot.events.models import LlmRequest, SegmentRef
from rockbot.events.registry import explain
from rockbot.machines.segments import Segment
from rockbot.machines.transcript_rules import begun
from rockbot.state.keys import segment_key, segment_prefix
from rockbot.state.ports import IndexRow, StateStore

__all__ = ["CACHE_BYTES", "TranscriptDamaged", "Transcripts", "copied_rows", "read_segments"]

#: Bytes of stored segments that a process keeps parsed: some hundreds of long conversations.
CACHE_BYTES: Final = 32 << 20
#: Segments read at once.
_PAGE: Final = 50


@final
class TranscriptDamaged(RockBotError):
    """A segment is missing, or its bytes are others than those that were sealed. The text names it."""


@final
class Transcripts:
    """Segments of one store through a bounded cache. Safe to use from many tasks of one event loop."""

    def __init__(self, store: StateStore, *, cache_bytes: int = CACHE_BYTES) -> None:
        self._store = store
        self._room = cache_bytes
        self._held: OrderedDict[tuple[str, str, SegmentRef], Segment] = OrderedDict()

    async def whole(self, request: LlmRequest, *, tenant: str, conversation_id: str | None) -> LlmRequest:
        """The request with every message in it, and without `earlier`.

        Raises:
            TranscriptDamaged: a segment is missing or not what was sealed, or nobody says whose it is.
            StateUnavailable: the store cannot say.
        """
        if request.earlier is None:
            return request
        if not conversation_id:
            raise TranscriptDamaged("the request points at earlier messages, but its envelope names no conversation")
        pieces = [request.messages]
        head: SegmentRef | None = request.earlier
        while head is not None and head.number > request.earlier.since:
            segment = await self._segment(tenant, conversation_id, head)
            pieces.append(segment.messages)
            head = segment.previous
        messages = begun([message for piece in reversed(pieces) for message in piece])
        return request.model_copy(update={"messages": messages, "earlier": None})

    async def _segment(self, tenant: str, conversation_id: str, ref: SegmentRef) -> Segment:
        name = (tenant, conversation_id, ref)
        if (held := self._held.get(name)) is not None:
            self._held.move_to_end(name)
            return held
        entry = await self._store.get(segment_key(tenant, conversation_id, ref.number))
        if entry is None:
            raise _missing(conversation_id, ref.number)
        segment = _parsed(entry.value, conversation_id)
        _check(entry.value, ref, conversation_id)
        if name not in self._held:
            self._held[name] = segment
            self._room -= ref.size
        while self._room < 0:
            (_, _, oldest), _ = self._held.popitem(last=False)
            self._room += oldest.size
        return segment


async def read_segments(
    store: StateStore, *, tenant: str, conversation_id: str, head: SegmentRef | None
) -> AsyncIterator[Segment]:
    """Every segment up to `head`, oldest first, also those that a summary stands for.

    `head` is `Conversation.sealed`; what follows it are `Conversation.messages`. Segments are read page by page and checked:
    each against the link of the next, the last against `head`.

    Raises:
        TranscriptDamaged: a segment is missing, or its bytes are others than those that were sealed.
        StateUnavailable: the store cannot say.
    """
    async for _, segment in _stored(store, tenant, conversation_id, head):
        yield segment


async def copied_rows(
    store: StateStore, *, tenant: str, source: str, target: str, head: SegmentRef | None
) -> list[IndexRow]:
    """The rows that give conversation `target` the segments of `source` up to `head`, for the append that founds it.

    Links hold numbers and digests, never conversations, so a copy is the same bytes under other keys.

    Raises:
        TranscriptDamaged, StateUnavailable: as for `read_segments`.
    """
    stored = _stored(store, tenant, source, head)
    return [IndexRow(segment_key(tenant, target, segment.number), data) async for data, segment in stored]


async def _stored(
    store: StateStore, tenant: str, conversation_id: str, head: SegmentRef | None
) -> AsyncIterator[tuple[bytes, Segment]]:
    after: str | None = None
    before: tuple[bytes, Segment] | None = None
    number = 1
    while head is not None:
        page = await store.list(segment_prefix(tenant, conversation_id), after=after, limit=_PAGE)
        for entry in page.entries:
            segment = _parsed(entry.value, conversation_id)
            if segment.number != number or (number > 1) != (segment.previous is not None):
                raise _missing(conversation_id, number)
            if before is not None and segment.previous is not None:
                _check(before[0], segment.previous, conversation_id)
                yield before
            if number == head.number:
                _check(entry.value, head, conversation_id)
                yield entry.value, segment
                return
            before = (entry.value, segment)
            number += 1
        if page.next is None:
            raise _missing(conversation_id, number)
        after = page.next


def _parsed(data: bytes, conversation_id: str) -> Segment:
    try:
        return Segment.model_validate_json(data)
    except ValidationError as exc:
        raise TranscriptDamaged(
            f"a segment of conversation {conversation_id!r} cannot be read: {explain(exc)}"
        ) from exc


def _check(data: bytes, ref: SegmentRef, conversation_id: str) -> None:
    if hashlib.sha256(data).hexdigest() != ref.sha256:
        raise TranscriptDamaged(
            f"segment {ref.number} of conversation {conversation_id!r} has other bytes than those that were sealed"
        )


def _missing(conversation_id: str, number: int) -> TranscriptDamaged:
    return TranscriptDamaged(
        f"segment {number} of conversation {conversation_id!r} is not in the state store: do all processes share it?"
    )
