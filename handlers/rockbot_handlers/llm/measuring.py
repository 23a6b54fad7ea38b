"""Each call at a model, as it is counted and traced: one span and one count, whatever comes of it.

SDKs trace themselves differently or not at all, so their own spans stay off and this is the only one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import final

from rockbot.context import Context
from rockbot.events import LlmRequest, LlmResponse
from rockbot.telemetry import semconv
from rockbot_messaging.measures import NO_MEASURES, Measures, Names
from rockbot_messaging.tracing import NO_TRACING, Tracing

__all__ = ["MeasuredCalls"]


@final
class MeasuredCalls:
    """Goes around calls at models."""

    def __init__(self, measures: Measures = NO_MEASURES, tracing: Tracing = NO_TRACING) -> None:
        self._measures = measures
        self._tracing = tracing

    async def make(
        self, make: Callable[[LlmRequest], Awaitable[LlmResponse]], context: Context, request: LlmRequest
    ) -> LlmResponse:
        """What `make` answers. Raises what that raises."""
        provider, _, model = request.model.partition("/")
        attributes: dict[str, str | int] = {
            semconv.GEN_AI_OPERATION_NAME: semconv.CHAT,
            semconv.GEN_AI_PROVIDER_NAME: provider,
            semconv.GEN_AI_REQUEST_MODEL: model,
            semconv.GEN_AI_REQUEST_MAX_TOKENS: request.max_output_tokens,
            semconv.GEN_AI_CONVERSATION_ID: context.envelope.conversation_id or "",
            semconv.GEN_AI_AGENT_NAME: request.agent,
        }
        began, outcome = context.clock.monotonic(), "ok"
        with self._tracing.span(f"{semconv.CHAT} {model}", attributes, kind="client") as span:
            try:
                response = await make(request)
            except asyncio.CancelledError:
                outcome = "canceled"
                raise
            except Exception as exc:
                outcome = type(exc).__name__
                raise
            finally:
                self._measures.count(Names.MODEL_CALLS, 1, provider=provider, model=model, outcome=outcome)
                took = context.clock.monotonic() - began
                self._measures.observe(Names.MODEL_DURATION, took, provider=provider, model=model)
            usage = response.usage
            cached = usage.cache_read_tokens + usage.cache_write_tokens
            span.set(
                {
                    semconv.GEN_AI_RESPONSE_MODEL: response.model or model,
                    semconv.GEN_AI_FINISH_REASONS: (response.stop_reason,),
                    semconv.GEN_AI_INPUT_TOKENS: usage.input_tokens + cached,
                    semconv.GEN_AI_OUTPUT_TOKENS: usage.output_tokens,
                    semconv.GEN_AI_CACHE_READ_TOKENS: usage.cache_read_tokens,
                    semconv.GEN_AI_CACHE_WRITE_TOKENS: usage.cache_write_tokens,
                }
            )
        for kind, tokens in (
            ("input", usage.input_tokens),
            ("output", usage.output_tokens),
            ("cache_read", usage.cache_read_tokens),
            ("cache_write", usage.cache_write_tokens),
        ):
            if tokens:
                self._measures.count(Names.MODEL_TOKENS, tokens, provider=provider, model=model, kind=kind)
        return response

    def paid(self, request: LlmRequest, cost: float | None) -> None:
        """Count the money that the calls for a request took; None is not known."""
        if cost:
            provider, _, model = request.model.partition("/")
            self._measures.count(Names.MODEL_COST, cost, provider=provider, model=model)
