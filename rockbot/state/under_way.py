"""Counts calls that are under way, so that closing a store can wait for them."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import final

__all__ = ["UnderWay"]


@final
class UnderWay:
    """A context that each call is made in; `finished` waits until none is."""

    def __init__(self) -> None:
        self._calls = 0
        self._none = asyncio.Event()
        self._none.set()

    def __enter__(self) -> None:
        self._calls += 1
        self._none.clear()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._calls -= 1
        if not self._calls:
            self._none.set()

    async def finished(self) -> None:
        """Returns when no call is under way."""
        await self._none.wait()
