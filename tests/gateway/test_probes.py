"""What `doctor` finds out about models, state and services."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from rockbot.operators.checks import run_probes
from rockbot.operators.models import Check
from rockbot.operators.probes import model_probes, service_probe, state_probe
from rockbot.settings import AgentSettings, Settings
from rockbot.settings_models import ModelSettings
from rockbot.state.memory import MemoryStateStore
from rockbot_messaging.testing import FakeClock


class Service:
    def __init__(self, facts: Mapping[str, Any]) -> None:
        self._facts = facts

    def describe(self) -> Mapping[str, Any]:
        return self._facts


async def check_of(facts: Mapping[str, Any]) -> Check:
    return await service_probe("scripts", Service(facts))()


async def test_a_service_tells_its_facts() -> None:
    check = await check_of({"runner": "wasm", "workers": {"size": 2, "pids": [1, 2]}, "lock": {"missing": []}})
    assert (check.status, check.detail) == ("ok", "runner wasm; workers: size 2, pids 1 2")


async def test_what_a_service_misses_is_a_warning_at_any_depth() -> None:
    check = await check_of({"lock": {"seccomp": True, "missing": ("landlock",)}})
    assert check.status == "warn"
    assert check.advice.endswith("landlock")


async def test_a_probe_that_fails_is_a_failed_check() -> None:
    async def broken() -> Check:
        raise RuntimeError("no")

    [check] = await run_probes([broken])
    assert (check.status, check.name, check.detail) == ("fail", "broken", "RuntimeError: no")


async def test_state_in_memory_is_a_warning_and_addresses_with_secrets_are_cut() -> None:
    store = MemoryStateStore(FakeClock())
    await store.open()
    assert (await state_probe(store, "memory://")()).status == "warn"
    assert (await state_probe(store, "postgresql://user:secret@host/db")()).detail == "postgresql"


def test_a_model_whose_package_is_missing_is_told_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rockbot.operators.probes.find_spec", lambda name: None)
    checks = model_probes(Settings(model="ollama/x")) + model_probes(Settings(model="anthropic/x"))
    assert [(check.status, check.advice) for check in checks] == [
        ("fail", "pip install 'rockbot[openai]'"),
        ("fail", "pip install 'rockbot[anthropic]'"),
    ]


def test_models_are_checked_once_with_their_agents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    settings = Settings(
        model="scripted/demo",
        agents={
            "assistant": AgentSettings(),
            "second": AgentSettings(),
            "third": AgentSettings(model="anthropic/x"),
            "fourth": AgentSettings(model="quick"),
        },
        models={"quick": ModelSettings(model="scripted/quick", fallbacks=("anthropic/x",))},
    )
    found = {check.detail.split(" ")[0]: (check.status, check.detail) for check in model_probes(settings)}
    assert found["scripted/demo"] == ("ok", "scripted/demo for assistant, second: answers by rules, offline")
    assert found["anthropic/x"] == ("warn", "anthropic/x for fourth, third: no API key here")
    assert found["scripted/quick"][0] == "ok"
    (wrong,) = model_probes(Settings(model="nonsense"))
    assert (wrong.status, "setting 'model'" in wrong.detail) == ("fail", True)
