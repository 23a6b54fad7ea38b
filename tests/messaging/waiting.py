"""Letting a test's own tasks run until something is true: no time goes by on any clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from rockbot_messaging.verdicts import Verdict


async def settle() -> None:
    """Let everything that can run do so until it waits."""
    for _ in range(30):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    """Let others run until `condition` holds; TimeoutError when it does not within a real minute."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0)


def start(handling: Coroutine[Any, Any, Verdict] | Any) -> asyncio.Task[Verdict]:
    """A delivery under way."""
    return asyncio.ensure_future(handling)
