"""What every adapter of a model provider promises to the host (`rockbot.llm.LlmClient`); each one's tests play it.

A `Stage` makes the provider behave as told. Every promise here is one that the agent's handler relies on.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import pytest

from rockbot.events import LlmRequest, LlmResponse, Message, TextPart, ThinkingPart, ToolResultPart, ToolSpec
from rockbot.llm import (
    LlmClient,
    LlmError,
    LlmPermanent,
    LlmThrottled,
    LlmTransient,
    LlmUnknownOutcome,
    TextDelta,
)

Failure = Literal["transient", "throttled", "permanent", "unknown"]

ERRORS: dict[Failure, type[LlmError]] = {
    "transient": LlmTransient,
    "throttled": LlmThrottled,
    "permanent": LlmPermanent,
    "unknown": LlmUnknownOutcome,
}
TOOLS = tuple(
    ToolSpec(name=name, description="Counts.", input_schema={"type": "object"}, toolset="math")
    for name in ("add", "subtract")
)


@dataclass(frozen=True)
class Says:
    """The model says this and calls these tools: (name, arguments)."""

    text: str = ""
    calls: tuple[tuple[str, dict[str, Any]], ...] = ()


@dataclass(frozen=True)
class Fails:
    """The attempt fails like this; `after` is what the provider asks to wait."""

    how: Failure
    after: float | None = None


@dataclass(frozen=True)
class Hangs:
    """The provider takes the call and never answers."""


Act = Says | Fails | Hangs


class Stage(Protocol):
    """One provider; `remote` when it is reached over a network."""

    model: str
    remote: bool

    def play(self, *acts: Act, streamed: bool = False) -> LlmClient:
        """The client, whose next attempts go like `acts`, one each."""
        ...

    @property
    def attempts(self) -> int:
        """How often the provider was called."""
        ...


def user(text: str) -> Message:
    return Message(role="user", parts=(TextPart(text=text),))


class ModelContract:
    """The suite. A subclass has a fixture `stage`."""

    def request(self, stage: Stage, *messages: Message) -> LlmRequest:
        return LlmRequest(model=stage.model, system="Count.", messages=messages or (user("hi"),), tools=TOOLS)

    async def ask(self, stage: Stage, client: LlmClient, *messages: Message, call_id: str = "c1") -> LlmResponse:
        return await client.complete(self.request(stage, *messages), call_id=call_id, deadline=None)

    async def test_a_reply_is_text_and_says_that_the_model_is_done(self, stage: Stage) -> None:
        response = await self.ask(stage, stage.play(Says("Hello")))
        assert (response.message.role, response.message.text) == ("assistant", "Hello")
        assert response.stop_reason == "end_turn"
        assert response.message.tool_calls == ()

    async def test_a_reply_names_its_provider_and_what_it_took(self, stage: Stage) -> None:
        response = await self.ask(stage, stage.play(Says("Hello")))
        assert response.model.partition("/")[0] == stage.model.partition("/")[0]
        assert response.model.partition("/")[2]
        assert response.usage.input_tokens > 0
        assert response.usage.output_tokens > 0

    async def test_parallel_calls_come_in_order_each_with_an_id_of_its_own(self, stage: Stage) -> None:
        wanted = (("add", {"n": 1, "text": "é"}), ("subtract", {}), ("add", {"n": [1, {"m": 2}]}))
        response = await self.ask(stage, stage.play(Says("Counting.", wanted)))
        assert tuple((call.tool, call.arguments) for call in response.message.tool_calls) == wanted
        assert len({call.call_id for call in response.message.tool_calls}) == 3
        assert all(call.call_id and not call.problem for call in response.message.tool_calls)
        assert (response.message.text, response.stop_reason) == ("Counting.", "tool_use")

    async def test_a_reply_is_the_same_after_a_journey_over_the_bus(self, stage: Stage) -> None:
        response = await self.ask(stage, stage.play(Says("So.", (("add", {"n": 1.5, "none": None}),))))
        assert LlmResponse.model_validate_json(response.to_body()) == response

    async def test_a_conversation_goes_on_with_results_errors_and_somebody_elses_thoughts(self, stage: Stage) -> None:
        client = stage.play(Says("", (("add", {"n": 1}), ("add", {"n": 2}))), Says("3"))
        first = await self.ask(stage, client)
        one, two = first.message.tool_calls
        foreign = ThinkingPart(provider="somebody", data={"thought": "secret"})
        history = (
            user("hi"),
            first.message.model_copy(update={"parts": (foreign, *first.message.parts)}),
            Message(
                role="user",
                parts=(
                    ToolResultPart(call_id=one.call_id, parts=(TextPart(text="1"),)),
                    ToolResultPart(call_id=two.call_id, parts=(TextPart(text="no"),), is_error=True),
                ),
            ),
        )
        assert (await self.ask(stage, client, *history, call_id="c2")).message.text == "3"

    @pytest.mark.parametrize("how", ["transient", "permanent", "unknown"])
    async def test_a_failure_is_told_once_and_not_tried_again(self, stage: Stage, how: Failure) -> None:
        client = stage.play(Fails(how), Says("never asked for"))
        with pytest.raises(LlmError) as caught:
            await self.ask(stage, client)
        assert type(caught.value) is ERRORS[how]
        assert str(caught.value).startswith(f"{stage.model.partition('/')[0]}: ")
        assert stage.attempts == 1

    @pytest.mark.parametrize("after", [7.0, 3600.0])
    async def test_a_throttled_call_says_how_long_to_wait_and_does_not_wait_itself(
        self, stage: Stage, after: float
    ) -> None:
        client = stage.play(Fails("throttled", after), Says("later"))
        async with asyncio.timeout(5):
            with pytest.raises(LlmThrottled) as caught:
                await self.ask(stage, client)
        assert caught.value.after == after
        assert stage.attempts == 1
        assert (await self.ask(stage, client)).message.text == "later"

    async def test_the_pieces_of_a_streamed_reply_make_its_text(self, stage: Stage) -> None:
        text = "It goes on and on, for more than one piece of it. Ünïcödé."
        client = stage.play(Says(text, (("add", {"n": 1}),)), streamed=True)
        items = [item async for item in client.stream(self.request(stage), call_id="c1", deadline=None)]
        pieces, whole = items[:-1], items[-1]
        assert isinstance(whole, LlmResponse)
        assert len(pieces) > 1
        assert "".join(piece.text for piece in pieces if isinstance(piece, TextDelta)) == whole.message.text == text
        assert [(call.tool, call.arguments) for call in whole.message.tool_calls] == [("add", {"n": 1})]
        assert whole.stop_reason == "tool_use"
        assert whole.usage.output_tokens > 0

    async def test_a_stream_fails_as_a_call_does(self, stage: Stage) -> None:
        client = stage.play(Fails("throttled", 9.0))
        with pytest.raises(LlmThrottled) as caught:
            async for _ in client.stream(self.request(stage), call_id="c1", deadline=None):
                pass
        assert caught.value.after == 9.0

    async def test_after_the_deadline_the_outcome_is_unknown(self, stage: Stage) -> None:
        if not stage.remote:
            pytest.skip("answers at once")
        client = stage.play(Hangs())
        async with asyncio.timeout(5):
            with pytest.raises(LlmUnknownOutcome, match="no answer in time"):
                await client.complete(self.request(stage), call_id="c1", deadline=0.05)

    async def test_cancelling_stays_a_cancellation(self, stage: Stage) -> None:
        if not stage.remote:
            pytest.skip("answers at once")
        task = asyncio.create_task(self.ask(stage, stage.play(Hangs())))
        async with asyncio.timeout(5):
            while not stage.attempts:
                await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def test_closing_twice_is_closing_once(self, stage: Stage) -> None:
        client = stage.play(Says("Hello"))
        await self.ask(stage, client)
        await client.close()
        await client.close()
