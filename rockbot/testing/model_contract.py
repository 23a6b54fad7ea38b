"""What every adapter of a model provider promises to the host (`rockbot.llm.LlmClient`); each one's tests play it.

A `Stage` makes the provider behave as told, and refuses a request that the provider would refuse: as a permanent error. Every
promise here is one that the agent's handler relies on.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Literal

import pytest

from rockbot.events import (
    ImagePart,
    LlmRequest,
    LlmResponse,
    Message,
    StopReason,
    TextPart,
    ThinkingPart,
    ToolResultPart,
)
from rockbot.llm import LlmClient, LlmError, LlmPermanent, LlmThrottled, LlmTransient, LlmUnknownOutcome, TextDelta
from rockbot.testing.model_stage import (
    COUNTED,
    ERRORS,
    PIXEL,
    TOOLS,
    Act,
    Cuts,
    Fails,
    Failure,
    Hangs,
    Says,
    Stage,
    user,
)

__all__ = ["Act", "Cuts", "Fails", "Failure", "Hangs", "ModelContract", "Says", "Stage", "user"]

ways = pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])


class ModelContract:
    """The suite. A subclass has a fixture `stage`."""

    def request(self, stage: Stage, *messages: Message, **fields: Any) -> LlmRequest:
        given = {"system": "Count.", "tools": TOOLS, **fields}
        return LlmRequest(model=stage.model, messages=messages or (user("hi"),), **given)

    async def ask(
        self,
        stage: Stage,
        client: LlmClient,
        *messages: Message,
        call_id: str = "c1",
        streamed: bool = False,
        **fields: Any,
    ) -> LlmResponse:
        request = self.request(stage, *messages, **fields)
        if not streamed:
            return await client.complete(request, call_id=call_id, deadline=None)
        pieces, whole = await self.follow(client, request, call_id=call_id)
        assert "".join(pieces) == whole.message.text
        return whole

    async def follow(
        self, client: LlmClient, request: LlmRequest, *, call_id: str = "c1"
    ) -> tuple[list[str], LlmResponse]:
        """The pieces of a streamed reply, and the reply, which comes last and once."""
        items = [item async for item in client.stream(request, call_id=call_id, deadline=None)]
        *pieces, whole = items
        assert isinstance(whole, LlmResponse)
        assert all(isinstance(piece, TextDelta) for piece in pieces)
        return [piece.text for piece in pieces if isinstance(piece, TextDelta)], whole

    # -- what is said -------------------------------------------------------------------------------------------------

    @ways
    async def test_a_reply_is_text_and_says_that_the_model_is_done(self, stage: Stage, *, streamed: bool) -> None:
        response = await self.ask(stage, stage.play(Says("Hello"), streamed=streamed), streamed=streamed)
        assert (response.message.role, response.message.text) == ("assistant", "Hello")
        assert response.stop_reason == "end_turn"
        assert response.message.tool_calls == ()

    @ways
    async def test_a_reply_names_its_provider_and_what_it_took(self, stage: Stage, *, streamed: bool) -> None:
        response = await self.ask(stage, stage.play(Says("Hello"), streamed=streamed), streamed=streamed)
        assert response.model.partition("/")[0] == stage.model.partition("/")[0]
        assert response.model.partition("/")[2]
        assert response.usage.input_tokens > 0
        assert response.usage.output_tokens > 0

    @ways
    async def test_what_came_from_the_cache_is_counted_apart(self, stage: Stage, *, streamed: bool) -> None:
        if not stage.remote:
            pytest.skip("has no cache")
        client = stage.play(Says("Hello", cached=7), Says("Hello"), streamed=streamed)
        with_cache = (await self.ask(stage, client, streamed=streamed)).usage
        without = (await self.ask(stage, client, streamed=streamed)).usage
        assert (with_cache.cache_read_tokens, without.cache_read_tokens) == (7, 0)
        assert with_cache.input_tokens == without.input_tokens

    @ways
    async def test_parallel_calls_come_in_order_each_with_an_id_of_its_own(
        self, stage: Stage, *, streamed: bool
    ) -> None:
        wanted: tuple[tuple[str, dict[str, Any] | str], ...] = (
            ("add", {"n": 1, "text": "é"}),
            ("subtract", {}),
            ("add", {"n": [1, {"m": 2}]}),
        )
        client = stage.play(Says("Counting.", wanted), streamed=streamed)
        response = await self.ask(stage, client, streamed=streamed)
        assert tuple((call.tool, call.arguments) for call in response.message.tool_calls) == wanted
        assert len({call.call_id for call in response.message.tool_calls}) == 3
        assert all(call.call_id and not call.problem for call in response.message.tool_calls)
        assert (response.message.text, response.stop_reason) == ("Counting.", "tool_use")

    async def test_arguments_that_are_no_json_are_a_problem_for_the_model_and_no_failure(self, stage: Stage) -> None:
        if not stage.remote:
            pytest.skip("writes no arguments")
        client = stage.play(Says("", (("add", '{"n": '), ("subtract", {"n": 2}))), streamed=True)
        bad, good = (await self.ask(stage, client, streamed=True)).message.tool_calls
        assert (bad.tool, bad.arguments, bool(bad.problem)) == ("add", {}, True)
        assert (good.tool, good.arguments, good.problem) == ("subtract", {"n": 2}, "")

    async def test_a_reply_is_the_same_after_a_journey_over_the_bus(self, stage: Stage) -> None:
        response = await self.ask(stage, stage.play(Says("So.", (("add", {"n": 1.5, "none": None}),))))
        assert LlmResponse.model_validate_json(response.to_body()) == response

    @ways
    @pytest.mark.parametrize("stop", ["max_tokens", "refusal", "context_window"])
    async def test_why_a_model_stopped_is_told_and_a_call_that_may_be_cut_off_is_not_made(
        self, stage: Stage, stop: StopReason, *, streamed: bool
    ) -> None:
        if stop == "context_window" and not stage.model.startswith(("anthropic/", "scripted/")):
            pytest.skip("says so by an error")
        client = stage.play(Says("So far", (("add", {"n": 1}),), stop=stop), streamed=streamed)
        response = await self.ask(stage, client, streamed=streamed)
        assert (response.stop_reason, response.message.text) == (stop, "So far")
        if stage.remote:
            assert response.message.tool_calls == ()

    # -- conversations ------------------------------------------------------------------------------------------------

    @ways
    async def test_a_conversation_goes_on_with_results_errors_and_somebody_elses_thoughts(
        self, stage: Stage, *, streamed: bool
    ) -> None:
        acts = Says("", (("add", {"n": 1}), ("add", {"n": 2}))), Says("3")
        client = stage.play(*acts, streamed=streamed)
        first = await self.ask(stage, client, streamed=streamed)
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
        assert (await self.ask(stage, client, *history, call_id="c2", streamed=streamed)).message.text == "3"

    @ways
    async def test_thoughts_come_before_what_they_led_to_and_go_back_unharmed(
        self, stage: Stage, *, streamed: bool
    ) -> None:
        if not stage.thinks:
            pytest.skip("shows no reasoning")
        thinking = "Let me see. Ünïcödé, and more than one piece of it."
        client = stage.play(
            Says("I add.", (("add", {"n": 1}),), thinking=thinking), Says("1", thinking="Done."), streamed=streamed
        )
        first = await self.ask(stage, client, streamed=streamed)
        assert [part.kind for part in first.message.parts] == ["thinking", "text", "tool_call"]
        (call,) = first.message.tool_calls
        result = ToolResultPart(call_id=call.call_id, parts=(TextPart(text="1"),))
        # A stage refuses thoughts that are not those it had.
        stored = LlmResponse.model_validate_json(first.to_body()).message
        history = (user("hi"), stored, Message(role="user", parts=(result,)))
        last = await self.ask(stage, client, *history, call_id="c2", streamed=streamed)
        assert last.message.text == "1"

    async def test_thoughts_that_led_to_nothing_do_not_break_the_conversation(self, stage: Stage) -> None:
        if not stage.thinks:
            pytest.skip("shows no reasoning")
        cut = Says("", (("add", {"n": 1}),), thinking="I had better", stop="max_tokens")
        client = stage.play(cut, Says("Here."))
        first = await self.ask(stage, client)
        history = (user("hi"), first.message, user("go on"))
        assert (await self.ask(stage, client, *history, call_id="c2")).message.text == "Here."

    async def test_images_may_stand_in_what_the_user_says_and_in_what_a_tool_answers(self, stage: Stage) -> None:
        client = stage.play(Says("", (("add", {}),)), Says("A pixel, twice."))
        picture = ImagePart(media_type="image/png", data=PIXEL)
        asked = Message(role="user", parts=(TextPart(text="What is it?"), picture))
        first = await self.ask(stage, client, asked)
        (call,) = first.message.tool_calls
        result = ToolResultPart(call_id=call.call_id, parts=(TextPart(text="see"), picture))
        history = (asked, first.message, Message(role="user", parts=(result,)))
        assert (await self.ask(stage, client, *history, call_id="c2")).message.text == "A pixel, twice."

    async def test_an_image_without_content_is_a_permanent_error(self, stage: Stage) -> None:
        if not stage.remote:
            pytest.skip("looks at no images")
        empty = Message(role="user", parts=(TextPart(text="See:"), ImagePart(media_type="image/png")))
        with pytest.raises(LlmPermanent, match="neither data nor url"):
            await self.ask(stage, stage.play(Says("never asked for")), empty)

    @ways
    async def test_a_reply_of_a_given_shape_is_asked_for_in_a_way_that_the_provider_takes(
        self, stage: Stage, *, streamed: bool
    ) -> None:
        for schema, text in (
            (COUNTED, '{"count": 3}'),
            ({"type": "object", "properties": {"count": {"type": ["integer", "null"], "minimum": 0}}}, '{"count": 4}'),
        ):
            client = stage.play(Says(text), streamed=streamed)
            response = await self.ask(stage, client, tools=(), output_schema=schema, streamed=streamed)
            assert response.message.text == text

    # -- failures -----------------------------------------------------------------------------------------------------

    @ways
    @pytest.mark.parametrize("how", ["transient", "permanent", "unknown"])
    async def test_a_failure_is_told_once_and_not_tried_again(
        self, stage: Stage, how: Failure, *, streamed: bool
    ) -> None:
        client = stage.play(Fails(how), Says("never asked for"), streamed=streamed)
        with pytest.raises(LlmError) as caught:
            await self.ask(stage, client, streamed=streamed)
        assert type(caught.value) is ERRORS[how]
        assert str(caught.value).startswith(f"{stage.model.partition('/')[0]}: ")
        assert stage.attempts == 1

    @ways
    @pytest.mark.parametrize("after", [7.0, 3600.0])
    async def test_a_throttled_call_says_how_long_to_wait_and_does_not_wait_itself(
        self, stage: Stage, after: float, *, streamed: bool
    ) -> None:
        client = stage.play(Fails("throttled", after), Says("later"), streamed=streamed)
        async with asyncio.timeout(5):
            with pytest.raises(LlmThrottled) as caught:
                await self.ask(stage, client, streamed=streamed)
        assert caught.value.after == after
        assert stage.attempts == 1
        assert (await self.ask(stage, client, streamed=streamed)).message.text == "later"

    @ways
    async def test_a_conversation_that_does_not_fit_is_a_reply_that_says_so(
        self, stage: Stage, *, streamed: bool
    ) -> None:
        if not stage.remote:
            pytest.skip("has no window")
        client = stage.play(Fails("context_window"), streamed=streamed)
        response = await self.ask(stage, client, streamed=streamed)
        assert (response.stop_reason, response.message.parts) == ("context_window", ())
        assert response.model == stage.model

    async def test_the_pieces_of_a_streamed_reply_make_its_text(self, stage: Stage) -> None:
        text = "It goes on and on, for more than one piece of it. Ünïcödé."
        client = stage.play(Says(text, (("add", {"n": 1}),)), streamed=True)
        pieces, whole = await self.follow(client, self.request(stage))
        assert len(pieces) > 1
        assert "".join(pieces) == whole.message.text == text

    @pytest.mark.parametrize(
        ("how", "expected"),
        [
            ("connection", (LlmUnknownOutcome,)),
            ("end", (LlmUnknownOutcome,)),
            ("overloaded", (LlmThrottled, LlmTransient, LlmUnknownOutcome)),
        ],
    )
    async def test_a_stream_that_ends_in_the_middle_is_no_reply(
        self,
        stage: Stage,
        how: Literal["connection", "end", "overloaded"],
        expected: tuple[type[LlmError], ...],
    ) -> None:
        if not stage.remote:
            pytest.skip("is not cut")
        client = stage.play(Cuts("The answer is", how), streamed=True)
        said: list[str] = []
        with pytest.raises(LlmError) as caught:
            async for item in client.stream(self.request(stage), call_id="c1", deadline=None):
                assert isinstance(item, TextDelta)
                said.append(item.text)
        assert type(caught.value) in expected
        assert "".join(said) == "The answer is"

    # -- time ---------------------------------------------------------------------------------------------------------

    @ways
    async def test_after_the_deadline_the_outcome_is_unknown(self, stage: Stage, *, streamed: bool) -> None:
        if not stage.remote:
            pytest.skip("answers at once")
        client = stage.play(Hangs())
        request = self.request(stage)
        async with asyncio.timeout(5):
            with pytest.raises(LlmUnknownOutcome, match="no answer in time"):
                if streamed:
                    async for _ in client.stream(request, call_id="c1", deadline=0.05):
                        pass
                else:
                    await client.complete(request, call_id="c1", deadline=0.05)

    async def test_whoever_takes_long_over_a_piece_is_not_interrupted(self, stage: Stage) -> None:
        client = stage.play(Says("Piece by piece, until it is whole."), streamed=True)
        loop = asyncio.get_running_loop()
        stream = client.stream(self.request(stage), call_id="c1", deadline=0.3)
        over = asyncio.Event()
        loop.call_later(0.35, over.set)
        with suppress(LlmUnknownOutcome):  # the next piece may come too late; that is said where it was waited for
            async for _ in stream:
                await over.wait()
        assert over.is_set()

    async def test_cancelling_stays_a_cancellation(self, stage: Stage) -> None:
        if not stage.remote:
            pytest.skip("answers at once")
        task = asyncio.create_task(self.ask(stage, stage.play(Hangs())))
        async with asyncio.timeout(5):
            while not stage.attempts:  # noqa: ASYNC110 - the provider tells nobody that it was called
                await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def test_tokens_are_counted_before_a_call(self, stage: Stage) -> None:
        client = stage.play(Says("one"), Says("two"))
        short = await client.count_tokens(self.request(stage, user("hi")))
        long = await client.count_tokens(self.request(stage, user("hi there " * 100)))
        assert 0 < short < long

    async def test_closing_twice_is_closing_once(self, stage: Stage) -> None:
        client = stage.play(Says("Hello"))
        await self.ask(stage, client)
        await client.close()
        await client.close()
