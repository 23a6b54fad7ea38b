"""Replies of a given shape: read, checked, and mended once by the model itself.

A first reply that is not what was asked for is a finished call, and finished calls are not made again: it has an entry of its own
in the ledger, under an id derived from the call's. So a worker that dies while the reply is being mended goes on from there.
Both hang under the call: cancelling it cancels whichever is under way.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, final

from rockbot.events import LlmRequest, LlmResponse, Message, TextPart
from rockbot.json_schema import problems
from rockbot_messaging.calls import LedgeredCalls
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.identity import derive_id

__all__ = ["StructuredCalls", "read_structured"]

logger = logging.getLogger(__name__)

Make = Callable[[LlmRequest], Awaitable[LlmResponse]]

#: Stop reasons after which there is no whole reply to read.
_UNFINISHED: Final = ("max_tokens", "refusal", "context_window")


@final
class StructuredCalls:
    """Makes model calls, and for those with a schema a second one where it is needed."""

    def __init__(self, calls: LedgeredCalls) -> None:
        self._calls = calls

    async def make(self, make: Make, request: LlmRequest, *, of: MessageEnvelope) -> LlmResponse:
        """The reply to the request that `of` carries; `make` makes one attempt at a model call. Raises what that raises.

        The tokens of both calls are the reply's.
        """
        if request.output_schema is None:
            return await make(request)

        async def first(_: int) -> bytes:
            return (await make(request)).to_body()

        call_id = of.message_id
        draft_id = derive_id(call_id, "first reply", tenant=of.tenant)
        body = await self._calls.run(draft_id, tenant=of.tenant, work=first, under=(call_id, of.root_task_id))
        draft = read_structured(request.output_schema, LlmResponse.model_validate_json(body))
        if not draft.problem or draft.stop_reason in _UNFINISHED:
            return draft
        logger.info("a structured reply is asked for again", extra={"call_id": call_id, "problem": draft.problem})
        again = read_structured(request.output_schema, await make(_mended(request, draft)))
        return again.model_copy(update={"usage": draft.usage + again.usage})


def read_structured(schema: dict[str, Any], response: LlmResponse) -> LlmResponse:
    """The reply with `structured`, or with the `problem` that it has; as it is when it calls tools."""
    if response.message.tool_calls:
        return response
    if response.stop_reason in _UNFINISHED:
        return response.model_copy(update={"problem": f"the reply is not complete: {response.stop_reason}"})
    text = _bare(response.message.text)
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as exc:
        return response.model_copy(update={"problem": f"the reply is no JSON: {exc}"})
    if found := problems(schema, value):
        return response.model_copy(update={"problem": "; ".join(found)})
    return response.model_copy(update={"structured": value})


def _mended(request: LlmRequest, draft: LlmResponse) -> LlmRequest:
    words = (
        f"That is not valid: {draft.problem}\nReply again with the whole corrected JSON value, nothing else, no tools."
    )
    said = (draft.message,) if draft.message.parts else ()
    asked = Message(role="user", parts=(TextPart(text=words),))
    return request.model_copy(update={"messages": (*request.messages, *said, asked)})


def _bare(text: str) -> str:
    """Without the code fence that some models cannot do without."""
    text = text.strip()
    if text.startswith("```") and text.endswith("```") and "\n" in text:
        return text.split("\n", 1)[1].rsplit("```", 1)[0].strip()
    return text


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON value")
