"""A bound on what a client may send, before anything is parsed or kept in memory."""

from __future__ import annotations

from typing import Final, final

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rockbot.gateway.api import ErrorBody
from rockbot.operators.faults import Problem

__all__ = ["BodyLimit"]

_STATUS: Final = 413


@final
class BodyLimit:
    """ASGI middleware: a request with more than `limit` bytes gets 413, whether it announced its length or not."""

    def __init__(self, app: ASGIApp, *, limit: int) -> None:
        self._app = app
        self._limit = limit
        self._text = f"a request may have at most {limit} bytes"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"")
        if announced.isdigit() and int(announced) > self._limit:
            await self._refuse(send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._limit:
                raise HTTPException(_STATUS, self._text)
            return message

        await self._app(scope, counted, send)

    async def _refuse(self, send: Send) -> None:
        body = ErrorBody(error=Problem(code="body_too_large", message=self._text)).model_dump_json().encode()
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": _STATUS, "headers": headers})
        await send({"type": "http.response.body", "body": body})
