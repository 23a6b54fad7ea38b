"""One log record per message handled: what it was, whose it was, what became of it, and how long that took.

Messages of the records are constants and everything else is a field, so that logs can be searched. Bodies appear at DEBUG
only; a failure is told once, at WARNING, in one line with the place that raised it, and its traceback at DEBUG. Waiting
(throttled, busy elsewhere) is no failure and is told at INFO.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final, final

from rockbot.context import Context
from rockbot.errors import PermanentFailure, TemporaryFailure
from rockbot.events import Event
from rockbot.handler import CallNext
from rockbot.logs import IN_HAND
from rockbot_messaging.calls import CallBusy
from rockbot_messaging.failing import raised_at
from rockbot_messaging.tracing import trace_id

__all__ = ["LoggingLink"]

#: Characters of a body that are logged at DEBUG.
_MAX_BODY: Final = 2000


@final
class LoggingLink:
    """Passes everything on and raises whatever comes back."""

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self._logger = logger or logging.getLogger("rockbot.messages")

    @property
    def handles(self) -> tuple[type[Event], ...]:
        return (Event,)

    async def handle(self, event: Event, context: Context, call_next: CallNext) -> None:
        logger = self._logger
        if not logger.isEnabledFor(logging.WARNING):
            await call_next(event, context)
            return
        if logger.isEnabledFor(logging.DEBUG):
            body = context.envelope.body[:_MAX_BODY].decode(errors="replace")
            logger.debug("message received", extra={**_fields(event, context), "body": body})
        began = context.clock.monotonic()
        in_hand = IN_HAND.set(context.envelope)
        try:
            await call_next(event, context)
        except asyncio.CancelledError:
            logger.info("message cancelled", extra=self._outcome(event, context, began, "cancelled"))
            raise
        except CallBusy as exc:
            self._handed_back(event, context, began, exc, exc.seconds)
            raise
        except TemporaryFailure as exc:
            if exc.counted:
                self._failed(event, context, began, exc)
            else:
                self._handed_back(event, context, began, exc, exc.after)
            raise
        except Exception as exc:
            self._failed(event, context, began, exc)
            raise
        finally:
            IN_HAND.reset(in_hand)
        if logger.isEnabledFor(logging.INFO):
            logger.info("message handled", extra=self._outcome(event, context, began, "ok"))

    def _handed_back(self, event: Event, context: Context, began: float, exc: Exception, after: float | None) -> None:
        fields = self._outcome(event, context, began, "handed back")
        self._logger.info("message handed back", extra={**fields, "after": after, "reason": str(exc)})

    def _failed(self, event: Event, context: Context, began: float, exc: Exception) -> None:
        fields = self._outcome(event, context, began, type(exc).__name__)
        self._logger.warning(
            "message failed",
            extra={**fields, "error": " ".join(str(exc).split()), "raised_at": _place(exc)},
            exc_info=self._logger.isEnabledFor(logging.DEBUG),
        )

    def _outcome(self, event: Event, context: Context, began: float, outcome: str) -> dict[str, Any]:
        took = (context.clock.monotonic() - began) * 1000
        return {
            **_fields(event, context),
            "outcome": outcome,
            "duration_ms": round(took, 3),
            "emitted": len(context.emissions),
        }


def _place(exc: Exception) -> str:
    """Where an unforeseen error came from; nothing for what a handler meant to say."""
    return "" if isinstance(exc, TemporaryFailure | PermanentFailure) else raised_at(exc)


def _fields(event: Event, context: Context) -> dict[str, Any]:
    envelope = context.envelope
    return {
        "event": event.type_name,
        "message_id": envelope.message_id,
        "foreign_id": envelope.foreign_id,
        "conversation": envelope.conversation_id,
        "task": envelope.root_task_id,
        "topic": envelope.topic,
        "attempt": envelope.attempt,
        "trace_id": trace_id(envelope.traceparent),
    }
