"""The operator over the socket of a running host."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, final
from urllib.parse import quote

import httpx2
from pydantic import BaseModel, TypeAdapter, ValidationError

from rockbot.gateway.api import (
    VERSION,
    AskLine,
    AskRequest,
    DiscardRequest,
    ErrorBody,
    ErrorLine,
    PublishRequest,
    ReplayRequest,
    ResponseLine,
)
from rockbot.operator import AskEvent
from rockbot.operators.faults import HostUnreachable, InvalidRequest, Problem, error_of
from rockbot.operators.models import Diagnosis, LetterDetail, LetterSummary, Pipeline, PublishedMessage, QueueInfo
from rockbot_messaging.envelope import HeaderValue

__all__ = ["SocketOperator"]

_LINES: Final[TypeAdapter[Any]] = TypeAdapter(AskLine)
_QUEUES: Final = TypeAdapter(list[QueueInfo])
_LETTERS: Final = TypeAdapter(list[LetterSummary])

#: Seconds for anything but asking.
_TIMEOUT: Final = 60.0
#: Seconds that the host gets beyond the time it was given itself, so that its own explanation arrives.
_MARGIN: Final = 5.0


@final
class SocketOperator:
    """Implements `rockbot.operator.Operator` by calling the gateway of the host that listens on `socket_path`."""

    def __init__(self, socket_path: Path) -> None:
        self._path = socket_path
        self._client = httpx2.AsyncClient(
            transport=httpx2.AsyncHTTPTransport(uds=str(socket_path)),
            base_url=f"http://rockbot/{VERSION}",
            timeout=httpx2.Timeout(_TIMEOUT, connect=5.0),
            trust_env=False,
        )

    async def publish(
        self,
        topic: str,
        body: bytes,
        *,
        type: str = "",
        correlation_id: str | None = None,
        conversation_id: str | None = None,
        headers: Mapping[str, HeaderValue] | None = None,
    ) -> PublishedMessage:
        request = PublishRequest(
            topic=topic,
            body=base64.b64encode(body).decode(),
            body_encoding="base64",
            type=type,
            correlation_id=correlation_id,
            conversation_id=conversation_id,
            headers=dict(headers or {}),
        )
        return PublishedMessage.model_validate_json(await self._post("/messages", request))

    async def ask(
        self, agent: str, text: str, *, conversation_id: str | None = None, timeout: float | None = None
    ) -> AsyncIterator[AskEvent]:
        try:
            request = AskRequest(text=text, conversation_id=conversation_id, timeout=timeout)
        except ValidationError as exc:
            error = exc.errors(include_url=False)[0]
            raise InvalidRequest(f"this is no task: {error['loc'][-1]}: {error['msg']}") from None
        read = None if timeout is None else timeout + _MARGIN
        call = self._client.stream(
            "POST",
            f"/agents/{_segment(agent)}/ask",
            content=request.model_dump_json(),
            headers=_JSON,
            timeout=httpx2.Timeout(_TIMEOUT, connect=5.0, read=read),
        )
        async with self._translated(), call as response:
            if response.status_code >= 400:
                raise _error(response.status_code, await response.aread())
            async for text_line in response.aiter_lines():
                line = _LINES.validate_json(text_line)
                if isinstance(line, ErrorLine):
                    raise error_of(line.error)
                if isinstance(line, ResponseLine):
                    yield line.response
                    return
                yield line.status
        raise HostUnreachable(f"the host at {self._path} went away before it answered")

    async def queues(self) -> list[QueueInfo]:
        return _QUEUES.validate_json(await self._get("/queues"))

    async def letters(self, queue: str, *, limit: int = 50, offset: int = 0) -> list[LetterSummary]:
        path = f"/queues/{_segment(queue)}/letters?limit={limit}&offset={offset}"
        return _LETTERS.validate_json(await self._get(path))

    async def letter(self, queue: str, letter_id: str) -> LetterDetail:
        return LetterDetail.model_validate_json(await self._get(_letter(queue, letter_id)))

    async def replay(self, queue: str, letter_id: str, *, body: bytes | None = None) -> PublishedMessage:
        text = None if body is None else base64.b64encode(body).decode()
        request = ReplayRequest(body=text, body_encoding="base64")
        return PublishedMessage.model_validate_json(await self._post(f"{_letter(queue, letter_id)}/replay", request))

    async def discard(self, queue: str, letter_id: str, *, reason: str) -> LetterSummary:
        request = DiscardRequest(reason=reason)
        return LetterSummary.model_validate_json(await self._post(f"{_letter(queue, letter_id)}/discard", request))

    async def pipeline(self) -> Pipeline:
        return Pipeline.model_validate_json(await self._get("/pipeline"))

    async def doctor(self) -> Diagnosis:
        return Diagnosis.model_validate_json(await self._get("/doctor"))

    async def close(self) -> None:
        await self._client.aclose()

    async def _get(self, path: str) -> bytes:
        async with self._translated():
            return _content(await self._client.get(path))

    async def _post(self, path: str, request: BaseModel) -> bytes:
        async with self._translated():
            return _content(await self._client.post(path, content=request.model_dump_json(), headers=_JSON))

    @asynccontextmanager
    async def _translated(self) -> AsyncIterator[None]:
        try:
            yield
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as exc:
            if _is_forbidden(exc):
                raise HostUnreachable(f"the socket {self._path} belongs to another user") from None
            raise HostUnreachable(f"no running host at {self._path}: start one with `rockbot up`") from None
        except httpx2.TimeoutException:
            raise HostUnreachable(f"the host at {self._path} does not answer") from None
        except httpx2.TransportError as exc:
            raise HostUnreachable(f"the host at {self._path} went away before it answered: {exc}") from None


_JSON: Final = {"content-type": "application/json"}


def _segment(text: str) -> str:
    return quote(text, safe="") or "%20"


def _letter(queue: str, letter_id: str) -> str:
    return f"/queues/{_segment(queue)}/letters/{_segment(letter_id)}"


def _content(response: httpx2.Response) -> bytes:
    if response.status_code >= 400:
        raise _error(response.status_code, response.content)
    return response.content


def _error(status: int, content: bytes) -> Exception:
    try:
        return error_of(ErrorBody.model_validate_json(content).error)
    except ValidationError:
        return error_of(Problem(code="failed", message=f"the host answered with HTTP status {status}"))


def _is_forbidden(exc: BaseException) -> bool:
    at: BaseException | None = exc
    while at is not None:
        if isinstance(at, PermissionError):
            return True
        at = at.__cause__ or at.__context__
    return False
