"""The dead-letter desk over the socket of a running host."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import aclosing
from typing import Any, Final, Literal, TypeVar, final

from pydantic import BaseModel, TypeAdapter, ValidationError

from rockbot.gateway.calls import Calls, segment
from rockbot.gateway.letters_api import (
    IMPORT_BYTES,
    ActionLine,
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
    Edit,
    ExportedLetter,
    GroupInfo,
    LetterFilter,
    LetterPage,
    LetterView,
    Progress,
    QueueSummary,
    ReplayOptions,
)
from rockbot.operators.faults import InvalidRequest
from rockbot.operators.models import PublishedMessage

__all__ = ["SocketDesk"]

_Request = TypeVar("_Request", bound=BaseModel)

_LINES: Final[TypeAdapter[Any]] = TypeAdapter(ActionLine)
_QUEUES: Final = TypeAdapter(list[QueueSummary])
_GROUPS: Final = TypeAdapter(list[GroupInfo])
_AUDIT: Final = TypeAdapter(list[AuditEntry])

#: Letters named by a progress at most.
_NAMED: Final = 100


@final
class SocketDesk:
    """Implements `rockbot.letters.desk.LetterDesk` by calling the gateway."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def queues(self) -> list[QueueSummary]:
        return _QUEUES.validate_json(await self._calls.get("/queues", slow=True))

    async def groups(self, which: LetterFilter) -> list[GroupInfo]:
        return _GROUPS.validate_json(await self._calls.get("/letters/groups", _query(which), slow=True))

    async def find(
        self,
        which: LetterFilter,
        *,
        limit: int = 50,
        after: str | None = None,
        order: Literal["oldest", "newest"] = "oldest",
    ) -> LetterPage:
        query = _checked(FindQuery, **which.model_dump(), limit=limit, after=after, order=order)
        return LetterPage.model_validate_json(await self._calls.get("/letters", _query(query), slow=True))

    async def letter(self, queue: str, letter_id: str) -> LetterView:
        return LetterView.model_validate_json(await self._calls.get(_letter(queue, letter_id), slow=True))

    def scan(self, queue: str | None = None) -> AsyncIterator[Progress]:
        return self._act("scan", ScanRequest, queue=queue)

    def replay(self, which: LetterFilter, options: ReplayOptions, *, actor: str) -> AsyncIterator[Progress]:
        return self._act("replay", ReplayRequest, which=which, options=options, actor=actor)

    async def edit(self, queue: str, letter_id: str, edit: Edit, *, actor: str) -> PublishedMessage:
        if edit.body is not None and edit.body_encoding == "utf-8":
            # As base64 it needs at most what the host has room for, whatever is in it.
            text = base64.b64encode(edit.body.encode()).decode()
            edit = edit.model_copy(update={"body": text, "body_encoding": "base64"})
        request = _checked(EditRequest, edit=edit, actor=actor)
        answer = await self._calls.post(f"{_letter(queue, letter_id)}/edit", request)
        return PublishedMessage.model_validate_json(answer)

    def discard(
        self, which: LetterFilter, *, reason: str, actor: str, dry_run: bool = False
    ) -> AsyncIterator[Progress]:
        return self._act("discard", DiscardRequest, which=which, reason=reason, actor=actor, dry_run=dry_run)

    def restore(self, which: LetterFilter, *, actor: str) -> AsyncIterator[Progress]:
        return self._act("restore", RestoreRequest, which=which, actor=actor)

    def purge(self, queue: str, *, expect: int, actor: str, reason: str) -> AsyncIterator[Progress]:
        return self._act("purge", PurgeRequest, queue=queue, expect=expect, actor=actor, reason=reason)

    async def export(self, which: LetterFilter) -> AsyncIterator[ExportedLetter]:
        stream: Any = self._calls.lines("/letters/export", _LINES, query=_query(which))
        async with aclosing(stream):
            async for line in stream:
                if isinstance(line, EndLine):
                    return
                if isinstance(line, LetterLine):
                    yield line.letter

    async def load(
        self, letters: AsyncIterable[ExportedLetter], *, actor: str, queue: str | None = None
    ) -> AsyncIterator[Progress]:
        told = Progress(action="import", queue=queue or "")
        async for some in _portions(letters):
            before = told
            stream: Any = self._act("import", ImportRequest, letters=some, actor=actor, queue=queue)
            async with aclosing(stream):
                async for progress in stream:
                    told = _sum(before, progress)
                    yield told
        yield told.model_copy(update={"done": True})

    async def audit(self, *, limit: int = 100) -> list[AuditEntry]:
        return _AUDIT.validate_json(await self._calls.get("/letters/audit", {"limit": limit}))

    async def _act(self, action: str, kind: type[BaseModel], **given: Any) -> AsyncIterator[Progress]:
        request = _checked(kind, **given)
        stream: Any = self._calls.lines(f"/letters/{action}", _LINES, request=request)
        async with aclosing(stream):
            async for line in stream:
                if isinstance(line, EndLine):
                    return
                if isinstance(line, ProgressLine):
                    yield line.progress


def _checked(kind: type[_Request], **given: Any) -> _Request:
    """A request, or what is wrong with it in one line."""
    try:
        return kind(**given)
    except ValidationError as exc:
        error = exc.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, error["loc"]))
        raise InvalidRequest(f"{where}: {error['msg']}" if where else error["msg"]) from None


def _query(which: BaseModel) -> dict[str, Any]:
    given = which.model_dump(exclude_none=True, exclude_defaults=True)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}


def _letter(queue: str, letter_id: str) -> str:
    return f"/queues/{segment(queue)}/letters/{segment(letter_id)}"


async def _portions(letters: AsyncIterable[ExportedLetter]) -> AsyncIterator[tuple[ExportedLetter, ...]]:
    """Letters in portions that fit into one request, without the copy of the body that only people read."""
    portion: list[ExportedLetter] = []
    size = 0
    async for letter in letters:
        lean = letter.model_copy(update={"body": ""})
        its = len(lean.model_dump_json())
        if portion and size + its > IMPORT_BYTES:
            yield tuple(portion)
            portion, size = [], 0
        portion.append(lean)
        size += its
    if portion:
        yield tuple(portion)


def _sum(before: Progress, portion: Progress) -> Progress:
    return portion.model_copy(
        update={
            "total": before.total + portion.total,
            "seen": before.seen + portion.seen,
            "worked": before.worked + portion.worked,
            "refusals": before.refusals + portion.refusals,
            "refused": (*before.refused, *portion.refused)[:_NAMED],
            "ended_turns": before.ended_turns + portion.ended_turns,
            "done": False,
        }
    )
