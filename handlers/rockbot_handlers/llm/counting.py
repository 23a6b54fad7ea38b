"""Counting a request's tokens before the call, where its agent asks for it: the provider's count instead of an estimate."""

from __future__ import annotations

import logging

from rockbot.events import LlmRequest, LlmResponse, Message
from rockbot.llm import LlmClient

__all__ = ["refused_for_length"]

logger = logging.getLogger(__name__)


async def refused_for_length(client: LlmClient, request: LlmRequest) -> LlmResponse | None:
    """The reply to a request that has more tokens than its `input_limit`; None when it has not, or has no limit.

    It is the reply that a provider gives which counts by itself: no text, stopped by the context window.

    Raises:
        LlmTransient, LlmThrottled, LlmPermanent, LlmUnknownOutcome: the count failed.
    """
    if request.input_limit is None:
        return None
    counted = await client.count_tokens(request)
    if counted <= request.input_limit:
        return None
    logger.info(
        "a request is longer than its window and was not sent",
        extra={"model": request.model, "agent": request.agent, "tokens": counted, "limit": request.input_limit},
    )
    return LlmResponse(message=Message(role="assistant", parts=()), stop_reason="context_window", model=request.model)
