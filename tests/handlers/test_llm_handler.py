"""The link that makes model calls: once per message, with every failure turned into the right verdict."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rockbot.catalogue.spending import Spending
from rockbot.chain import Chain
from rockbot.context import Context
from rockbot.errors import ConfigError, PermanentFailure, TemporaryFailure
from rockbot.events import LlmRequest, LlmResponse, Message, TextPart
from rockbot.machines.segments import seal_first
from rockbot.plugins import Services
from rockbot.settings import AgentSettings, AnthropicSettings, HostSettings, ScriptedSettings
from rockbot.state.keys import segment_key
from rockbot.state.ledger import StateLedger
from rockbot_handlers.llm.plugin import plugin
from rockbot_messaging.calls import CallBusy
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.ledger import Begun, Busy
from rockbot_messaging.subscriptions import Lane, WorkSubscription
from rockbot_messaging.testing import FakeClock

TOPIC = "llm.request.scripted.interactive"


def asking(text: str, model: str = "scripted/demo") -> LlmRequest:
    return LlmRequest(model=model, messages=(Message(role="user", parts=(TextPart(text=text),)),))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "calls.jsonl"


@pytest.fixture
def services(make_services: Callable[..., Services], tmp_path: Path, log: Path) -> Services:
    rules = tmp_path / "rules.toml"
    faults = {
        "transient": "{ error = 'transient', after = 7, message = 'down' }",
        "throttled": "{ error = 'throttled', after = 9 }",
        "permanent": "{ error = 'permanent', message = 'wrong key' }",
        "unknown": "{ error = 'unknown' }",
    }
    rules.write_text(
        "\n".join(
            f"[[scripts.s.rules]]\nname = '{name}'\nwhen = {{ user = '{name}' }}\nreply = 'done'\nfail = {fault}"
            for name, fault in faults.items()
        ),
        encoding="utf-8",
    )
    return make_services(scripted=ScriptedSettings(rules=rules, call_log=log))


@pytest.fixture
def chain(services: Services, chain_of: Callable[..., Chain]) -> Chain:
    return chain_of(services, plugin)


def answer_of(context: Context) -> LlmResponse:
    (emission,) = context.emissions
    assert emission.envelope.type == LlmResponse.type_name
    return LlmResponse.model_validate_json(emission.envelope.body)


def calls_made(log: Path) -> int:
    return len(log.read_text(encoding="utf-8").splitlines()) if log.exists() else 0


async def test_a_request_is_answered_at_its_return_address(chain: Chain, make_context: Any) -> None:
    context = make_context(asking("hello"), TOPIC)
    await chain.run(asking("hello"), context)
    assert "not a language model" in answer_of(context).message.text
    envelope = context.emissions[0].envelope
    assert (envelope.topic, envelope.return_address.token) == ("agent.step.assistant", "opaque")
    assert (envelope.conversation_id, envelope.causation_id) == ("conversation-1", context.envelope.message_id)


async def test_a_copy_is_answered_from_the_ledger_with_the_same_message(
    chain: Chain, make_context: Any, log: Path
) -> None:
    emitted = []
    for _ in range(2):
        context = make_context(asking("1 + 1"), TOPIC)
        await chain.run(asking("1 + 1"), context)
        emitted.append(context.emissions)
    assert emitted[0] == emitted[1]
    assert calls_made(log) == 1


async def test_the_call_is_known_by_its_message_id(chain: Chain, make_context: Any, log: Path) -> None:
    await chain.run(asking("x"), make_context(asking("x"), TOPIC, message_id="the-id"))
    assert json.loads(log.read_text(encoding="utf-8"))["call_id"] == "the-id"


@pytest.mark.parametrize(
    ("text", "after", "counted"), [("transient", 7, True), ("throttled", 9, False), ("unknown", None, True)]
)
async def test_a_failed_call_is_tried_again_as_its_error_asks(
    chain: Chain, make_context: Any, clock: FakeClock, text: str, after: float | None, *, counted: bool
) -> None:
    request = asking(text, "scripted/s")
    context = make_context(request, TOPIC)
    with pytest.raises(TemporaryFailure, match="scripted") as caught:
        await chain.run(request, context)
    assert (caught.value.after, caught.value.counted, context.emissions) == (after, counted, [])
    clock.advance(after or 0)
    await chain.run(request, context)
    assert answer_of(context).message.text == "done"


async def test_a_permanent_error_is_a_permanent_failure_and_a_replay_may_call_again(
    chain: Chain, make_context: Any
) -> None:
    request = asking("permanent", "scripted/s")
    with pytest.raises(PermanentFailure, match="wrong key"):
        await chain.run(request, make_context(request, TOPIC))
    context = make_context(request, TOPIC)
    await chain.run(request, context)
    assert answer_of(context).message.text == "done"


@pytest.mark.parametrize("text", ["transient", "throttled", "permanent"])
async def test_an_error_without_effect_leaves_no_claim(
    chain: Chain, make_context: Any, ledger: StateLedger, text: str
) -> None:
    request = asking(text, "scripted/s")
    with pytest.raises((TemporaryFailure, PermanentFailure)):
        await chain.run(request, make_context(request, TOPIC, message_id="the-id"))
    assert await ledger.begin("the-id", tenant="default", owner="other", claim_seconds=1) == Begun(1)


async def test_an_unknown_end_keeps_others_off_until_the_claim_is_over(
    chain: Chain, make_context: Any, ledger: StateLedger
) -> None:
    request = asking("unknown", "scripted/s")
    with pytest.raises(TemporaryFailure):
        await chain.run(request, make_context(request, TOPIC, message_id="the-id"))
    assert isinstance(await ledger.begin("the-id", tenant="default", owner="other", claim_seconds=1), Busy)


async def test_a_call_of_a_killed_worker_is_made_again_once_its_claim_is_over(
    chain: Chain, make_context: Any, ledger: StateLedger, clock: FakeClock
) -> None:
    await ledger.begin("the-id", tenant="default", owner="killed", claim_seconds=10)
    context = make_context(asking("x"), TOPIC, message_id="the-id")
    with pytest.raises(CallBusy) as caught:
        await chain.run(asking("x"), context)
    assert caught.value.seconds == 10
    clock.advance(10)
    await chain.run(asking("x"), context)
    assert answer_of(context)


async def test_a_cancelled_call_is_taken_without_call_or_answer(
    chain: Chain, make_context: Any, ledger: StateLedger, log: Path
) -> None:
    await ledger.refuse("the-id", tenant="default", reason="cancelled")
    context = make_context(asking("x"), TOPIC, message_id="the-id")
    await chain.run(asking("x"), context)
    assert (context.emissions, calls_made(log)) == ([], 0)


async def test_a_request_that_cannot_be_answered_costs_no_call(chain: Chain, make_context: Any, log: Path) -> None:
    with pytest.raises(PermanentFailure, match="without a return address"):
        await chain.run(asking("x"), make_context(asking("x"), TOPIC, answer_to=None))
    assert calls_made(log) == 0


async def test_a_request_for_a_provider_nobody_uses_is_a_permanent_failure(chain: Chain, make_context: Any) -> None:
    request = asking("x", "anthropic/claude")
    with pytest.raises(PermanentFailure, match="provider 'anthropic'"):
        await chain.run(request, make_context(request, TOPIC))


def test_every_used_backend_has_a_queue_per_lane(make_services: Callable[..., Services]) -> None:
    services = make_services(
        agents={"assistant": AgentSettings(model="scripted/demo"), "other": AgentSettings(model="anthropic/claude")},
        anthropic=AnthropicSettings(api_key="k"),
        host=HostSettings(llm_concurrency=3),
    )
    subscriptions = plugin(services).subscriptions
    assert {(sub.name, sub.patterns) for sub in subscriptions if isinstance(sub, WorkSubscription)} == {
        (f"llm.{backend}.{lane}", (f"llm.request.{backend}.{lane}",))
        for backend in ("scripted", "anthropic")
        for lane in ("interactive", "delegated", "scheduled")
    }
    assert {sub.parallelism for sub in subscriptions if isinstance(sub, WorkSubscription)} == {3}


def test_the_lanes_of_a_backend_share_its_slots_and_the_most_urgent_goes_first(
    make_services: Callable[..., Services],
) -> None:
    services = make_services(host=HostSettings(llm_concurrency=3))
    subscriptions = plugin(services).subscriptions
    assert [(sub.name, sub.lane) for sub in subscriptions if isinstance(sub, WorkSubscription)] == [
        (f"llm.scripted.{lane}", Lane(group="llm.scripted", rank=rank, slots=3))
        for rank, lane in enumerate(("interactive", "delegated", "scheduled"))
    ]


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("nobody/gpt", ["agent 'assistant'", "no provider 'nobody'", "anthropic, deepseek", "scripted"]),
        ("demo", ["setting 'model'", "agent 'assistant'", "<provider>/<model>"]),
        ("scripted/", ["agent 'assistant'", "<provider>/<model>"]),
        ("scripted/nope", ["agent 'assistant'", "no script 'nope'", "known: demo"]),
        ("anthropic/claude", ["anthropic.api_key", "ANTHROPIC_API_KEY"]),
    ],
)
def test_a_model_that_cannot_be_used_is_an_error_at_start(
    make_services: Callable[..., Services], model: str, said: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        plugin(make_services(model=model))
    for part in said:
        assert part in str(caught.value)


@pytest.mark.parametrize(("model", "extra"), [("anthropic/claude", "anthropic"), ("ollama/llama", "openai")])
def test_a_missing_package_is_named_with_the_extra_that_brings_it(
    make_services: Callable[..., Services], monkeypatch: pytest.MonkeyPatch, model: str, extra: str
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, extra, None)
    for name in [name for name in sys.modules if name.startswith(f"rockbot_handlers.llm.{extra}")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ConfigError, match=rf"agent 'assistant'.*rockbot\[{extra}\]"):
        plugin(make_services(model=model))


def test_the_offline_model_loads_no_provider_package() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from rockbot.settings import Settings; from rockbot_handlers.llm.providers import open_clients; "
        "open_clients(Settings()); print([n for n in ('anthropic', 'httpx2', 'openai') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


async def test_closing_closes_every_client(make_services: Callable[..., Services]) -> None:
    close = plugin(make_services(model="anthropic/claude", anthropic=AnthropicSettings(api_key="k"))).close
    assert close is not None
    await close()
    await close()


async def test_what_was_sealed_of_a_conversation_is_read_before_the_call(
    services: Services, chain: Chain, make_context: Any, log: Path
) -> None:
    sealed = seal_first(asking("1 + 1").messages, 1, None)
    assert sealed is not None
    request = LlmRequest(
        model="scripted/demo",
        messages=(Message(role="assistant", parts=(TextPart(text="2"),)), *asking("3 * 5").messages),
        earlier=sealed.head,
    )
    with pytest.raises(PermanentFailure, match=r"segment 1 of conversation 'conversation-1' is not in the state store"):
        await chain.run(request, make_context(request, TOPIC))
    assert calls_made(log) == 0
    await services.state.put(segment_key("default", "conversation-1", 1), sealed.rows[0][1])
    context = make_context(request, TOPIC)
    await chain.run(request, context)
    # The letter, sent on after it was mended, is the same call: no claim was left.
    assert answer_of(context).usage.input_tokens >= 7
    assert calls_made(log) == 1


@pytest.mark.parametrize(("role", "told"), [("main", True), ("memory", False)])
async def test_nobody_is_told_what_a_model_says_to_itself(
    services: Services, chain_of: Callable[..., Chain], make_context: Any, role: str, told: bool
) -> None:
    heard: list[MessageEnvelope] = []

    async def hear(envelope: MessageEnvelope) -> None:
        heard.append(envelope)

    chain = chain_of(replace(services, signal=hear), plugin)
    request = asking("hello").model_copy(update={"role": role})
    await chain.run(request, make_context(request, TOPIC))
    assert bool(heard) is told


async def test_a_reply_says_what_it_took_and_it_is_counted_once(
    make_services: Callable[..., Services], chain_of: Callable[..., Chain], make_context: Any, clock: FakeClock
) -> None:
    prices = {"models": {"scripted/*": {"input": 1_000_000, "output": 0}}}
    services = make_services(prices=prices)
    chain = chain_of(services, plugin)
    request = asking("1 + 1").model_copy(update={"agent": "assistant"})
    costs = []
    for _ in range(2):
        context = make_context(request, TOPIC)
        await chain.run(request, context)
        costs.append(answer_of(context).cost)
    answer = answer_of(context)
    assert costs == [answer.usage.input_tokens] * 2
    day = datetime.datetime.fromtimestamp(clock.now_ms() / 1000, datetime.UTC).date()
    (row,) = await Spending(services.state).rows("default", since=day, until=day)
    assert (row.agent, row.model, row.calls, row.cost) == ("assistant", answer.model, 1, costs[0])
