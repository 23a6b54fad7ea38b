"""Models behind chat completions, OpenAI's and those of compatible servers, through the official SDK.

One attempt per call: the SDK's own retries are off, everything else is the broker's. Only the folder's provider table imports
this module, and only when an agent uses such a provider, once the host is ready or the first call comes.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, final

import openai

from rockbot.events import LlmRequest, LlmResponse, Message
from rockbot.llm import TextDelta
from rockbot.settings import OpenAiSettings
from rockbot_handlers.llm.openai_errors import SDK_ERRORS, Translator, ending
from rockbot_handlers.llm.openai_stream import Assembly
from rockbot_handlers.llm.openai_wire import request_body, response_of
from rockbot_handlers.llm.presets import Endpoint, endpoint_of

__all__ = ["OpenAiClient", "open_openai"]

#: Seconds within which a connection must stand.
_CONNECT_SECONDS: Final = 10.0
#: Characters of JSON that make about one token, and what an image counts as.
_CHARS_PER_TOKEN: Final = 4
_TOKENS_PER_IMAGE: Final = 1000

_NO_REPLY: Final = (LookupError, AttributeError, TypeError, ValueError)


def open_openai(provider: str, settings: OpenAiSettings) -> OpenAiClient:
    """The client for a provider; connects nowhere yet.

    Raises:
        ConfigError: there is no key, no address, or the address is none.
    """
    return OpenAiClient(endpoint_of(provider, settings))


@final
class OpenAiClient:
    """Implements `rockbot.llm.LlmClient` for one endpoint, whose timeout (seconds) bounds one attempt."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._errors = Translator(endpoint.provider, (endpoint.key, *endpoint.headers.values()))
        timeout, headers = endpoint.timeout, _headers(endpoint)
        self._client = openai.AsyncOpenAI(
            api_key=endpoint.key,
            base_url=endpoint.base_url,
            timeout=openai.Timeout(timeout, connect=min(timeout, _CONNECT_SECONDS)),
            max_retries=0,
            default_headers=headers,
            _enforce_credentials=False,
        )
        # The SDK wants a call without a key to say so itself.
        self._extra: dict[str, Any] = {} if "Authorization" in headers else {"Authorization": openai.Omit()}
        if endpoint.provider != "openai":
            # The SDK takes these from the environment; they are nobody else's business.
            self._client.organization = self._client.project = None

    def __repr__(self) -> str:
        return f"OpenAiClient({self._endpoint!r})"

    async def complete(self, request: LlmRequest, *, call_id: str, deadline: float | None) -> LlmResponse:
        """One attempt. Raises as the port says."""
        body = request_body(request, self._endpoint)
        try:
            async with asyncio.timeout(self._seconds(deadline)):
                answer = await self._client.chat.completions.with_raw_response.create(**body, extra_headers=self._extra)
            data = json.loads(answer.http_response.content)
        except (*SDK_ERRORS, TimeoutError, UnicodeDecodeError) as exc:
            return self._ended(exc, request)
        return self._response(data, request, call_id)

    async def stream(
        self, request: LlmRequest, *, call_id: str, deadline: float | None
    ) -> AsyncIterator[TextDelta | LlmResponse]:
        """One attempt, its text as it comes. Raises as the port says."""
        body = request_body(request, self._endpoint) | {"stream": True, "stream_options": {"include_usage": True}}
        until = asyncio.get_running_loop().time() + self._seconds(deadline)
        assembly = Assembly()
        try:
            async with asyncio.timeout_at(until):
                chunks: Any = await self._client.chat.completions.create(**body, extra_headers=self._extra)
            async with chunks:
                while True:
                    # Only the waiting is bounded: what is done with a piece is not ours to interrupt.
                    async with asyncio.timeout_at(until):
                        chunk = await anext(chunks, None)
                    if chunk is None:
                        break
                    if text := self._add(assembly, chunk):
                        yield TextDelta(text)
        except (*SDK_ERRORS, TimeoutError) as exc:
            if assembly.said:
                raise self._errors.translate(exc) from None
            response = self._ended(exc, request)
        else:
            if not assembly.finished:
                raise self._errors.unfinished()
            response = self._response(assembly.whole(), request, call_id)
            if not assembly.said and (text := response.message.text):
                yield TextDelta(text)  # a refusal comes by a field of its own, and counts when nothing else was said
        yield response

    async def count_tokens(self, request: LlmRequest) -> int:
        """An estimate from the length: this API counts nothing beforehand."""
        images = 0
        body = request_body(request, self._endpoint)
        for message in body["messages"]:
            content = message.get("content")
            if isinstance(content, list):
                kept = [block for block in content if block["type"] == "text"]
                images += len(content) - len(kept)
                message["content"] = kept
        text = json.dumps([body["messages"], body.get("tools", [])], ensure_ascii=False)
        return math.ceil(len(text) / _CHARS_PER_TOKEN) + images * _TOKENS_PER_IMAGE

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _seconds(self, deadline: float | None) -> float:
        return self._endpoint.timeout if deadline is None else max(0.0, min(self._endpoint.timeout, deadline))

    def _add(self, assembly: Assembly, chunk: Any) -> str:
        try:
            return assembly.add(chunk.to_dict(mode="json", warnings=False))
        except _NO_REPLY:
            raise self._errors.no_completion() from None

    def _ended(self, exc: Exception, request: LlmRequest) -> LlmResponse:
        """The empty reply, if the error is how a reply ended; raises its translation otherwise."""
        stop = ending(exc)
        if stop is None:
            raise self._errors.translate(exc) from None
        return LlmResponse(message=Message(role="assistant", parts=()), stop_reason=stop, model=request.model)

    def _response(self, data: Any, request: LlmRequest, call_id: str) -> LlmResponse:
        if isinstance(data, dict) and (error := _error_in(data)) is not None:
            raise self._errors.of_error(error)
        asked = request.model.partition("/")[2]
        try:
            return response_of(data, provider=self._endpoint.provider, asked=asked, call_id=call_id)
        except _NO_REPLY:
            raise self._errors.no_completion() from None


def _error_in(data: Mapping[str, Any]) -> object | None:
    """The error that a gateway reports under status 200, instead of choices or of a reply."""
    choices = data.get("choices")
    if not choices:
        return data.get("error")
    first = choices[0] if isinstance(choices, list) and isinstance(choices[0], dict) else {}
    return first.get("error") if first.get("finish_reason") == "error" else None


def _headers(endpoint: Endpoint) -> dict[str, Any]:
    """All headers of ours; those that the SDK would take from the environment for OpenAI are left out for others."""
    headers: dict[str, Any] = {}
    if endpoint.provider != "openai":
        lines = os.environ.get("OPENAI_CUSTOM_HEADERS", "").split("\n")
        headers |= {name.strip(): openai.Omit() for line in lines if (name := line.partition(":")[0]).strip()}
    headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
    if endpoint.key:
        headers["Authorization"] = f"Bearer {endpoint.key}"
    # Of two spellings of one name both would be sent, so the SDK's is kept.
    given = {"Authorization" if name.lower() == "authorization" else name: it for name, it in endpoint.headers.items()}
    return headers | given
