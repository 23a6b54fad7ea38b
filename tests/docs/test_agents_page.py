"""The page about agents: its commands work in the example, its files are agents, its table has the defaults."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from gateway.fake_agent import served_host

from rockbot.cli.main import run
from rockbot.settings import load
from rockbot.settings_agents import AgentFileSettings, AgentSettings
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.subscriptions import WatchSubscription
from rockbot_messaging.verdicts import Ack, Verdict

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "agents.md").read_text()
EXAMPLE = ROOT / "examples" / "agents"
COMMANDS = [line[2:] for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(EXAMPLE, tmp_path / "example")
    monkeypatch.chdir(tmp_path / "example")
    monkeypatch.setenv("ROCKBOT_STATE_URL", "memory://")
    return tmp_path / "example"


def test_there_are_commands_to_run() -> None:
    assert len(COMMANDS) >= 6


@pytest.mark.parametrize("command", [command for command in COMMANDS if " reload" not in command])
def test_a_documented_command_works_in_the_example(
    command: str, example: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(shlex.split(command)[1:]) == 0
    out, err = capfd.readouterr()
    assert "clerk" in out + err


async def test_the_documented_reload_is_the_broadcast(example: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (command,) = [command for command in COMMANDS if " reload" in command]
    async with served_host() as host:
        heard = []

        async def hear(envelope: MessageEnvelope) -> Verdict:
            heard.append(json.loads(envelope.body))
            return Ack()

        await host.bus.subscriber.subscribe(WatchSubscription(name="test", patterns=("control.reload",)), hear)
        code = await asyncio.to_thread(run, ["--socket", str(host.socket), *shlex.split(command)[1:]])
        assert code == 0, capfd.readouterr().err
        async with asyncio.timeout(60):
            while not heard:
                await asyncio.sleep(0.001)
    assert heard == [{"reason": "new duties"}]


def test_the_documented_files_are_agents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, clerk, channels = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("agents").mkdir()
    Path("rockbot.toml").write_text(settings)
    Path("agents/clerk.toml").write_text(channels + clerk)
    agents = load().agents
    assert set(agents) == {"assistant", "clerk"}
    assert agents["clerk"].channels == ("telegram", "web")


def test_the_page_names_every_key_of_an_agent() -> None:
    named = {name.removesuffix(".*") for name in re.findall(r"`([a-z_.*]+)`", PAGE)}
    assert set(AgentSettings.model_fields) - named == set()
    assert {f"agent_files.{name}" for name in AgentFileSettings.model_fields} <= named


def test_the_prompt_of_the_example_is_printed_as_the_model_gets_it(
    example: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["agents", "prompt", "clerk", "--text"]) == 0
    text = capfd.readouterr().out
    assert text.startswith((EXAMPLE / "agents/clerk/identity.md").read_text())
    assert text.rstrip().endswith((EXAMPLE / "agents/clerk/memory.md").read_text().strip())
    assert run(["--json", "agents", "prompt", "clerk"]) == 0
    rows = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [row["section"] for row in rows] == ["identity", "instructions", "skills", "memory"]
    assert "\n\n".join(row["text"] for row in rows) == text.rstrip("\n")


def test_check_tells_what_is_cut_and_what_is_wrong(example: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (example / "agents" / "clerk" / "duties.md").write_text("x" * 70_000)
    assert run(["agents", "check"]) == 6
    assert "characters of instructions are beyond its budget of 60000" in capfd.readouterr().err
    (example / "agents" / "clerk" / "duties.md").unlink()
    assert run(["agents", "check"]) == 3
    assert "(from agents/clerk.toml, line 3): 'clerk/duties.md' does not exist" in capfd.readouterr().err
    assert run(["agents", "show", "clark"]) == 3
