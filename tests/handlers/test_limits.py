"""Limits of a day: reserved before a call and settled after it, over all hosts, whatever is killed or delivered again."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from core.links import Link
from handlers.model_floor import Floor, FloorModel, said

from rockbot.context import Context
from rockbot.errors import ConfigError
from rockbot.events import (
    AgentResponse,
    AgentTask,
    Event,
    LlmRequest,
    LlmResponse,
    Message,
    StepRefused,
    TextPart,
    ToolCallPart,
    ToolInvoke,
    ToolResult,
    Usage,
)
from rockbot.handler import CallNext
from rockbot.llm import LlmThrottled, LlmUnknownOutcome
from rockbot.plugins import Services
from rockbot.settings_models import LimitsSettings
from rockbot.state.items import AmountItem
from rockbot.state.keys import Key, key
from rockbot.state.ledger import StateLedger
from rockbot_handlers.agent.plugin import plugin as agent_plugin
from rockbot_handlers.limits.accounts import allowances, day_of
from rockbot_handlers.limits.measuring import LimitMeasures
from rockbot_handlers.limits.old_days import OldDays
from rockbot_handlers.limits.plugin import plugin
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.measures import Counters, Names
from rockbot_messaging.ports import Door
from rockbot_messaging.subscriptions import WatchSubscription
from rockbot_messaging.verdicts import Ack, Verdict

AGENTS = {"assistant": {"model": "a/x"}}
PRICES = {"models": {"a/x": {"input": 0, "output": 1_000_000}, "b/y": {"input": 0, "output": 1_000_000}}}


@pytest.fixture
async def floor() -> AsyncIterator[Floor]:
    made = Floor()
    await made.open()
    yield made
    await made.close()


async def opened(floor: Floor, model: FloorModel, **limits: Any) -> None:
    settings = {"agents": AGENTS, "prices": PRICES, "limits": limits, "host": {"llm_concurrency": 50}}
    await floor.host({"a": model}, plugin, **settings)


def day(floor: Floor) -> str:
    return datetime.datetime.fromtimestamp(floor.clock.now_ms() / 1000, datetime.UTC).date().isoformat()


def counter(floor: Floor, scope: str, name: str, counted: str, tenant: str = "host") -> Key:
    return key(tenant, "limit", day(floor), scope, name, counted)


async def taken(floor: Floor, at: Key) -> float:
    return (await floor.store.reserve(at, 0, limit=1e9, id="a look", ttl=0.001)).taken


def outcomes(floor: Floor) -> tuple[int, int]:
    """How many calls were answered, and how many refused."""
    refused = sum(isinstance(answer, StepRefused) for answer in floor.answers.values())
    return len(floor.answers) - refused, refused


async def test_fifty_parallel_calls_on_two_hosts_never_exceed_one_daily_limit(floor: Floor) -> None:
    def say(request: LlmRequest) -> LlmResponse:
        return said("ok", output_tokens=int(request.messages[-1].text.rpartition("-")[2]) % 7)

    model = FloorModel(say)
    for _ in range(2):
        await opened(floor, model, agents={"*": {"money": 40, "model_calls": 1000}})
    for number in range(50):
        await floor.ask(f"call-{number}", max_output_tokens=6)
    await floor.until_answered(50)
    made, refused = outcomes(floor)
    spent = sum(answer.cost or 0 for answer in floor.answers.values() if isinstance(answer, LlmResponse))
    assert made + refused == 50
    assert made > 3
    assert spent <= 40
    assert await taken(floor, counter(floor, "agents", "assistant", "money")) == pytest.approx(spent)
    assert await taken(floor, counter(floor, "agents", "assistant", "model_calls")) == made == len(model.made)


async def test_fifty_parallel_turns_on_two_hosts_keep_one_daily_limit_and_say_why_they_ended(floor: Floor) -> None:
    def say(request: LlmRequest) -> LlmResponse:
        answered = len(request.messages) > 1
        text = "the end" if answered else "a beginning"
        call = () if answered else (ToolCallPart(call_id="t", tool="unheard_of", arguments={}),)
        return LlmResponse(
            message=Message(role="assistant", parts=(TextPart(text=text), *call)),
            stop_reason="end_turn" if answered else "tool_use",
            usage=Usage(output_tokens=4),
        )

    responses: list[AgentResponse] = []

    async def hear(envelope: MessageEnvelope) -> Verdict:
        responses.append(AgentResponse.model_validate_json(envelope.body))
        return Ack()

    await floor.client.subscriber.subscribe(WatchSubscription(name="end", patterns=("agent.response.*",)), hear)
    await floor.leave_the_agent_to_its_host()
    agents = {"assistant": {"model": "a/x", "max_output_tokens": 5}}
    for _ in range(2):
        limits = {"agents": {"*": {"money": 300}}}
        await floor.host({"a": FloorModel(say)}, plugin, agent_plugin, agents=agents, prices=PRICES, limits=limits)
    for number in range(50):
        task = AgentTask(input="hello", conversation_id=f"talk-{number}")
        await floor.client.publisher.publish(
            MessageEnvelope(topic="agent.task", body=task.to_body(), message_id=f"task-{number}", type=task.type_name),
            door=Door.PUBLIC,
        )
    for _ in range(100):
        if len(responses) >= 50:
            break
        await floor.run(1)
    assert len(responses) == 50
    completed = [response for response in responses if response.status == "completed"]
    failed = [response for response in responses if response.status == "failed"]
    assert completed
    assert len(completed) + len(failed) == 50
    assert sum(response.cost or 0 for response in responses) <= 300
    assert await taken(floor, counter(floor, "agents", "assistant", "money")) <= 300
    for response in failed:
        assert response.error is not None
        assert (response.error.code, response.output) == ("limit", "a beginning" if response.model_calls > 1 else "")
        assert "limits.agents.assistant.money" in response.error.message


async def test_a_call_counts_although_a_waiting_copy_of_it_gave_back_what_it_had_reserved(floor: Floor) -> None:
    async def say(request: LlmRequest) -> LlmResponse:
        # So does a copy on another host which found no slot for it.
        for limit in allowances(LimitsSettings.model_validate(limits), agent="assistant", user="", tenant="default"):
            assert await floor.store.settle(limit.reservation("one", "default"), 0)
        return said("ok", output_tokens=3)

    limits = {"all": {"model_calls": 1, "money": 100}}
    model = FloorModel(say)
    await opened(floor, model, **limits)
    await floor.ask("one", max_output_tokens=6)
    await floor.settle()
    assert await taken(floor, counter(floor, "all", "all", "money")) == 3
    await floor.ask("two", max_output_tokens=6)
    await floor.settle()
    assert model.asked == ["one"]
    assert isinstance(floor.answers["two"], StepRefused)


async def test_a_call_that_does_not_fit_is_not_made_and_its_turn_is_told(floor: Floor) -> None:
    model = FloorModel()
    await opened(floor, model, users={"ann": {"model_calls": 1}})
    for call, user in (("one", "ann"), ("two", "ann"), ("three", "bob")):
        await floor.ask(call, user=user)
        await floor.settle()
    assert model.asked == ["one", "three"]
    refusal = floor.answers["two"]
    assert isinstance(refusal, StepRefused)
    assert (refusal.code, refusal.limit, refusal.permanent, refusal.message_id) == (
        "limit",
        "limits.users.ann.model_calls",
        False,
        "two",
    )
    assert "1 model calls a day" in refusal.message


async def test_the_next_day_is_a_new_one(floor: Floor) -> None:
    model = FloorModel()
    await opened(floor, model, all={"model_calls": 1})
    await floor.ask("one")
    await floor.ask("two")
    await floor.settle()
    assert len(model.made) == 1
    floor.clock.advance(86_400)
    await floor.ask("three")
    await floor.settle()
    assert model.asked[1:] == ["three"]


async def test_a_limit_that_nobody_asked_for_since_its_day_ended_is_told_to_be_whole(floor: Floor) -> None:
    counters = Counters()
    measures = LimitMeasures(counters)
    (limit,) = allowances(LimitsSettings(all={"tokens": 100}), agent="a", user="", tenant="default")  # type: ignore[arg-type]
    today = datetime.date.fromisoformat(day(floor))
    measures.taken(limit, 90, today)
    await measures.look(floor.store)
    assert counters.value(Names.LIMIT_LEFT, limit="limits.all.tokens") == pytest.approx(0.1)
    floor.clock.advance(86_400)
    await measures.look(floor.store)
    assert counters.value(Names.LIMIT_LEFT, limit="limits.all.tokens") == 1
    measures.taken(limit, 30, today + datetime.timedelta(days=1))
    await measures.look(floor.store)
    assert counters.value(Names.LIMIT_LEFT, limit="limits.all.tokens") == pytest.approx(0.7)


async def test_days_are_forgotten_a_week_after_their_end_on_one_replica(floor: Floor) -> None:
    most = {"model_calls": 9}
    await opened(floor, FloorModel(), all=most, users={"*": most}, tenants={"default": most})
    for number in range(12):
        await floor.ask(f"call-{number}", user="ann")
        await floor.settle()
        floor.clock.advance(86_400)
    other = key("acme", "limit", "of another kind")
    await floor.store.reserve(other, 1, limit=1, id="other", ttl=60)
    await floor.store.settle("other", 1)
    sweeps = [OldDays(floor.store, owner=owner) for owner in "ab"]
    assert [await each.sweep() for each in sweeps] == [3 * 4, 0]
    left = [item.key for item in (await floor.store.dump("amount")).items if isinstance(item, AmountItem)]
    days = {day_of(each) for each in left} - {None}
    today = datetime.date.fromisoformat(day(floor))
    assert days == {today - datetime.timedelta(days=ago) for ago in range(1, 9)}
    assert len(left) == 3 * 8 + 1


async def test_what_a_call_did_not_take_is_free_again(floor: Floor) -> None:
    model = FloorModel(lambda request: said("ok", input_tokens=10, output_tokens=5))
    await opened(floor, model, tenants={"default": {"tokens": 1100}})
    for number in range(5):
        await floor.ask(f"call-{number}", max_output_tokens=900)
        await floor.settle()
    assert len(model.made) == 5
    assert await taken(floor, counter(floor, "tenants", "default", "tokens", "default")) == 75


async def test_a_finished_call_is_answered_again_although_nothing_is_left(floor: Floor) -> None:
    model = FloorModel()
    await opened(floor, model, all={"model_calls": 1})
    # Its worker died between writing down the result and settling, and somebody else took what was left.
    await StateLedger(floor.store).finish("call", tenant="default", result=said("done").to_body())
    await floor.store.reserve(counter(floor, "all", "all", "model_calls"), 1, limit=1, id="somebody", ttl=60)
    await floor.ask("call")
    await floor.settle()
    answer = floor.answers["call"]
    assert isinstance(answer, LlmResponse)
    assert (answer.message.text, model.made) == ("done", [])


async def test_a_copy_takes_nothing_more(floor: Floor) -> None:
    model = FloorModel()
    await opened(floor, model, all={"model_calls": 1})
    for _ in range(3):
        await floor.ask("call")
        await floor.settle()
    assert (outcomes(floor), len(model.made)) == ((1, 0), 1)


async def test_what_a_killed_worker_reserved_is_free_after_an_hour(floor: Floor) -> None:
    model = FloorModel()
    await opened(floor, model, all={"model_calls": 1})
    await floor.store.reserve(counter(floor, "all", "all", "model_calls"), 1, limit=1, id="killed", ttl=3600)
    await floor.ask("early")
    await floor.settle()
    assert outcomes(floor) == (0, 1)
    floor.clock.advance(3600)
    await floor.ask("late")
    await floor.settle()
    assert model.asked == ["late"]


async def test_a_call_that_waits_for_its_backend_reserves_nothing_meanwhile(floor: Floor) -> None:
    def say(request: LlmRequest) -> LlmResponse:
        raise LlmThrottled("too many", after=100)

    model = FloorModel(say)
    await opened(floor, model, all={"model_calls": 1})
    await floor.ask("call")
    await floor.settle()
    assert await taken(floor, counter(floor, "all", "all", "model_calls")) == 0


async def test_a_call_whose_end_is_unknown_keeps_what_it_reserved_and_takes_it_once(floor: Floor) -> None:
    errors = [LlmUnknownOutcome("cut")]

    def say(request: LlmRequest) -> LlmResponse:
        if errors:
            raise errors.pop()
        return said("ok")

    await opened(floor, FloorModel(say), all={"model_calls": 1})
    await floor.ask("call")
    await floor.settle()
    assert await taken(floor, counter(floor, "all", "all", "model_calls")) == 1
    await floor.until_answered(1)
    assert outcomes(floor) == (1, 0)


async def test_watchers_are_told_at_80_and_at_100_percent_once_each(floor: Floor) -> None:
    await opened(floor, FloorModel(), agents={"assistant": {"model_calls": 10}})
    for number in range(14):
        await floor.ask(f"call-{number}")
        await floor.settle()
    told = [status["text"] for status in floor.statuses if status["kind"] == "limit"]
    assert [text.partition(" of ")[0] for text in told] == ["80%", "100%"]
    assert "limits.agents.assistant.model_calls (10)" in told[0]
    assert outcomes(floor) == (10, 4)


async def test_a_call_larger_than_its_whole_limit_is_refused_for_good(floor: Floor) -> None:
    await opened(floor, FloorModel(), all={"tokens": 100})
    await floor.ask("call", max_output_tokens=1000)
    await floor.settle()
    refusal = floor.answers["call"]
    assert isinstance(refusal, StepRefused)
    assert refusal.permanent


async def test_money_is_not_spent_on_a_model_whose_price_is_not_known(floor: Floor) -> None:
    model = FloorModel()
    await opened(floor, model, all={"money": 100})
    await floor.ask("call", fallbacks=["a/unpriced"])
    await floor.settle()
    refusal = floor.answers["call"]
    assert isinstance(refusal, StepRefused)
    assert (refusal.code, refusal.permanent, model.made) == ("unknown_price", True, [])
    assert "a/unpriced" in refusal.message


async def test_tool_calls_are_limited_where_tools_run(
    make_services: Callable[..., Services], chain_of: Callable[..., Any], make_context: Any
) -> None:
    ran: list[str] = []

    async def act(event: Event, context: Context, call_next: CallNext) -> None:
        assert isinstance(event, ToolInvoke)
        ran.append(event.call_id)
        context.answer(ToolResult(call_id=event.call_id, tool=event.tool))

    services = make_services(limits={"users": {"*": {"tool_calls": 2}}})
    chain = chain_of(services, plugin, links=((1000, "tool", Link(act, ToolInvoke)),))
    types = []
    for number in range(4):
        invoke = ToolInvoke(tool="add", call_id=f"t{number}", user="ann" if number < 3 else "bob", agent="assistant")
        context = make_context(invoke, "tool.invoke.desk", message_id=f"m{number}")
        await chain.run(invoke, context)
        types.append([emission.envelope.type for emission in context.emissions if emission.door is not Door.LOSSY])
    assert ran == ["t0", "t1", "t3"]
    assert types == [["rockbot.tool.result"]] * 2 + [["rockbot.agent.step.refused"], ["rockbot.tool.result"]]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"limits": {"agents": {"nobody": {"tokens": 1}}}}, "'limits.agents.nobody': there is no agent"),
        ({"limits": {"all": {"money": 1}}}, "'limits.all.money' limits money, but the model 'ollama/x'"),
        ({"limits": {"agents": {"*": {"money": 1}}}}, "'limits.agents.assistant.money' limits money"),
        ({"limits": {"users": {"ann": {"money": 1}}}}, "'limits' limits money"),
    ],
)
def test_a_limit_that_cannot_be_kept_is_an_error_at_start(
    make_services: Callable[..., Services], settings: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        plugin(make_services(model="ollama/x", **settings))
    assert told in str(raised.value)


def test_without_limits_there_is_no_link(make_services: Callable[..., Services]) -> None:
    assert plugin(make_services()).links == ()
    assert len(plugin(make_services(limits={"all": {"money": 1}})).links) == 1


def test_a_section_of_a_name_goes_before_the_one_of_everybody() -> None:
    settings = LimitsSettings.model_validate(
        {
            "all": {"tool_calls": 1},
            "agents": {"*": {"tokens": 2}, "judge": {"money": 3}},
            "users": {"*": {"model_calls": 4}},
            "tenants": {"acme": {"tokens": 5}},
        }
    )
    found = allowances(settings, agent="judge", user="ann", tenant="acme")
    assert [(it.setting, it.limit) for it in found] == [
        ("limits.all.tool_calls", 1),
        ("limits.agents.judge.money", 3),
        ("limits.users.ann.model_calls", 4),
        ("limits.tenants.acme.tokens", 5),
    ]
    others = allowances(settings, agent="other", user="", tenant="default")
    assert [it.setting for it in others] == ["limits.all.tool_calls", "limits.agents.other.tokens"]
    today = datetime.date(2026, 1, 2)
    assert found[2].key(today) == key("acme", "limit", "2026-01-02", "users", "ann", "model_calls")
    assert found[1].key(today) == key("host", "limit", "2026-01-02", "agents", "judge", "money")
