"""Claude models through Anthropic's official SDK: one attempt per call, everything else is the broker's.

The SDK's own retries and telemetry are off. Only the folder's provider table imports this module, and only when an agent
uses the provider, once the host is ready or the first call comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final, final

import anthropic

from rockbot.events import LlmRequest, LlmResponse, Message
from rockbot.llm import LlmError, LlmUnknownOutcome, TextDelta
from rockbot.settings import AnthropicSettings
from rockbot_handlers.llm.anthropic_access import AnthropicAccess, anthropic_access
from rockbot_handlers.llm.anthropic_errors import NO_MESSAGE, SDK_ERRORS, is_window_full, translate
from rockbot_handlers.llm.anthropic_stream import Assembly
from rockbot_handlers.llm.anthropic_wire import request_body, response_of
from rockbot_handlers.llm.output_schemas import is_closed, with_instructions

__all__ = ["AnthropicClient", "open_anthropic"]

#: Seconds within which a connection must stand.
_CONNECT_SECONDS: Final = 10.0

_NO_MESSAGE: Final = (LookupError, AttributeError, TypeError, ValueError)

_NO_TELEMETRY: Final[Any] = {"propagation": False, "traces": {"enabled": False}}


def open_anthropic(settings: AnthropicSettings) -> AnthropicClient:
    """The client for these settings; connects nowhere yet.

    Raises:
        ConfigError: as `anthropic_access`.
    """
    return AnthropicClient(anthropic_access(settings))


@final
class AnthropicClient:
    """Implements `rockbot.llm.LlmClient`."""

    def __init__(self, access: AnthropicAccess) -> None:
        self._key = access.key
        self._native_output = access.native_output
        self._timeout = timeout = access.timeout
        self._client = anthropic.AsyncAnthropic(
            api_key=access.key,
            base_url=access.base_url,
            timeout=anthropic.Timeout(timeout, connect=min(timeout, _CONNECT_SECONDS)),
            max_retries=0,
            open_telemetry=_NO_TELEMETRY,
        )

    def __repr__(self) -> str:
        return f"AnthropicClient(base_url={str(self._client.base_url)!r})"

    async def complete(self, request: LlmRequest, *, call_id: str, deadline: float | None) -> LlmResponse:  # noqa: ARG002
        """One attempt. Raises as the port says."""
        body = self._body(request)
        try:
            async with asyncio.timeout(self._seconds(deadline)):
                message = await self._client.messages.create(
                    **body, max_tokens=request.max_output_tokens, timeout=self._client.timeout
                )
        except (*SDK_ERRORS, TimeoutError) as exc:
            return self._ended(exc, request)
        return _response(message)

    async def stream(
        self,
        request: LlmRequest,
        *,
        call_id: str,  # noqa: ARG002
        deadline: float | None,
    ) -> AsyncIterator[TextDelta | LlmResponse]:
        """One attempt, its text as it comes. Raises as the port says."""
        body = self._body(request)
        until = asyncio.get_running_loop().time() + self._seconds(deadline)
        assembly = Assembly()
        try:
            async with asyncio.timeout_at(until):
                events: Any = await self._client.messages.create(
                    **body, max_tokens=request.max_output_tokens, timeout=self._client.timeout, stream=True
                )
            async with events:
                while True:
                    # Only the waiting is bounded: what is done with a piece is not ours to interrupt.
                    async with asyncio.timeout_at(until):
                        event = await anext(events, None)
                    if event is None:
                        break
                    if text := _added(assembly, event):
                        yield TextDelta(text)
        except (*SDK_ERRORS, TimeoutError) as exc:
            if not assembly.begun:
                yield self._ended(exc, request)
                return
            if not assembly.finished:  # what comes behind the end of a reply is nothing to it
                raise self._error(exc) from None
        if not assembly.finished:
            raise LlmUnknownOutcome("anthropic: the connection ended before the answer did")
        yield _response(assembly.whole())

    async def count_tokens(self, request: LlmRequest) -> int:
        """Asks the API, which counts for free."""
        body = self._body(request)
        try:
            async with asyncio.timeout(self._seconds(None)):
                counted = await self._client.messages.count_tokens(**body)
        except (*SDK_ERRORS, TimeoutError) as exc:
            raise self._error(exc) from None
        return counted.input_tokens

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _seconds(self, deadline: float | None) -> float:
        return self._timeout if deadline is None else max(0.0, min(self._timeout, deadline))

    def _body(self, request: LlmRequest) -> dict[str, Any]:
        schema = request.output_schema
        if schema is None or not self._native_output or not is_closed(schema):
            return request_body(with_instructions(request))
        return request_body(request) | {
            "output_config": {"format": {"type": "json_schema", "schema": anthropic.transform_schema(schema)}}
        }

    def _ended(self, exc: Exception, request: LlmRequest) -> LlmResponse:
        """The empty reply, if the error says that the window is full; raises its translation otherwise."""
        if not is_window_full(exc):
            raise self._error(exc) from None
        return LlmResponse(
            message=Message(role="assistant", parts=()), stop_reason="context_window", model=request.model
        )

    def _error(self, exc: Exception) -> LlmError:
        if isinstance(exc, TimeoutError):
            return LlmUnknownOutcome("anthropic: no answer in time")
        return translate(exc, secret=self._key)


def _added(assembly: Assembly, event: Any) -> str:
    try:
        return assembly.add(event.to_dict(mode="json", warnings=False))
    except _NO_MESSAGE:
        raise LlmUnknownOutcome(f"anthropic: {NO_MESSAGE}") from None


def _response(message: Any) -> LlmResponse:
    try:
        return response_of(message if isinstance(message, dict) else message.to_dict(mode="json", warnings=False))
    except _NO_MESSAGE:
        raise LlmUnknownOutcome(f"anthropic: {NO_MESSAGE}") from None
