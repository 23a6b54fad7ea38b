"""The dead-letter part of the gateway: one route for each method of the desk.

Long actions answer with a stream of JSON lines, an ``end`` or an ``error`` last. A client that goes away stops its action
after the batch in hand.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from rockbot.gateway.actions import Actions
from rockbot.gateway.api import MEDIA_TYPE_LINES, ErrorLine
from rockbot.gateway.letters_api import (
    PULSE_SECONDS,
    AliveLine,
    DiscardRequest,
    EditRequest,
    EndLine,
    FindQuery,
    ImportRequest,
    LetterLine,
    ProgressLine,
    PurgeRequest,
    ReplayRequest,
    RestoreRequest,
    ScanRequest,
)
from rockbot.letters.models import (
    AuditEntry,
    ExportedLetter,
    GroupInfo,
    LetterFilter,
    LetterPage,
    LetterView,
    Progress,
    QueueSummary,
)
from rockbot.operator import Operator
from rockbot.operators.faults import problem_of
from rockbot.operators.models import PublishedMessage

__all__ = ["letter_routes"]

Failed = Callable[[Exception], None]


def letter_routes(operator: Operator, actions: Actions, *, failed: Failed) -> APIRouter:
    """The routes. `failed` is told of every error that ends a stream."""
    routes = APIRouter()

    def lines(stream: AsyncIterator[Progress] | AsyncIterator[ExportedLetter]) -> StreamingResponse:
        return StreamingResponse(_lines(stream, actions, failed), media_type=MEDIA_TYPE_LINES)

    @routes.get("/queues")
    async def queues() -> list[QueueSummary]:
        """Dead-letter queues."""
        return await operator.dead_letters.queues()

    @routes.get("/letters")
    async def find(query: Annotated[FindQuery, Query()]) -> LetterPage:
        """A page of the letters that fit."""
        return await operator.dead_letters.find(query.which, limit=query.limit, after=query.after, order=query.order)

    @routes.get("/letters/groups")
    async def groups(which: Annotated[LetterFilter, Query()]) -> list[GroupInfo]:
        """Letters by what they died of."""
        return await operator.dead_letters.groups(which)

    @routes.get("/letters/export", response_class=StreamingResponse)
    async def export(which: Annotated[LetterFilter, Query()]) -> StreamingResponse:
        """Every letter that fits, whole."""
        return lines(operator.dead_letters.export(which))

    @routes.get("/letters/audit")
    async def audit(limit: Annotated[int, Query(ge=1, le=10_000)] = 100) -> list[AuditEntry]:
        """What was done to letters, the latest first."""
        return await operator.dead_letters.audit(limit=limit)

    @routes.get("/queues/{queue}/letters/{letter_id}")
    async def letter(queue: str, letter_id: str) -> LetterView:
        """One letter whole."""
        return await operator.dead_letters.letter(queue, letter_id)

    @routes.post("/queues/{queue}/letters/{letter_id}/edit", status_code=202)
    async def edit(queue: str, letter_id: str, request: EditRequest) -> PublishedMessage:
        """Mend one letter and send it on."""
        return await operator.dead_letters.edit(queue, letter_id, request.edit, actor=request.actor)

    @routes.post("/letters/scan", response_class=StreamingResponse)
    async def scan(request: ScanRequest) -> StreamingResponse:
        """Compare the index with the broker, and mend it."""
        return lines(operator.dead_letters.scan(request.queue))

    @routes.post("/letters/replay", response_class=StreamingResponse)
    async def replay(request: ReplayRequest) -> StreamingResponse:
        """Send letters on."""
        return lines(operator.dead_letters.replay(request.which, request.options, actor=request.actor))

    @routes.post("/letters/discard", response_class=StreamingResponse)
    async def discard(request: DiscardRequest) -> StreamingResponse:
        """Put letters away."""
        return lines(
            operator.dead_letters.discard(
                request.which, reason=request.reason, actor=request.actor, dry_run=request.dry_run
            )
        )

    @routes.post("/letters/restore", response_class=StreamingResponse)
    async def restore(request: RestoreRequest) -> StreamingResponse:
        """Put discarded letters back."""
        return lines(operator.dead_letters.restore(request.which, actor=request.actor))

    @routes.post("/letters/purge", response_class=StreamingResponse)
    async def purge(request: PurgeRequest) -> StreamingResponse:
        """Erase every letter of a queue."""
        return lines(
            operator.dead_letters.purge(
                request.queue, expect=request.expect, actor=request.actor, reason=request.reason
            )
        )

    @routes.post("/letters/import", response_class=StreamingResponse)
    async def load(request: ImportRequest) -> StreamingResponse:
        """Put exported letters where they lay."""
        return lines(operator.dead_letters.load(_each(request.letters), actor=request.actor, queue=request.queue))

    return routes


async def _each(letters: tuple[ExportedLetter, ...]) -> AsyncIterator[ExportedLetter]:
    for letter in letters:
        yield letter


async def _lines(
    stream: AsyncIterator[Progress] | AsyncIterator[ExportedLetter], actions: Actions, failed: Failed
) -> AsyncIterator[bytes]:
    following: Any = actions.follow(stream, pulse=PULSE_SECONDS)
    try:
        async with aclosing(following):
            async for item in following:
                yield _line(item)
    except Exception as exc:
        failed(exc)
        yield _bytes(ErrorLine(error=problem_of(exc)))
    else:
        yield _bytes(EndLine())


def _line(item: Progress | ExportedLetter | None) -> bytes:
    match item:
        case Progress():
            return _bytes(ProgressLine(progress=item))
        case ExportedLetter():
            return _bytes(LetterLine(letter=item))
        case None:
            return _bytes(AliveLine())


def _bytes(line: BaseModel) -> bytes:
    return line.model_dump_json(exclude_none=True).encode() + b"\n"
