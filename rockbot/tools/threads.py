"""Functions that are no coroutine functions, each in a thread of its own.

Not in the event loop's pool: a tool that never returns would take a place there for ever, and keep the process from ending.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["in_thread"]


def in_thread(function: Callable[[], Any], *, name: str) -> asyncio.Future[Any]:
    """Run `function` in a new daemon thread, with the caller's context variables; the future is done when it has ended.

    Cancelling the future does not stop the thread.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()
    context = contextvars.copy_context()

    def settle(result: Any, error: BaseException | None) -> None:
        if future.done():
            return
        if isinstance(error, asyncio.CancelledError):
            future.cancel()
        elif error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    def run() -> None:
        result = None
        error: BaseException | None = None
        try:
            result = context.run(function)
        except StopIteration:
            error = RuntimeError("the function raised StopIteration")  # which no future can hold
        except BaseException as exc:
            error = exc
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
