"""What is said of a handler that raised instead of giving a verdict.

A host's dispatcher raises nothing and tells its own failures; without a host nobody else would say that handling fails, until
the letter lies there.
"""

from __future__ import annotations

import logging

from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.verdicts import Retry

__all__ = ["raised_at", "tell_failed"]

logger = logging.getLogger(__name__)


def raised_at(exc: BaseException) -> str:
    """File, line and function that an error came out of; empty when it was never raised."""
    at = exc.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    if at is None:
        return ""
    code = at.tb_frame.f_code
    return f"{code.co_filename}:{at.tb_lineno} in {code.co_qualname}"


def tell_failed(envelope: MessageEnvelope, verdict: Retry, exc: BaseException, *, queue: str) -> None:
    """One line for each failed attempt; its traceback at DEBUG, and in the dead letter."""
    logger.warning(
        "the handler of %s failed at message %s, attempt %d: %s: %s (%s)",
        queue,
        envelope.message_id,
        envelope.attempt,
        verdict.error_type,
        verdict.reason,
        raised_at(exc) or "not raised",
        exc_info=exc if logger.isEnabledFor(logging.DEBUG) else None,
    )
