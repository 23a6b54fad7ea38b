"""Calls to the gateway on a Unix socket: one connection pool, and every failure as the error it was made from."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, final
from urllib.parse import quote

import httpx2
from pydantic import BaseModel, TypeAdapter, ValidationError

from rockbot.gateway.api import VERSION, ErrorBody, ErrorLine
from rockbot.operators.faults import HostUnreachable, Problem, error_of

__all__ = ["Calls", "segment"]

#: Seconds for a call, or for the next line of a stream, unless said otherwise.
_TIMEOUT: Final = 60.0
_CONNECT: Final = 5.0
_SLOW: Final = 600.0
_JSON: Final = {"content-type": "application/json"}


def segment(text: str) -> str:
    """`text` as one segment of a path."""
    return quote(text, safe="") or "%20"


@final
class Calls:
    """Every method raises `HostUnreachable` when nobody answers, else what the host's error was."""

    def __init__(self, socket_path: Path) -> None:
        self._path = socket_path
        self._client = httpx2.AsyncClient(
            # Reading the authorities of TLS would take longer than the call, and a socket file has no TLS.
            transport=httpx2.AsyncHTTPTransport(uds=str(socket_path), verify=False, trust_env=False),
            base_url=f"http://rockbot/{VERSION}",
            timeout=httpx2.Timeout(_TIMEOUT, connect=_CONNECT),
            trust_env=False,
        )

    async def get(self, path: str, query: Mapping[str, Any] | None = None, *, slow: bool = False) -> bytes:
        """The body of an answer; a value of `query` that is a list stands for the name several times.

        `slow` says that the host may have to read many letters first.
        """
        limit = httpx2.Timeout(_TIMEOUT, connect=_CONNECT, read=_SLOW if slow else _TIMEOUT)
        async with self._translated():
            return _content(await self._client.get(path, params=query, timeout=limit))

    async def post(self, path: str, request: BaseModel) -> bytes:
        """As `get`, with a body."""
        async with self._translated():
            return _content(await self._client.post(path, content=request.model_dump_json(), headers=_JSON))

    async def lines(
        self,
        path: str,
        shape: TypeAdapter[Any],
        *,
        request: BaseModel | None = None,
        query: Mapping[str, Any] | None = None,
        read: float | None = _TIMEOUT,
    ) -> AsyncIterator[Any]:
        """The lines of a stream; closed early, the connection goes with it. `read` bounds the wait for each (seconds).

        Ends when the reader stops. A stream that ends by itself was cut: `HostUnreachable`.
        """
        call = self._client.stream(
            "GET" if request is None else "POST",
            path,
            params=query,
            content=None if request is None else request.model_dump_json(),
            headers=None if request is None else _JSON,
            timeout=httpx2.Timeout(_TIMEOUT, connect=_CONNECT, read=read),
        )
        async with self._translated(), call as response:
            if response.status_code >= 400:
                raise _error(response.status_code, await response.aread())
            async for text in response.aiter_lines():
                line = shape.validate_json(text)
                if isinstance(line, ErrorLine):
                    raise error_of(line.error)
                yield line
        raise HostUnreachable(f"the host at {self._path} went away before it answered")

    async def close(self) -> None:
        """Let go of the connections; idempotent."""
        await self._client.aclose()

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
