"""Deadlines, enforced where the work is.

Three kinds of message meet this link. Answers to a turn (and tasks, which their agent answers as expired) always pass:
late ones must be seen to be recorded. Commands with a return address are not begun after their deadline and are stopped
at it; the turn that waits is told. What has a deadline and nobody to tell becomes a dead letter.
"""

from __future__ import annotations

import asyncio
from typing import Final, final

from rockbot.context import Context
from rockbot.errors import PermanentFailure
from rockbot.events import (
    AgentResponse,
    AgentStatus,
    AgentTask,
    ApprovalDecision,
    ApprovalRequest,
    CancelTask,
    ControlCancel,
    Event,
    LlmResponse,
    StepExpired,
    StepRefused,
    StepStalled,
    TimerDue,
    ToolResult,
)
from rockbot.handler import CallNext

__all__ = ["DeadlineLink"]

#: Events whose own handler knows what a late one means.
_ALWAYS_PASS: Final = (
    AgentTask,
    AgentResponse,
    AgentStatus,
    ApprovalDecision,
    ApprovalRequest,
    CancelTask,
    ControlCancel,
    LlmResponse,
    StepExpired,
    StepRefused,
    StepStalled,
    TimerDue,
    ToolResult,
)


@final
class DeadlineLink:
    """Refuses commands whose deadline has passed and bounds those that are begun."""

    @property
    def handles(self) -> tuple[type[Event], ...]:
        return (Event,)

    async def handle(self, event: Event, context: Context, call_next: CallNext) -> None:
        remaining = context.remaining
        if remaining is None or _passes(event, context):
            await call_next(event, context)
            return
        if remaining <= 0:
            self._expired(context, "deadline passed before it was begun")
            return
        collected = len(context.emissions)
        bound = asyncio.timeout(remaining)
        try:
            async with bound:
                await call_next(event, context)
        except TimeoutError:
            if not bound.expired():
                raise
            # Half a handler's emissions are nobody's decision.
            del context.emissions[collected:]
            context.after_publish.clear()
            self._expired(context, "deadline passed while it was handled")

    def _expired(self, context: Context, reason: str) -> None:
        if context.envelope.return_address is None:
            raise PermanentFailure(reason)
        context.answer(StepExpired(message_id=context.envelope.message_id), name="expired")


def _passes(event: Event, context: Context) -> bool:
    if isinstance(event, _ALWAYS_PASS):
        return True
    # What arrives at its own return address is an answer on its way back, of whatever type.
    address = context.envelope.return_address
    return address is not None and address.topic == context.envelope.topic
