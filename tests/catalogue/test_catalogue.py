"""Every name of a model resolves, or is an error that names the setting."""

from __future__ import annotations

from typing import Any

import pytest

from rockbot.catalogue.catalogue import Catalogue
from rockbot.errors import ConfigError
from rockbot.settings import Settings

MODELS: dict[str, Any] = {
    "haiku": {"model": "anthropic/claude-haiku-5-5", "context_window": 1000, "fallbacks": ["big", "openai/gpt-5.4"]},
    "big": {"model": "anthropic/claude-opus-5-5", "context_window": 9000, "fall_on": ["permanent"]},
}
RULES: list[dict[str, Any]] = [
    {"tier": "deep", "roles": ["specialist"]},
    {"tier": "deep", "agents": ["judge"], "min_input_tokens": 10},
    {"tier": "fast", "lanes": ["scheduled", "delegated"]},
    {"tier": "fast", "max_input_tokens": 5},
]
TIERS: dict[str, Any] = {"fast": "haiku", "balanced": "openai/gpt-5.4", "deep": "big", "rules": RULES}


def catalogue(**given: Any) -> Catalogue:
    agents = {"judge": {}} | given.pop("agents", {"assistant": {}})
    return Catalogue(Settings.model_validate({"agents": agents, "models": MODELS, "tiers": TIERS} | given))


def test_an_agent_may_name_a_model_an_alias_or_a_tier() -> None:
    agents = {"assistant": {"model": "x/y"}, "b": {"model": "haiku"}, "c": {"model": "deep"}, "d": {}}
    found = catalogue(agents=agents, model="big")
    chains = {agent: [step.model for step in found.routes(agent)[0].steps] for agent in agents}
    assert chains == {
        "assistant": ["x/y"],
        "b": ["anthropic/claude-haiku-5-5", "anthropic/claude-opus-5-5", "openai/gpt-5.4"],
        "c": ["anthropic/claude-opus-5-5"],
        "d": ["anthropic/claude-opus-5-5"],
    }
    assert found.routes("b")[0].fall_on == ("transient", "throttled", "unknown", "breaker")
    assert found.routes("c")[0].fall_on == ("permanent",)
    assert found.routes("b")[0].why == "agents.b.model is 'haiku'"
    assert set(found.backends) == {"x", "anthropic", "openai"}
    assert found.used["openai/gpt-5.4"] == ["b"]


def test_each_role_may_have_a_model_of_its_own_and_takes_the_agents_else() -> None:
    found = catalogue(agents={"assistant": {"model": "x/y", "models": {"memory": "haiku"}}}, model="x/y")
    assert found.roles("assistant") == ["main", "memory"]
    assert found.routes("assistant", "memory")[0].steps[0].model == "anthropic/claude-haiku-5-5"
    assert found.routes("assistant", "router") == found.routes("assistant")


@pytest.mark.parametrize(
    ("agent", "role", "lane", "tokens", "model", "last"),
    [
        ("assistant", "main", "interactive", 50, "openai/gpt-5.4", "no rule fits: tier balanced, the default"),
        ("assistant", "main", "interactive", 5, "anthropic/claude-haiku-5-5", "rule 4, tier fast: fits"),
        ("assistant", "main", "scheduled", 50, "anthropic/claude-haiku-5-5", "rule 3, tier fast: fits"),
        ("judge", "main", "scheduled", 50, "anthropic/claude-opus-5-5", "rule 2, tier deep: fits"),
        ("judge", "specialist", "scheduled", 5, "anthropic/claude-opus-5-5", "rule 1, tier deep: fits"),
    ],
)
def test_rules_choose_the_tier_and_say_why(
    agent: str, role: Any, lane: Any, tokens: int, model: str, last: str
) -> None:
    agents: dict[str, Any] = {
        "assistant": {"model": "auto"},
        "judge": {"model": "auto", "models": {"specialist": "auto"}},
    }
    told = catalogue(agents=agents).explain(agent, role=role, lane=lane, tokens=tokens)
    assert told.choice.model == model
    assert last in told.lines
    assert any(line.startswith(f"{model}: tier ") for line in told.lines)


def test_an_explanation_says_why_each_rule_before_does_not_fit() -> None:
    told = catalogue(agents={"assistant": {"model": "auto"}}, model="x/y").explain(
        "assistant", lane="scheduled", tokens=7
    )
    assert told.lines == (
        "agents.assistant.model = 'auto'",
        "rule 1, tier deep: it is for the role specialist, not main",
        "rule 2, tier deep: it is for the agent judge, not assistant",
        "rule 3, tier fast: fits",
        "anthropic/claude-haiku-5-5: tier fast, by rule 3 of the tiers",
        "then anthropic/claude-opus-5-5, after: transient, throttled, unknown, breaker",
        "then openai/gpt-5.4, after: transient, throttled, unknown, breaker",
    )


def test_all_names_are_listed_with_their_chains() -> None:
    agents = {"assistant": {"model": "x/y"}, "judge": {"model": "haiku"}}
    assert [(it.name, it.kind, len(it.route.steps)) for it in catalogue(agents=agents).named] == [
        ("fast", "tier", 3),
        ("balanced", "tier", 1),
        ("deep", "tier", 1),
        ("haiku", "alias", 3),
        ("big", "alias", 1),
        ("x/y", "model", 1),
    ]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"model": "nope"}, "setting 'model' of agent 'judge' names 'nope'"),
        (
            {"agents": {"assistant": {"model": "x/"}}},
            "setting 'agents.assistant.model' of agent 'assistant' names 'x/'",
        ),
        ({"agents": {"assistant": {"models": {"memory": "nope"}}}}, "'agents.assistant.models.memory'"),
        ({"models": {"a": {"model": "b"}, "b": {"model": "x/y"}}, "tiers": {}}, "'models.a.model' names 'b'"),
        ({"models": {"a": {"model": "x/y", "fallbacks": ["nope"]}}, "tiers": {}}, "'models.a.fallbacks' names 'nope'"),
        (
            {"models": {"a": {"model": "x/y", "fallbacks": ["x/y"]}}, "tiers": {}},
            "'models.a.fallbacks' names 'x/y' twice",
        ),
        ({"models": {"fast": {"model": "x/y"}}, "tiers": {}}, "'models.fast'"),
        ({"models": {"auto": {"model": "x/y"}}, "tiers": {}}, "'models.auto'"),
        ({"tiers": {"fast": "nope"}}, "'tiers.fast' names 'nope'"),
        ({"tiers": {"fast": "x/y", "deep": "fast"}}, "'tiers.deep' names the tier 'fast'"),
        ({"tiers": {"rules": [{"tier": "deep"}]}}, "'tiers.rules.0.tier' is 'deep', which has no model"),
        ({"tiers": {"deep": "x/y", "rules": [{"tier": "deep", "agents": ["nobody"]}]}}, "'tiers.rules.0.agents'"),
        (
            {"tiers": {"deep": "x/y"}, "model": "auto"},
            "'model' of agent 'judge' is 'auto', but the tier 'balanced'",
        ),
    ],
)
def test_a_wrong_name_is_an_error_that_names_the_setting(given: dict[str, Any], told: str) -> None:
    base = {"model": "x/y"} | ({"tiers": {"fast": "haiku"}} if "tiers" not in given else {})
    with pytest.raises(ConfigError) as raised:
        catalogue(**(base | given))
    assert told in str(raised.value)
