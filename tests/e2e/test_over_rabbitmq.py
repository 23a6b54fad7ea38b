"""The main job over a real broker, as its users do it: two processes of ours, a client that knows nothing of them."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from e2e.processes import environment, rockbot, running

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()

pytestmark = [pytest.mark.rabbitmq, pytest.mark.sandbox, pytest.mark.timeout(180)]


def _client() -> str:
    """The client of the README, as printed."""
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    return next(block for block in blocks if "basic_publish" in block)


@pytest_asyncio.fixture
async def env(amqp_url: str, tmp_path: Path) -> AsyncIterator[dict[str, str]]:
    """Host and script service running; yields the environment that reaches them."""
    variables = environment(
        ROCKBOT_BROKER_URL=amqp_url,
        ROCKBOT_STATE_URL=f"sqlite:///{tmp_path / 'state.db'}",
        ROCKBOT_MODEL="scripted/demo",
        ROCKBOT_HOST__LOG_FORMAT="json",
    )
    async with (
        running("run", until="host consumes", env=variables, cwd=tmp_path),
        running("scripts", until="service consumes", env=variables, cwd=tmp_path),
    ):
        yield variables


async def _run_client(env: dict[str, str], program: str, cwd: Path) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, env=env, cwd=cwd, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode()


async def test_the_readmes_client_gets_its_answer_and_its_correlation_id(env: dict[str, str], tmp_path: Path) -> None:
    program = _client()
    assert len([line for line in program.splitlines() if line.strip()]) <= 12
    assert "rockbot." not in program.replace('"rockbot"', "")
    correlation_id, _, output = (await _run_client(env, program, tmp_path)).partition(" ")
    assert correlation_id == "my-42"
    assert "42" in output


async def test_what_is_no_json_waits_as_a_dead_letter_and_is_answered_once_mended(
    env: dict[str, str], tmp_path: Path
) -> None:
    poison = _client().replace("task = json.dumps", "task = 'not json' #")
    client = asyncio.create_task(_run_client(env, poison, tmp_path))
    letters: list[dict[str, Any]] = []
    async with asyncio.timeout(60):
        while not letters:
            code, out, err = await rockbot(["--json", "dlq", "list", "agent.assistant"], env=env, cwd=tmp_path)
            assert code == 0, err
            letters = [json.loads(line) for line in out.splitlines()]
    (letter,) = letters
    letter_id = str(letter["id"])
    code, out, _ = await rockbot(["dlq", "show", "agent.assistant", letter_id], env=env, cwd=tmp_path)
    assert code == 0
    for said in ("not json", "agent.task.assistant", "Invalid JSON", "rockbot dlq replay"):
        assert said in out

    code, queues, _ = await rockbot(["dlq", "queues"], env=env, cwd=tmp_path)
    assert code == 0
    assert "rockbot.agent.assistant.dlq" in queues

    mended = json.dumps({"input": "What is 6 times 7?"})
    replay = ["dlq", "replay", "agent.assistant", letter_id[:12], "--body", mended]
    code, _, err = await rockbot(replay, env=env, cwd=tmp_path)
    assert code == 0, err
    correlation_id, _, output = (await client).partition(" ")
    assert correlation_id == "my-42"
    assert "42" in output
    code, out, _ = await rockbot(["--json", "dlq", "list", "agent.assistant"], env=env, cwd=tmp_path)
    assert (code, out) == (0, "")


async def test_ask_shows_the_steps_and_prints_the_answer(env: dict[str, str], tmp_path: Path) -> None:
    code, out, err = await rockbot(["ask", "assistant", "What is 6 times 7?"], env=env, cwd=tmp_path)
    assert code == 0, err
    assert "42" in out
    assert "run_python" in err


async def test_the_doctor_looks_at_broker_and_state(env: dict[str, str], tmp_path: Path) -> None:
    code, out, _ = await rockbot(["--json", "doctor"], env=env, cwd=tmp_path)
    assert code == 0
    found = {check["name"]: check["status"] for check in map(json.loads, out.splitlines())}
    assert found["broker"] == "ok"
    assert found["state"] == "ok"
    code, out, _ = await rockbot(
        ["--json", "--state", "sqlite:////proc/nowhere/state.db", "doctor"], env=env, cwd=tmp_path
    )
    assert code == 6
    found = {check["name"]: check for check in map(json.loads, out.splitlines())}
    assert found["state"]["status"] == "fail"
    assert "--state" in found["state"]["advice"]
