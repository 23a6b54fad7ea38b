"""A call that goes on to the next model of its chain: the same message, to the queue of another backend.

It keeps its id, and with it its entry in the ledger: whichever of two copies is finished first is the call's one result, and
what is finished is never made again. It takes its place there like any other call, with that backend's slots and rates.
"""

from __future__ import annotations

import logging
from typing import Final, final

from rockbot import topics
from rockbot.catalogue.routes import FallReason
from rockbot.context import Context, Emission
from rockbot.errors import RockBotError
from rockbot.events import LlmRequest
from rockbot.events.models import Fallen
from rockbot.llm import LlmPermanent, LlmThrottled, LlmTransient, LlmUnknownOutcome
from rockbot_handlers.llm.admission import NotNow

__all__ = ["DoesNotFit", "go_on", "reason_to_fall"]

logger = logging.getLogger(__name__)

#: Characters of an error's text that travel with the message.
_TOLD: Final = 300


@final
class DoesNotFit(RockBotError):
    """The model says that the input is too long for it, and another one is to be asked."""


def reason_to_fall(exc: Exception) -> FallReason | None:
    """What kind of failure an error is; None when it says nothing about the model."""
    match exc:
        case LlmThrottled():
            return "throttled"
        case LlmTransient():
            return "transient"
        case LlmUnknownOutcome():
            return "unknown"
        case LlmPermanent():
            return "permanent"
        case DoesNotFit():
            return "context_window"
        case NotNow(waits_for="breaker" | "throttled" as cause):
            return cause
    return None


def go_on(event: LlmRequest, context: Context, exc: Exception) -> bool:
    """Send the call on to its next model, if this error is one that it falls on; whether it was."""
    reason = reason_to_fall(exc)
    if reason is None or reason not in event.fall_on or not event.fallbacks:
        return False
    model, *others = event.fallbacks
    fallen = Fallen(model=event.model, reason=reason, message=str(exc)[:_TOLD])
    request = event.model_copy(update={"model": model, "fallbacks": tuple(others), "fallen": (*event.fallen, fallen)})
    envelope = context.envelope.replace(
        topic=topics.llm_request(model.partition("/")[0], event.lane),
        body=request.to_body(),
        claim=None,  # claim and signature speak of the body that it had
        signature=None,
        user_id=None,
        attempt=1,
        handbacks=0,
        due_ms=None,
        first_failed_ms=None,
        history=(),
        redelivered=False,
        returns=0,
    )
    context.emissions.append(Emission(envelope))
    logger.warning(
        "a model call goes on to another model",
        extra={"call_id": envelope.message_id, "from": event.model, "to": model, "reason": reason, "error": str(exc)},
    )
    return True
