"""Replies of a given shape: read, checked, mended once, and each model call made once whatever dies in between."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from rockbot.context import Context
from rockbot.errors import TemporaryFailure
from rockbot.events import LlmDelta, LlmRequest, LlmResponse, Message, StopReason, TextPart, ToolCallPart, Usage
from rockbot.llm import LlmError, LlmThrottled, TextDelta
from rockbot.plugins import Services
from rockbot.state.ledger import StateLedger
from rockbot_handlers.llm.handler import LlmHandler
from rockbot_handlers.llm.output_schemas import is_closed, is_strict, with_instructions
from rockbot_handlers.llm.plugin import contribution
from rockbot_handlers.llm.structured import read_structured
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.identity import derive_id
from rockbot_messaging.testing import FakeClock

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"count": {"type": "integer", "minimum": 1}},
    "required": ["count"],
    "additionalProperties": False,
}
ASKED = LlmRequest(
    model="test/m", messages=(Message(role="user", parts=(TextPart(text="count"),)),), output_schema=SCHEMA
)


class Model:
    """Says these texts in turn, and keeps what it was asked."""

    def __init__(self, *says: str | LlmError | LlmResponse) -> None:
        self.says = list(says)
        self.asked: list[LlmRequest] = []

    async def complete(self, request: LlmRequest, *, call_id: str, deadline: float | None) -> LlmResponse:
        self.asked.append(request)
        said = self.says.pop(0)
        if isinstance(said, LlmError):
            raise said
        return said if isinstance(said, LlmResponse) else reply(said)

    async def stream(
        self, request: LlmRequest, *, call_id: str, deadline: float | None
    ) -> AsyncIterator[TextDelta | LlmResponse]:
        whole = await self.complete(request, call_id=call_id, deadline=deadline)
        yield TextDelta(whole.message.text)
        yield whole

    async def count_tokens(self, request: LlmRequest) -> int:
        return 1

    async def close(self) -> None: ...


def reply(text: str, stop: StopReason = "end_turn", *further: Any) -> LlmResponse:
    message = Message(role="assistant", parts=(TextPart(text=text), *further))
    return LlmResponse(message=message, stop_reason=stop, usage=Usage(input_tokens=10, output_tokens=2))


@pytest.fixture
def told() -> list[LlmDelta]:
    return []


@pytest.fixture
def handler_of(make_services: Callable[..., Services], told: list[LlmDelta]) -> Callable[[Model, str], LlmHandler]:
    async def signal(envelope: MessageEnvelope) -> None:
        told.append(LlmDelta.model_validate_json(envelope.body))

    def make(model: Model, owner: str = "one") -> LlmHandler:
        services = dataclasses.replace(make_services(), owner=owner, signal=signal)
        (link,) = contribution(services, {"test": model}).links
        assert isinstance(link.handler, LlmHandler)
        return link.handler

    return make


@pytest.fixture
def handle(make_context: Callable[..., Context]) -> Callable[..., Any]:
    async def handle(handler: LlmHandler, request: LlmRequest = ASKED) -> LlmResponse:
        context = make_context(request, "llm.request.test.interactive")

        async def nobody(*_: object) -> None:
            raise AssertionError("the call is answered here")

        await handler.handle(request, context, nobody)
        (emission,) = context.emissions
        return LlmResponse.model_validate_json(emission.envelope.body)

    return handle


async def test_a_valid_reply_is_read_and_costs_one_call(handler_of: Any, handle: Any) -> None:
    model = Model('{"count": 3}')
    response = await handle(handler_of(model))
    assert (response.structured, response.problem, len(model.asked)) == ({"count": 3}, "", 1)
    assert response.message.text == '{"count": 3}'


async def test_a_fenced_reply_is_read_too(handler_of: Any, handle: Any) -> None:
    response = await handle(handler_of(Model('```json\n{"count": 3}\n```')))
    assert response.structured == {"count": 3}


@pytest.mark.parametrize(
    ("bad", "said"), [('{"count": 0}', "must be at least 1"), ("Three.", "no JSON"), ('{"count": NaN}', "no JSON")]
)
async def test_an_invalid_reply_is_mended_once_by_the_model_itself(
    handler_of: Any, handle: Any, told: list[LlmDelta], bad: str, said: str
) -> None:
    model = Model(bad, '{"count": 3}')
    response = await handle(handler_of(model))
    assert (response.structured, response.problem) == ({"count": 3}, "")
    assert response.usage == Usage(input_tokens=20, output_tokens=4)
    first, second = model.asked
    assert second.messages[: len(first.messages)] == first.messages
    assert [message.role for message in second.messages[len(first.messages) :]] == ["assistant", "user"]
    assert said in second.messages[-1].text
    assert told[-1].text == '{"count": 3}'
    assert told[-1].reset
    assert told[-1].attempt > told[0].attempt


async def test_a_reply_that_stays_invalid_says_why(handler_of: Any, handle: Any) -> None:
    model = Model("no", '{"count": "three"}', "never asked for")
    response = await handle(handler_of(model))
    assert response.structured is None
    assert "$.count: must be integer" in response.problem
    assert len(model.asked) == 2


async def test_a_reply_that_calls_tools_is_none_yet(handler_of: Any, handle: Any) -> None:
    call = ToolCallPart(call_id="t", tool="add", arguments={})
    model = Model(reply("First I look.", "tool_use", call))
    response = await handle(handler_of(model))
    assert (response.structured, response.problem, len(model.asked)) == (None, "", 1)


@pytest.mark.parametrize("stop", ["max_tokens", "refusal", "context_window"])
async def test_a_reply_that_is_not_whole_is_not_asked_for_again(handler_of: Any, handle: Any, stop: StopReason) -> None:
    model = Model(reply('{"count":', stop))
    response = await handle(handler_of(model))
    assert (response.stop_reason, len(model.asked)) == (stop, 1)
    assert stop in response.problem


async def test_without_a_schema_nothing_is_read(handler_of: Any, handle: Any) -> None:
    model = Model("Three.")
    response = await handle(handler_of(model), ASKED.model_copy(update={"output_schema": None}))
    assert (response.structured, response.problem) == (None, "")


async def test_a_finished_first_reply_is_not_asked_for_again_when_mending_it_failed(
    handler_of: Any, handle: Any, clock: FakeClock
) -> None:
    model = Model("no", LlmThrottled("slow", after=9), '{"count": 3}')
    handler = handler_of(model)
    with pytest.raises(TemporaryFailure) as caught:
        await handle(handler)
    assert (caught.value.after, caught.value.counted) == (9, False)
    clock.advance(10)
    assert (await handle(handler_of(model, "another"))).structured == {"count": 3}
    assert [len(asked.messages) for asked in model.asked] == [1, 3, 3]


async def test_a_worker_that_died_while_mending_leaves_the_first_reply(
    handler_of: Any, handle: Any, ledger: StateLedger, make_context: Callable[..., Context]
) -> None:
    call_id = make_context(ASKED, "llm.request.test.interactive").envelope.message_id
    await ledger.finish(derive_id(call_id, "first reply"), tenant="default", result=reply("no").to_body())
    model = Model('{"count": 3}')
    assert (await handle(handler_of(model))).structured == {"count": 3}
    assert len(model.asked) == 1


async def test_a_cancelled_call_makes_neither(
    handler_of: Any, ledger: StateLedger, make_context: Callable[..., Context]
) -> None:
    context = make_context(ASKED, "llm.request.test.interactive")
    await ledger.refuse(context.envelope.message_id, tenant="default", reason="canceled")
    model = Model("never asked for")
    await handler_of(model).handle(ASKED, context, lambda *_: None)
    assert (model.asked, context.emissions) == ([], [])


def test_null_may_be_the_value_that_was_asked_for() -> None:
    read = read_structured({"type": ["null", "integer"]}, reply("null"))
    assert (read.structured, read.problem) == (None, "")


@pytest.mark.parametrize(
    ("schema", "closed", "strict"),
    [
        (SCHEMA, True, True),
        ({**SCHEMA, "required": []}, True, False),
        ({**SCHEMA, "additionalProperties": True}, False, False),
        ({"type": "object", "properties": {"a": {"type": "string"}}}, True, False),
        ({"type": "object"}, False, False),
        ({"type": "array", "items": {"type": "object", "additionalProperties": {"type": "string"}}}, False, False),
        ({"type": ["string", "null"]}, False, False),
        ({"anyOf": [{"type": "string"}, SCHEMA]}, True, True),
        ({"properties": {}}, False, False),
    ],
)
def test_what_servers_can_be_told_of_a_schema(schema: dict[str, Any], *, closed: bool, strict: bool) -> None:
    assert (is_closed(schema), is_strict(schema)) == (closed, strict)


def test_a_schema_in_words_stands_behind_the_instructions() -> None:
    told = with_instructions(ASKED.model_copy(update={"system": "Count."})).system
    assert told.startswith("Count.\n\n")
    assert '"minimum": 1' in told
