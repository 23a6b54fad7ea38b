"""The agent, the dispatcher and the host together, over the in-memory bus and both stores."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from core.links import Link
from core.town import ADD, Town, Worker, obedient, opened_town

from rockbot.chain import Order
from rockbot.context import Context
from rockbot.errors import ConfigError
from rockbot.events import (
    Event,
    LlmRequest,
    LlmResponse,
    Message,
    TextPart,
    ToolResult,
)
from rockbot.handler import CallNext
from rockbot.plugins import Contribution, Services
from rockbot.plugins import Link as Registration
from rockbot.state.keys import segment_key
from rockbot_handlers.llm.plugin import plugin as llm_plugin
from rockbot_messaging.envelope import MessageEnvelope, ReturnAddress


@pytest.fixture(params=["memory", "sqlite"])
async def town(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Town]:
    async with opened_town(request.param, tmp_path) as made:
        yield made


async def test_a_task_comes_back_answered_by_model_and_tool(town: Town) -> None:
    worker = Worker()
    await town.host(worker.plugin)
    await town.say("use it")
    (response,) = await town.answered(1)
    assert (response.status, response.output, response.model_calls, response.tool_calls) == (
        "completed",
        "you said 42",
        2,
        1,
    )
    assert len(worker.calls) == 3


async def test_a_reply_to_gets_the_answer_with_its_correlation_id(town: Town) -> None:
    await town.host(Worker().plugin)
    await town.say("hi", reply_to=town.address, correlation_id="c-7")
    await town.answered(1)
    envelope, response = town.answers[0]
    assert (envelope.correlation_id, response.output) == ("c-7", "you said hi")


async def test_a_reply_to_that_names_a_queue_of_ours_is_a_dead_letter(town: Town) -> None:
    await town.host(Worker().plugin)
    await town.say("hi", reply_to="rockbot.agent.assistant")
    (letter,) = await town.letters("agent.assistant")
    assert "names a queue of this host" in letter.failure.reason


async def test_copies_of_a_task_are_one_task(town: Town) -> None:
    worker = Worker()
    await town.host(worker.plugin)
    for _ in range(3):
        await town.say("hi", id="same")
    await town.say("second", id="other")
    assert len(await town.answered(2)) == 2
    assert sorted(response.task_id for _, response in town.answers) == ["other", "same"]
    assert len(set(worker.calls)) == 2, "a copy led to a call of its own"


async def test_many_tasks_in_one_conversation_are_answered_in_order_by_two_replicas(town: Town) -> None:
    workers = Worker(), Worker()
    for worker in workers:
        agents = {"assistant": {"when_busy": "queue"}}
        await town.host(worker.plugin, agents=agents)
    for number in range(10):
        await town.say(f"use {number}", conversation_id="talk")
    responses = await town.answered(10)
    assert sorted(response.task_id for response in responses) == sorted(f"task-use {number}" for number in range(10))
    calls = [call for worker in workers for call in worker.calls]
    assert len(set(calls)) == 30


async def test_a_conversation_continues_on_another_host(town: Town) -> None:
    seen: list[int] = []

    def counting(request: LlmRequest) -> LlmResponse:
        seen.append(len(request.messages))
        return obedient(request)

    first = await town.host(Worker(counting).plugin)
    await town.say("one", conversation_id="talk")
    await town.answered(1)
    await first.close()
    await town.host(Worker(counting).plugin)
    await town.say("two", conversation_id="talk")
    await town.answered(2)
    assert seen == [1, 3]


async def test_a_dead_step_stalls_its_turn_and_a_replay_resumes_it(town: Town) -> None:
    worker = Worker()
    worker.broken = True
    host = await town.host(worker.plugin)
    await town.say("hi", id="t")
    (letter,) = await town.letters("llm.scripted.interactive")
    await town.until_status("t", "stalled")
    town.clock.advance(5 * 86_400)  # far beyond the task's own deadline
    await host._sweeper.run_once()
    await host._recovery.run_once()
    assert len(await town.letters("llm.scripted.interactive")) == 1, "recovery brought a second letter"
    worker.broken = False
    await town.client.dead_letters.replay("llm.scripted.interactive", letter.id)
    (response,) = await town.answered(1)
    assert (response.status, response.output) == ("completed", "you said hi")
    assert worker.calls == [letter.id], "its deadline moved with it, so the very call was made"


async def test_a_conversation_longer_than_a_message_reaches_its_model_whole_or_waits_until_it_is_mended(
    town: Town,
) -> None:
    """The scripted model counts the words it is shown as tokens."""
    await town.host(llm_plugin, host={"max_body_bytes": 8192}, handlers=("agent", "llm"))
    for number in range(1, 7):
        await town.say("word " * 1000, id=f"t{number}", conversation_id="talk")
        responses = await town.answered(number)
    assert responses[-1].status == "completed"
    assert responses[-1].usage.input_tokens > 6000

    await town.hosts.pop().close()  # with what it has in its cache
    await town.host(llm_plugin, host={"max_body_bytes": 8192}, handlers=("agent", "llm"))
    sealed = segment_key("default", "talk", 2)
    entry = await town.store.get(sealed)
    assert entry is not None
    await town.store.delete(sealed)
    await town.say("and now?", id="last", conversation_id="talk")
    (letter,) = await town.letters("llm.scripted.interactive")
    assert "segment 2 of conversation 'talk' is not in the state store" in letter.failure.reason
    await town.until_status("last", "stalled")
    await town.store.put(sealed, entry.value)
    await town.client.dead_letters.replay("llm.scripted.interactive", letter.id)
    response = (await town.answered(7))[-1]
    assert (response.task_id, response.status) == ("last", "completed")
    assert response.usage.input_tokens > 6000


async def test_a_deadline_ends_a_turn_whose_worker_never_answers(town: Town) -> None:
    class Deaf(Worker):
        async def act(self, event: Event, context: Context, call_next: CallNext) -> None:
            self.calls.append(context.envelope.message_id)

    worker = Deaf()
    host = await town.host(worker.plugin)
    await town.say("hi", id="t", deadline_ms=town.clock.now_ms() + 5000)
    await town.until_status("t", "accepted")
    town.clock.advance(6)
    await host._sweeper.run_once()
    (response,) = await town.answered(1)
    assert response.status == "expired"
    assert await town.status("t") == "expired"


async def test_a_tool_whose_workers_are_gone_is_an_error_for_the_model(town: Town) -> None:
    class Elsewhere(Worker):
        def plugin(self, services: Services) -> Contribution:
            return Contribution(
                links=(Registration(Order.WORK, "worker", Link(self.act, LlmRequest)),),
                subscriptions=super().plugin(services).subscriptions[:1],
                tools=(ADD,),
            )

    await town.host(Elsewhere().plugin)
    await town.say("use it")
    (response,) = await town.answered(1)
    assert response.output == "you said no worker offers the tool 'add' at the moment"


async def test_a_forged_token_is_one_dead_letter_and_no_loop(town: Town) -> None:
    await town.host(Worker().plugin)
    for token in ("garbage", "[]"):
        forged = MessageEnvelope(
            topic="agent.step.assistant",
            body=ToolResult().to_body(),
            message_id=f"forged-{token}",
            type=ToolResult.type_name,
            return_address=ReturnAddress("agent.step.assistant", token),
        )
        await town.client.publisher.publish(forged)
    letters = await town.letters("agent.assistant", 4)
    await town.say("still here?")
    await town.answered(1)
    assert len(await town.letters("agent.assistant")) == len(letters) == 4  # each with the notice of its own death
    assert {letter.failure.error_type for letter in letters} == {"PermanentFailure"}


async def test_a_tenant_never_sees_the_conversation_of_another(town: Town) -> None:
    await town.host(Worker().plugin)
    for tenant in ("a", "b"):
        await town.say(f"hi from {tenant}", conversation_id="shared", tenant=tenant)
    await town.answered(2)
    assert {envelope.tenant for envelope, _ in town.answers} == {"a", "b"}
    assert all(response.model_calls == 1 for _, response in town.answers)


async def test_equal_message_ids_of_two_tenants_are_two_tasks_with_two_answers(town: Town) -> None:
    worker = Worker()
    await town.host(worker.plugin)
    for tenant in ("default", "a", "b"):
        await town.say("use it", id="same", tenant=tenant)
    await town.answered(3)
    assert {envelope.tenant for envelope, _ in town.answers} == {"default", "a", "b"}
    assert all(response.status == "completed" for _, response in town.answers)
    assert len(set(worker.calls)) == len(worker.calls) == 9


async def test_a_request_beyond_the_bus_limit_is_answered_and_leaves_no_letter(town: Town) -> None:
    await town.host(Worker().plugin, host={"max_body_bytes": 4096}, agents={"assistant": {"instructions": "x" * 4096}})
    await town.say("hi", id="large", conversation_id="talk")
    (response,) = await town.answered(1)
    assert response.error
    assert (response.status, response.error.code) == ("failed", "too_large")
    assert await town.status("large") == "failed"
    for queue in ("agent.assistant", "llm.scripted.interactive"):
        assert not await town.client.dead_letters.letters(queue)


async def test_an_answer_beyond_the_bus_limit_arrives_cut(town: Town) -> None:
    def talkative(request: LlmRequest) -> LlmResponse:
        return LlmResponse(message=Message(role="assistant", parts=(TextPart(text="\u20ac" * 1200),)))

    await town.host(Worker(talkative).plugin, host={"max_body_bytes": 4096})
    await town.say("hi", reply_to=town.address)
    (response,) = await town.answered(1)
    kept = response.output.partition("[")[0]
    assert response.output == f"{kept}[truncated, {1200 - len(kept)} chars omitted]"
    assert 400 < len(kept) < 1200
    assert not await town.client.dead_letters.letters("agent.assistant")


async def test_the_waiting_list_is_as_long_as_the_setting_says(town: Town) -> None:
    worker = Worker()
    worker.broken = True
    await town.host(worker.plugin, agents={"assistant": {"max_waiting": 1}})
    for number in range(4):
        await town.say(f"{number}", conversation_id="talk")
    responses = await town.answered(2)
    assert {response.error.code for response in responses if response.error} == {"busy"}


@pytest.mark.parametrize(
    ("changed", "shown"),
    [
        ({"context_window": 20_000}, 5),
        ({"compact_at": 1.0}, 5),
        ({"keep_recent": 1}, 2),
        ({}, 4),
    ],
)
async def test_context_window_compact_at_and_keep_recent_say_when_and_how_far_a_conversation_is_summarised(
    town: Town, changed: dict[str, Any], shown: int
) -> None:
    heard: list[LlmRequest] = []

    def model(request: LlmRequest) -> LlmResponse:
        heard.append(request)
        text = "a summary" if request.role == "memory" else "yes"
        return LlmResponse(message=Message(role="assistant", parts=(TextPart(text=text),)))

    agent = {"instructions": "", "context_window": 2000, "max_output_tokens": 500, "compact_at": 0.5, "keep_recent": 3}
    await town.host(Worker(model).plugin, agents={"assistant": agent | changed})
    for number, text in enumerate(("x" * 3150, "y" * 300, "z" * 400), start=1):
        await town.say(text, id=f"t{number}", conversation_id="talk")
        await town.answered(number)
    assert len(heard[-1].messages) == shown
    assert sum(request.role == "memory" for request in heard) == (shown < 5)


async def test_a_token_that_no_key_can_be_made_of_is_a_dead_letter_at_once(town: Town) -> None:
    await town.host(Worker().plugin)
    forged = MessageEnvelope(
        topic="agent.step.assistant",
        body=ToolResult().to_body(),
        message_id="forged",
        type=ToolResult.type_name,
        return_address=ReturnAddress("nobody.here", r'["\ud800","x"]'),
    )
    await town.client.publisher.publish(forged)
    (letter,) = await town.letters("agent.assistant")
    assert (letter.failure.error_type, letter.failure.attempt) == ("PermanentFailure", 1)
    assert "is not one of ours" in letter.failure.reason


async def test_a_host_that_cannot_start_closes_what_it_opened(town: Town) -> None:
    closed: list[str] = []

    async def close() -> None:
        closed.append("plugin")

    def plugin(services: Services) -> Contribution:
        return Contribution(close=close)

    with pytest.raises(ConfigError, match=r"host\.health_port"):
        await town.host(plugin, host={"health_host": "256.256.256.256", "health_port": 1})
    assert closed == ["plugin"]
