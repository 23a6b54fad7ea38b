"""One call of a function: arguments checked, time bounded, whatever comes of it turned into content of bounded size.

What the tool reports itself is an answer for the model. What its function raises besides is the caller's to judge, who knows
whether the call may be made again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from functools import partial
from typing import Any, Final, final

from rockbot.errors import PermanentFailure, TemporaryFailure
from rockbot.events.content import ContentPart, TextPart
from rockbot.events.tools import ToolSpec
from rockbot.tools.content import content_of, fitted
from rockbot.tools.context import ToolContext
from rockbot.tools.errors import FunctionRaised, ToolError
from rockbot.tools.slots import Slot
from rockbot.tools.threads import in_thread
from rockbot.tools.toolset import FunctionTool

__all__ = ["FunctionCalls", "Outcome", "unknown_outcome"]

logger = logging.getLogger(__name__)

#: Seconds that interrupted work has to end before it is left to itself.
GRACE: Final = 1.0


@final
class Outcome:
    """What a call came to: content for the model, and whether it is an error."""

    __slots__ = ("is_error", "parts")

    def __init__(self, parts: tuple[ContentPart, ...], *, is_error: bool = False) -> None:
        self.parts = parts
        self.is_error = is_error


@final
class FunctionCalls:
    """Calls functions. `output_limit` is in characters, for tools that set none of their own."""

    def __init__(self, *, output_limit: int) -> None:
        self._output_limit = output_limit

    async def call(
        self, tool: FunctionTool, arguments: Mapping[str, Any], context: ToolContext, *, slot: Slot | None = None
    ) -> Outcome:
        """Call a tool with checked arguments (`Signature.arguments`); `slot` is held until the function has really ended.

        Raises:
            FunctionRaised: the function raised something that is neither `ToolError` nor a verdict.
            TemporaryFailure, PermanentFailure: it raised that verdict.
            asyncio.CancelledError: this task was cancelled; the function was interrupted.
            ArtifactsUnavailable: a long result could not be stored.
        """
        try:
            returned = await self._work(tool, arguments, context, slot)
            try:
                parts = await content_of(returned, context.artifacts.store, tenant=context.tenant)
            except TypeError as exc:
                raise ToolError(f"{tool.spec.name} was carried out, but its result cannot be told: {exc}") from exc
        except ToolError as exc:
            return await self._fitted(tool, (TextPart(text=str(exc) or "the tool failed"),), context, is_error=True)
        return await self._fitted(tool, parts, context)

    async def _fitted(
        self, tool: FunctionTool, parts: tuple[ContentPart, ...], context: ToolContext, *, is_error: bool = False
    ) -> Outcome:
        limit = tool.spec.output_limit or self._output_limit
        store = context.artifacts.store
        return Outcome(await fitted(parts, limit, store, origin=tool.origin, tenant=context.tenant), is_error=is_error)

    async def _work(
        self, tool: FunctionTool, arguments: Mapping[str, Any], context: ToolContext, slot: Slot | None
    ) -> Any:
        given = dict(arguments)
        if tool.signature.context is not None:
            given[tool.signature.context] = context
        work: asyncio.Future[Any]
        if tool.in_thread:
            work = in_thread(partial(tool.function, **given), name=f"tool {tool.spec.name}")
        else:
            work = asyncio.ensure_future(_without_exit(tool.function(**given)))
        if slot is not None:
            slot.hold(work)
        try:
            await asyncio.wait({work}, timeout=tool.spec.timeout_seconds)
        except asyncio.CancelledError:
            await self._interrupted(tool, work, context)
            raise
        if work.done():
            return _result(work)
        await self._interrupted(tool, work, context)
        raise ToolError(_too_slow(tool.spec))

    async def _interrupted(self, tool: FunctionTool, work: asyncio.Future[Any], context: ToolContext) -> None:
        """Ask the work to end, and leave it to itself when it does not."""
        context.cancel()
        if not tool.in_thread:
            work.cancel()
        work.add_done_callback(_heard)
        await asyncio.wait({work}, timeout=GRACE)
        if not work.done():
            logger.warning(
                "a tool goes on although its call is over",
                extra={"tool": tool.spec.name, "call_id": context.call_id, "in_thread": tool.in_thread},
            )


def unknown_outcome(tool: ToolSpec, why: str) -> Outcome:
    """What the model is told when nobody can say whether a call had its effect."""
    text = (
        f"{why}. Whether {tool.name} had its effect is not known, and it was not called again because it is not declared"
        " idempotent: check before you repeat it."
    )
    return Outcome((TextPart(text=text, origin=f"tool:{tool.name}"),), is_error=True)


def _result(work: asyncio.Future[Any]) -> Any:
    if work.cancelled():
        # It cancelled itself; that must not look like this task being cancelled.
        raise ToolError("the tool gave up")
    match work.exception():
        case None:
            return work.result()
        case ToolError() | TemporaryFailure() | PermanentFailure() as verdict:
            raise verdict
        case Exception() as error:
            raise FunctionRaised(error) from error
        case ending:
            raise FunctionRaised(RuntimeError(f"the function raised {type(ending).__name__}")) from ending


async def _without_exit(function: Coroutine[Any, Any, Any]) -> Any:
    """A tool that calls `sys.exit` must not take the process with it."""
    try:
        return await function
    except SystemExit as exc:
        raise RuntimeError("the function raised SystemExit") from exc


def _too_slow(tool: ToolSpec) -> str:
    text = f"{tool.name} did not end within {tool.timeout_seconds:g} s and was stopped"
    return text if tool.repeatable else f"{text}; whether it had its effect is not known"


def _heard(work: asyncio.Future[Any]) -> None:
    """Nobody waits for this any more; its error is no surprise."""
    if not work.cancelled():
        work.exception()
