"""``models`` and ``costs``: what there is, why it was chosen, whether it answers, and what it took."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cli.conftest import Ran

from rockbot.catalogue.prices import today
from rockbot.catalogue.spending import Spending, SpentCall
from rockbot.events import LlmResponse, Message, Usage
from rockbot.state.sqlite import SqliteStateStore
from rockbot_messaging.clock import SystemClock

SETTINGS = """
[agents.assistant]
model = "auto"

[agents.clerk]
model = "small"

[models.small]
model = "scripted/demo"
fallbacks = ["ollama/qwen3"]
context_window = 8000

[tiers]
fast = "small"
balanced = "openai/gpt-5.4"
rules = [{ tier = "fast", lanes = ["scheduled"] }]

[providers.openai]
api_key = "none"
base_url = "http://127.0.0.1:9"
"""


@pytest.fixture
def settings() -> None:
    Path("rockbot.toml").write_text(SETTINGS)


@pytest.mark.usefixtures("settings")
def test_every_name_is_listed_with_its_chain_and_its_price(alone: Callable[..., Ran]) -> None:
    ran = alone("models", "list")
    assert ran.code == 0
    rows = [line.split() for line in ran.out.splitlines()[1:]]
    assert rows[0][:7] == ["fast", "tier", "scripted/demo", "ollama/qwen3", "8000", "0", "0"]
    assert rows[1] == ["balanced", "tier", "openai/gpt-5.4", "2.5", "15", "assistant"]
    assert rows[2][:2] == ["small", "alias"]
    (row, *_) = alone("--json", "models", "list").lines
    assert (row["name"], row["models"], row["currency"]) == ("fast", ["scripted/demo", "ollama/qwen3"], "USD")


@pytest.mark.usefixtures("settings")
def test_a_choice_is_explained(alone: Callable[..., Ran]) -> None:
    ran = alone("models", "explain", "assistant", "--lane", "scheduled")
    assert ran.code == 0
    assert ran.out.splitlines() == [
        "assistant: scripted/demo",
        "agents.assistant.model = 'auto'",
        "rule 1, tier fast: fits",
        "scripted/demo: tier fast, by rule 1 of the tiers",
        "then ollama/qwen3, after: transient, throttled, unknown, breaker",
    ]
    (row,) = alone("--json", "models", "explain", "--input-tokens", "9000", "--lane", "scheduled").lines
    assert (row["agent"], row["model"]) == ("assistant", "ollama/qwen3")
    assert alone("models", "explain", "nobody").code == 2


@pytest.mark.usefixtures("settings")
def test_a_check_tries_models_and_fails_with_those_that_do_not_answer(alone: Callable[..., Ran]) -> None:
    ran = alone("models", "check", "small")
    assert (ran.code, ran.out.splitlines()[1].split()[:2]) == (0, ["scripted/demo", "yes"])
    ran = alone("--json", "models", "check", "small", "openai/gpt-5.4")
    assert (ran.code, [row["ok"] for row in ran.lines]) == (6, [True, False])
    ran = alone("models", "check", "nobody")
    assert (ran.code, "no agent uses 'nobody'" in ran.err) == (2, True)


def test_a_wrong_name_is_found_by_every_command(alone: Callable[..., Ran]) -> None:
    Path("rockbot.toml").write_text('[models.a]\nmodel = "b"\n')
    for command in (["models", "list"], ["models", "explain"], ["models", "check"], ["config", "check"]):
        ran = alone(*command)
        assert (ran.code, "models.a.model" in ran.err) == (3, True), command


async def _spend(count: int, cost: float | None, agent: str, first: int) -> None:
    store = SqliteStateStore(Path("state.db"), SystemClock())
    await store.open()
    response = LlmResponse(
        message=Message(role="assistant", parts=()), usage=Usage(input_tokens=10, output_tokens=2), cost=cost
    )
    for number in range(first, first + count):
        await Spending(store).note(SpentCall(f"c{number}", "default", agent, "a/x", today(), response))
    await store.close()


def test_costs_are_summed_as_asked_and_calls_without_a_price_are_told_apart(alone: Callable[..., Ran]) -> None:
    asyncio.run(_spend(2, 0.5, "clerk", 0))
    asyncio.run(_spend(1, None, "judge", 2))
    state = ["--state", "sqlite:///state.db"]
    ran = alone(*state, "costs", "--by", "agent")
    assert ran.code == 0
    assert [line.split() for line in ran.out.splitlines()[1:]] == [
        ["clerk", "2", "20", "0", "4", "1.0000"],
        ["judge", "1", "10", "0", "2", "0.0000", "1"],
    ]
    assert ran.err == "3 calls, 1.0000 USD; 1 of them have no known price and are not in it\n"
    rows = [json.loads(line) for line in alone(*state, "--json", "costs").out.splitlines()]
    assert [(row["day"], row["agent"], row["model"]) for row in rows] == [
        (today().isoformat(), "clerk", "a/x"),
        (today().isoformat(), "judge", "a/x"),
    ]
    assert alone(*state, "costs", "--tenant", "other").out == "no model calls were counted\n"
