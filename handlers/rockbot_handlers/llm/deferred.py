"""Clients opened after the start: importing a provider's SDK takes longer than everything else that a host does to be ready.

It happens in a thread, as soon as the host is ready (`DeferredClients.warm_up`), or for the first call if that comes before. Only
what was checked without the SDK may be deferred: a wrong setting is an error at start.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, final

from rockbot.events import LlmRequest, LlmResponse
from rockbot.llm import LlmClient, LlmTransient, TextDelta

__all__ = ["DeferredClient", "DeferredClients"]

logger = logging.getLogger(__name__)


@final
class DeferredClients:
    """The deferred clients of one host.

    They are opened one after the other. Packages import each other in circles, and importlib refuses one of two threads that
    came into such a circle from two sides.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._clients: list[DeferredClient] = []

    def defer(self, provider: str, access: object, open_client: Callable[[], LlmClient]) -> LlmClient:
        """A client that is opened later; `access` is what its text shows."""
        client = DeferredClient(provider, access, open_client, self._turn)
        self._clients.append(client)
        return client

    async def warm_up(self) -> None:
        """Open all of them. One that cannot be opened is told in the log, and to whoever calls it."""
        for client in self._clients:
            try:
                await client.open()
            except LlmTransient as exc:
                logger.error("a provider's package cannot be used", extra={"error": str(exc)})


@final
class DeferredClient:
    """Implements `rockbot.llm.LlmClient` by one that is opened when it is needed, never by two of `turn` at once."""

    def __init__(self, provider: str, access: object, open_client: Callable[[], LlmClient], turn: asyncio.Lock) -> None:
        self._provider = provider
        self._access = access
        self._open_client = open_client
        self._turn = turn
        self._opening: asyncio.Task[LlmClient | LlmTransient] | None = None
        self._client: LlmClient | None = None

    def __repr__(self) -> str:
        return f"DeferredClient({self._access!r})"

    async def open(self) -> LlmClient:
        """The client. Whoever is cancelled leaves the opening to others, because a thread cannot be stopped.

        Raises:
            LlmTransient: it cannot be opened; another host may have a sound installation.
        """
        if self._client is not None:
            return self._client
        if self._opening is None or self._opening.done():
            self._opening = asyncio.create_task(self._opened(), name=f"open the client of {self._provider}")
        found = await asyncio.shield(self._opening)
        if isinstance(found, LlmTransient):
            raise LlmTransient(str(found))
        return found

    async def _opened(self) -> LlmClient | LlmTransient:
        async with self._turn:
            try:
                self._client = await asyncio.to_thread(self._open_client)
            except ImportError as exc:
                return LlmTransient(f"{self._provider}: its package is installed and cannot be imported: {exc}")
            except Exception as exc:  # what it says may repeat a key
                return LlmTransient(f"{self._provider}: its client cannot be made: {type(exc).__name__}")
            return self._client

    async def complete(self, request: LlmRequest, *, call_id: str, deadline: float | None) -> LlmResponse:
        """As the client does."""
        client, deadline = await self._in_time(deadline)
        return await client.complete(request, call_id=call_id, deadline=deadline)

    async def stream(
        self, request: LlmRequest, *, call_id: str, deadline: float | None
    ) -> AsyncIterator[TextDelta | LlmResponse]:
        """As the client does."""
        client, deadline = await self._in_time(deadline)
        pieces: Any = client.stream(request, call_id=call_id, deadline=deadline)  # every adapter's is a generator
        async with aclosing(pieces):
            async for piece in pieces:
                yield piece

    async def count_tokens(self, request: LlmRequest) -> int:
        """As the client does."""
        return await (await self.open()).count_tokens(request)

    async def close(self) -> None:
        """Close what was opened."""
        if self._opening is not None and self._client is None:
            self._opening.cancel()
            await asyncio.wait((self._opening,))
        if self._client is not None:
            await self._client.close()

    async def _in_time(self, deadline: float | None) -> tuple[LlmClient, float | None]:
        """The client, and what is left of the deadline."""
        if self._client is not None:
            return self._client, deadline
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            async with asyncio.timeout(deadline):
                client = await self.open()
        except TimeoutError:
            raise LlmTransient(f"{self._provider}: its package was not imported in time") from None
        return client, None if deadline is None else max(0.0, deadline - (clock() - began))
