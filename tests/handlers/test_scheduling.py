"""Model calls over several hosts: slots, rates, storms and lanes hold for all together, and nothing waits in a process."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import pytest
from handlers.model_floor import Floor, FloorModel, said
from redis.asyncio import Redis
from state.servers import POSTGRES_BY_HAND, REDIS_BY_HAND

from rockbot.errors import ConfigError
from rockbot.events import LlmRequest, LlmResponse
from rockbot.llm import LlmPermanent, LlmThrottled, LlmTransient, LlmUnknownOutcome
from rockbot.operators.backend_checks import backends_probe
from rockbot.settings_models import BackendSettings
from rockbot.state.keys import key
from rockbot.state.postgres import PostgresStateStore
from rockbot.state.redis import RedisStateStore
from rockbot.state.sqlite import SqliteStateStore
from rockbot_handlers.deduplication.plugin import plugin as deduplication
from rockbot_handlers.llm.admission import Asking, Backend, NotNow

AGENTS = {"assistant": {"model": "a/x"}}
_prefixes = itertools.count(1)


@pytest.fixture
async def floor() -> AsyncIterator[Floor]:
    made = Floor()
    await made.open()
    yield made
    await made.close()


@pytest.fixture(
    params=["memory", *(pytest.param(name, marks=pytest.mark.full) for name in ("sqlite", "postgres", "redis"))]
)
async def floor_of_each(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Floor]:
    """One on each kind of store whose clock can be moved by hand."""
    async with AsyncExitStack() as stack:
        match request.param:
            case "memory":
                made = Floor()
            case "sqlite":
                made = Floor(lambda clock: SqliteStateStore(tmp_path / "state.db", clock))
            case "postgres":
                url, schema = request.getfixturevalue("postgres").url, f"storm{next(_prefixes)}"
                database = await asyncpg.connect(url)
                stack.push_async_callback(database.close)

                async def passed(seconds: float) -> None:
                    await database.execute(f"UPDATE {schema}.moved SET ms = ms + $1", round(seconds * 1000))

                first = PostgresStateStore(f"{url}?schema={schema}")
                await first.open()
                await first.close()
                await database.execute(POSTGRES_BY_HAND.replace("@", schema))
                made = Floor(lambda _: PostgresStateStore(f"{url}?schema={schema}"), passed)
                await database.execute(f"UPDATE {schema}.moved SET ms = $1", made.clock.now_ms())
            case _:
                url = request.getfixturevalue("redis_node").url
                server = await stack.enter_async_context(Redis.from_url(url))
                at = f"storm{next(_prefixes)}"

                async def moved(seconds: float) -> None:
                    await server.incrby(f"{{{at}}}:moved", round(seconds * 1000))

                made = Floor(lambda clock: RedisStateStore(f"{url}?prefix={at}", clock=REDIS_BY_HAND), moved)
                await server.set(f"{{{at}}}:moved", made.clock.now_ms())
        await made.open()
        yield made
        await made.close()


async def test_two_hosts_with_one_slot_never_make_two_calls_at_once(floor_of_each: Floor) -> None:
    floor = floor_of_each
    model = FloorModel()
    for _ in range(2):
        await floor.host({"a": model}, agents=AGENTS, backends={"a": {"slots": 1}})
    for number in range(12):
        await floor.ask(f"call-{number}")
    await floor.until_answered(12)
    assert (model.most, len(model.made)) == (1, 12)


async def test_without_slots_hosts_make_calls_at_once(floor: Floor) -> None:
    model = FloorModel()
    for _ in range(2):
        await floor.host({"a": model}, agents=AGENTS, host={"llm_concurrency": 3})
    for number in range(12):
        await floor.ask(f"call-{number}")
    await floor.until_answered(12)
    assert model.most == 6


async def test_the_slot_of_a_host_that_died_is_free_again_after_a_while(floor: Floor) -> None:
    model = FloorModel()
    await floor.store.reserve(key("host", "backend", "a", "slots"), 1, limit=1, id="a dead host's", ttl=15)
    await floor.host({"a": model}, agents=AGENTS, backends={"a": {"slots": 1}})
    await floor.ask("call")
    await floor.run(10)
    assert model.made == []
    await floor.until_answered(1, seconds=15)


async def test_calls_begin_no_faster_than_the_rates_allow_over_all_hosts(floor: Floor) -> None:
    model = FloorModel()
    for _ in range(2):
        await floor.host(
            {"a": model}, agents=AGENTS, backends={"a": {"requests_per_minute": 6}}, host={"llm_concurrency": 20}
        )
    for number in range(12):
        await floor.ask(f"call-{number}")
    await floor.settle()
    assert len(model.made) == 6
    await floor.run(30)
    assert len(model.made) <= 9
    await floor.until_answered(12, seconds=60)


async def test_a_call_takes_the_tokens_that_it_really_took(floor: Floor) -> None:
    model = FloorModel(lambda request: said("ok", input_tokens=90, output_tokens=10))
    await floor.host({"a": model}, agents=AGENTS, backends={"a": {"tokens_per_minute": 4000}})
    for number in range(6):
        await floor.ask(f"call-{number}", max_output_tokens=2500)
        await floor.settle()
    assert len(model.made) == 6, "six calls of 100 tokens fit, though only one of 2500 does at a time"
    model.say = lambda request: said("ok", input_tokens=4000)
    for number in range(2):
        await floor.ask(f"long-{number}", max_output_tokens=100)
        await floor.settle()
    assert len(model.made) == 7


async def test_a_storm_of_429_burns_no_attempt_and_hardly_a_call_and_the_interactive_lane_is_first_after_it(
    floor_of_each: Floor,
) -> None:
    floor = floor_of_each
    over_ms = floor.clock.now_ms() + 600_000

    def storm(request: LlmRequest) -> LlmResponse:
        if floor.clock.now_ms() < over_ms:
            raise LlmThrottled("too many", after=20)
        return said(request.messages[-1].text)

    model = FloorModel(storm)
    for _ in range(2):
        await floor.host({"a": model}, agents=AGENTS, backends={"a": {"slots": 4}})
    for number in range(10):
        for lane in ("scheduled", "delegated", "interactive"):
            await floor.ask(f"{lane}-{number}", lane=lane)
    await floor.run(598, step=2)
    assert floor.answers == {}
    # The first moment is open to all slots; from then on one call looks every 20 seconds whether it is over.
    assert len(model.made) <= 40
    stormy = len(model.made)
    await floor.until_answered(30, seconds=60)
    lanes = [text.partition("-")[0] for text in model.asked[stormy:]]
    assert lanes[:10] == ["interactive"] * 10
    assert len(lanes) == 30
    for lane in ("scheduled", "delegated", "interactive"):
        assert await floor.letters(f"llm.a.{lane}") == []


async def test_a_backend_that_fails_is_left_alone_and_its_calls_survive_it(floor: Floor) -> None:
    down = True

    def say(request: LlmRequest) -> LlmResponse:
        if down:
            raise LlmTransient("no connection")
        return said("ok")

    model = FloorModel(say)
    breaker = {"breaker_failures": 3, "breaker_seconds": 10, "breaker_longest_seconds": 60}
    for _ in range(2):
        await floor.host({"a": model}, agents=AGENTS, backends={"a": breaker})
    for number in range(20):
        await floor.ask(f"call-{number}")
    await floor.settle()
    first = len(model.made)
    assert first <= 8, "what was under way when it opened"
    await floor.run(1200, step=5)
    assert len(model.made) - first <= 20 + 5, "one look a minute"
    down = False
    await floor.until_answered(20, seconds=120)
    assert await floor.letters("llm.a.interactive") == []


async def test_doctor_tells_which_provider_is_left_alone_until_when_and_why(floor: Floor) -> None:
    errors: list[Exception] = [LlmTransient("no connection")] * 2

    def say(request: LlmRequest) -> LlmResponse:
        if errors:
            raise errors.pop()
        return said("ok")

    look = backends_probe(floor.store)
    assert ((await look()).status, (await look()).detail) == ("ok", "no provider of models is left alone")
    await floor.host(
        {"a": FloorModel(say)},
        agents=AGENTS,
        backends={"a": {"breaker_failures": 2, "breaker_seconds": 60, "slots": 4}},
    )
    for number in range(2):
        await floor.ask(f"call-{number}")
        await floor.settle()
    check = await look()
    assert (check.status, check.detail) == (
        "warn",
        "a keeps failing and is left alone until 2026-01-01 00:01:00Z: no connection",
    )
    floor.clock.advance(60)
    check = await look()
    assert (check.status, check.detail) == ("ok", "tried again: a with one call at a time (no connection)")
    await floor.until_answered(2)
    assert (await look()).detail == "no provider of models is left alone"
    errors.append(LlmThrottled("too many", after=20))
    await floor.ask("call")
    await floor.settle()
    check = await look()
    assert check.status == "warn"
    assert check.detail.startswith("a asked for it and is left alone until 2026-01-01 00:0")
    assert check.detail.endswith("Z: too many")


async def test_a_request_that_is_wrong_says_nothing_about_its_backend(floor: Floor) -> None:
    def say(request: LlmRequest) -> LlmResponse:
        if request.messages[-1].text.startswith("wrong"):
            raise LlmPermanent("no such model")
        return said("ok")

    model = FloorModel(say)
    await floor.host({"a": model}, agents=AGENTS, backends={"a": {"breaker_failures": 2}})
    for number in range(6):
        await floor.ask(f"wrong-{number}")
    await floor.ask("right")
    await floor.until_answered(1, seconds=1)
    assert len(await floor.letters("llm.a.interactive")) == 6


@pytest.mark.parametrize(("earlier", "goes"), [(59, False), (61, True)])
async def test_a_scheduled_call_lets_interactive_ones_go_first_unless_it_came_a_minute_before_them(
    floor: Floor, earlier: float, *, goes: bool
) -> None:
    backend = Backend("a", BackendSettings(slots=1), floor.store, floor.clock)
    now_ms = floor.clock.now_ms()
    interactive = Asking("new", "default", "interactive", now_ms, 0, 0)
    scheduled = Asking("old", "default", "scheduled", now_ms - round(earlier * 1000), 0, 0)
    permit = await backend.admit(Asking("first", "default", "interactive", now_ms, 0, 0))
    with pytest.raises(NotNow, match="slots"):
        await backend.admit(interactive)
    await permit.release()
    if goes:
        await (await backend.admit(scheduled)).release()
        return
    with pytest.raises(NotNow) as refused:
        await backend.admit(scheduled)
    assert refused.value.waits_for == "lane"
    floor.clock.advance(10)
    await (await backend.admit(scheduled)).release()


# -- chains of models


CHAIN = {"fallbacks": ["b/y"], "fall_on": ["transient", "throttled", "unknown", "breaker", "context_window"]}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (LlmTransient("down"), "transient"),
        (LlmThrottled("full", after=60), "throttled"),
        (LlmUnknownOutcome("cut"), "unknown"),
    ],
)
async def test_a_failed_call_goes_on_to_the_next_model_under_the_same_id(
    floor: Floor, error: Exception, reason: str
) -> None:
    def fail(request: LlmRequest) -> LlmResponse:
        raise error

    first, second = FloorModel(fail), FloorModel()
    agents = {"assistant": {"model": "x"}}
    models = {"x": {"model": "a/x", "fallbacks": ["b/y"]}}
    await floor.host({"a": first, "b": second}, agents=agents, models=models, host={"claim_seconds": 0.5})
    await floor.ask("call", **CHAIN)
    await floor.until_answered(1, seconds=30)
    assert (first.ids, second.ids) == (["call"], ["call"])
    (request,) = second.made
    assert (request.model, request.fallbacks) == ("b/y", ())
    assert [(it.model, it.reason) for it in request.fallen] == [("a/x", reason)]
    answer = floor.answers["call"]
    assert isinstance(answer, LlmResponse)
    assert answer.model == "b/y"


async def test_a_copy_of_a_call_that_another_model_finished_is_answered_and_not_made(floor: Floor) -> None:
    def fail(request: LlmRequest) -> LlmResponse:
        raise LlmTransient("down")

    first, second = FloorModel(fail), FloorModel()
    await floor.host({"a": first, "b": second}, agents={"assistant": {"model": "a/x"}, "other": {"model": "b/y"}})
    await floor.ask("call", **CHAIN)
    await floor.until_answered(1)
    first.say = lambda request: said("another answer")
    floor.answers.clear()
    await floor.ask("call", **CHAIN)
    await floor.until_answered(1)
    assert (len(first.made), len(second.made)) == (1, 1)
    answer = floor.answers["call"]
    assert isinstance(answer, LlmResponse)
    assert answer.message.text == "call"


async def test_what_a_chain_does_not_fall_on_is_tried_again_or_dead(floor: Floor) -> None:
    def fail(request: LlmRequest) -> LlmResponse:
        raise LlmPermanent("wrong key")

    first, second = FloorModel(fail), FloorModel()
    await floor.host({"a": first, "b": second}, agents={"assistant": {"model": "a/x"}, "other": {"model": "b/y"}})
    await floor.ask("call", **CHAIN)
    await floor.run(1)
    assert len(await floor.letters("llm.a.interactive")) == 1
    await floor.ask("other", fallbacks=["b/y"], fall_on=["permanent"])
    await floor.until_answered(1)
    assert second.ids == ["other"]


async def test_an_open_circuit_sends_calls_on_at_once(floor: Floor) -> None:
    def fail(request: LlmRequest) -> LlmResponse:
        raise LlmTransient("down")

    first, second = FloorModel(fail), FloorModel()
    agents = {"assistant": {"model": "a/x"}, "other": {"model": "b/y"}}
    await floor.host({"a": first, "b": second}, agents=agents, backends={"a": {"breaker_failures": 2}})
    for number in range(8):
        await floor.ask(f"call-{number}", **CHAIN)
        await floor.settle()
    assert len(first.made) == 2
    await floor.until_answered(8, seconds=5)
    assert [request.fallen[0].reason for request in second.made].count("breaker") == 6


async def test_input_that_is_too_long_goes_on_to_the_next_model(floor: Floor) -> None:
    first = FloorModel(lambda request: said("").model_copy(update={"stop_reason": "context_window"}))
    second = FloorModel()
    await floor.host({"a": first, "b": second}, agents={"assistant": {"model": "a/x"}, "other": {"model": "b/y"}})
    await floor.ask("call", **CHAIN)
    await floor.until_answered(1, seconds=5)
    answer = floor.answers["call"]
    assert isinstance(answer, LlmResponse)
    assert (answer.stop_reason, answer.model) == ("end_turn", "b/y")


async def test_model_calls_cannot_remember_their_messages_because_a_chain_keeps_the_id_of_its_call(
    floor: Floor,
) -> None:
    given = {"subscriptions": {"llm.a.delegated": {"remember_seconds": 60}}}
    with pytest.raises(ConfigError, match=r"'subscriptions\.\"llm\.a\.delegated\"\.remember_seconds' cannot be set"):
        await floor.host({"a": FloorModel()}, deduplication, agents=AGENTS, **given)
    await floor.host(
        {"a": FloorModel()}, agents=AGENTS, subscriptions={"llm.a.delegated": {"remember_seconds": 0, "prefetch": 3}}
    )
