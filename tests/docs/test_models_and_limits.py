"""The pages about models and limits: their settings are settings, their commands work with them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from rockbot.catalogue.prices import PriceTable, today
from rockbot.catalogue.routes import FALL_ON
from rockbot.cli.main import run
from rockbot.settings import load
from rockbot.settings_models import BackendSettings, LimitSettings, ModelSettings, PriceSettings, TierRuleSettings

ROOT = Path(__file__).parents[2]
MODELS = (ROOT / "docs" / "models.md").read_text()
LIMITS = (ROOT / "docs" / "limits.md").read_text()
SETTINGS = (ROOT / "docs" / "settings.md").read_text()
NAMES, BACKENDS, PRICES = re.findall(r"```toml\n(.*?)```", MODELS, re.DOTALL)[:3]
(GIVEN,) = re.findall(r"```toml\n(.*?)```", LIMITS, re.DOTALL)


def _commands(page: str) -> list[str]:
    found = [line[2:] for block in re.findall(r"```console\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]
    return [line for line in found if line.startswith("rockbot")]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROCKBOT_STATE_URL", "memory://")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "none")


@pytest.mark.parametrize("command", [command for command in _commands(MODELS) if " check" not in command])
def test_a_documented_command_about_models_works(command: str, capfd: pytest.CaptureFixture[str]) -> None:
    Path("rockbot.toml").write_text(NAMES)
    assert run(shlex.split(command)[1:]) == 0, capfd.readouterr().err
    out = capfd.readouterr().out
    assert "no model calls were counted" in out or "anthropic/claude" in out


def test_the_documented_check_tries_what_agents_use(capfd: pytest.CaptureFixture[str]) -> None:
    (command,) = [command for command in _commands(MODELS) if " check" in command]
    Path("rockbot.toml").write_text('model = "scripted/demo"')
    assert run(shlex.split(command)[1:]) == 0
    assert "scripted/demo" in capfd.readouterr().out


def test_documented_choices_are_what_the_page_says(capfd: pytest.CaptureFixture[str]) -> None:
    Path("rockbot.toml").write_text(NAMES)
    chosen = {}
    for options in ("--lane scheduled", "--input-tokens 100", "--input-tokens 20000", "--role memory"):
        assert run(["models", "explain", "assistant", *shlex.split(options)]) == 0
        chosen[options] = capfd.readouterr().out.splitlines()[0].partition(": ")[2]
    assert chosen == {
        "--lane scheduled": "anthropic/claude-haiku-5-5",
        "--input-tokens 100": "anthropic/claude-sonnet-5-5",
        "--input-tokens 20000": "anthropic/claude-opus-5-5",
        "--role memory": "anthropic/claude-haiku-5-5",
    }


def test_documented_defaults_are_the_defaults() -> None:
    table = re.findall(r"^\| `(\w+)` \| [^|]* \| ([^|]*) \|$", MODELS, re.MULTILINE)
    assert [reason for reason, default in table if default == "goes on"] == list(FALL_ON)
    Path("rockbot.toml").write_text(BACKENDS)
    given = load().backends["anthropic"]
    plain = BackendSettings()
    for name in ("breaker_failures", "breaker_seconds", "breaker_longest_seconds"):
        assert getattr(given, name) == getattr(plain, name)


def test_documented_prices_count() -> None:
    Path("prices.toml").write_text('[[prices]]\nmodel = "x/y"\ninput = 1\noutput = 1\nsince = 2026-01-01\n')
    Path("rockbot.toml").write_text(PRICES)
    table = PriceTable.load(load().prices)
    assert table.price("ollama/qwen3:8b", today()) is not None
    assert table.price("gpu/Qwen/Qwen3-32B", today()) is not None
    assert table.price("x/y", today()) is not None


@pytest.mark.parametrize("command", _commands(LIMITS))
def test_a_documented_command_about_limits_works(command: str, capfd: pytest.CaptureFixture[str]) -> None:
    Path("rockbot.toml").write_text(GIVEN)
    assert run(shlex.split(command)[1:]) == 0, capfd.readouterr().err


def test_every_key_is_on_its_page() -> None:
    for section in (ModelSettings, TierRuleSettings, BackendSettings, PriceSettings):
        for key in section.model_fields:
            assert re.search(rf"\b{key}\b", MODELS), key
            assert re.search(rf"\b{key}\b", SETTINGS), key
    for key in LimitSettings.model_fields:
        assert f"`{key}`" in LIMITS
        assert re.search(rf"\b{key}\b", SETTINGS), key
