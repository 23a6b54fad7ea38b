"""What `make run` shows, as a person sees it: steps, answers, a dead letter and how to send it on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from e2e.processes import environment, rockbot
from nodes.anthropic_api import Reply, events_of, message, serve, sse, text

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.sandbox]


async def test_the_examples_are_worked_through_and_the_poison_is_explained(tmp_path: Path) -> None:
    flags = ["--socket", str(tmp_path / "run.sock"), "--state", f"sqlite:///{tmp_path / 'run.db'}"]
    command = [*flags, "up", "--feed", str(ROOT / "examples" / "tasks.jsonl"), "--once"]
    code, out, err = await rockbot(command, env=environment(), cwd=tmp_path)
    assert code == 0, err
    for step in ("-> run_python", "<- run_python value: 84", "-> run_javascript", "asking scripted/demo"):
        assert step in err
    for answer in (
        "not a language model",
        "12 * (3 + 4) = 84",
        "BROKER + JOURNAL + SANDBOX",
        "FileNotFoundError",
        "Invalid JSON",
        f"--socket {tmp_path / 'run.sock'}",
        "dlq replay agent.assistant",
    ):
        assert answer in out


async def test_with_a_key_the_same_command_asks_the_real_model(tmp_path: Path) -> None:
    env = environment(ANTHROPIC_API_KEY="sk-ant-not-a-key", ANTHROPIC_BASE_URL="http://127.0.0.1:9")
    flags = ["--json", "--socket", str(tmp_path / "run.sock"), "--state", f"sqlite:///{tmp_path / 'run.db'}"]
    code, out, _ = await rockbot([*flags, "config", "show"], env=env, cwd=tmp_path)
    assert code == 0
    assert "sk-ant" not in out
    code, out, err = await rockbot([*flags, "pipeline"], env=env, cwd=tmp_path)
    assert code == 0, err
    names = [item["name"] for item in json.loads(out.splitlines()[0])["subscriptions"]]
    assert "llm.anthropic.interactive" in names


async def test_a_turn_with_a_tool_runs_through_the_real_adapter(tmp_path: Path) -> None:
    feed = tmp_path / "tasks.jsonl"
    feed.write_text('{"input": "How much is six times seven?"}\n')
    call = {"type": "tool_use", "id": "toolu_1", "name": "run_python", "input": {"code": "print(6 * 7)"}}
    async with serve() as server:
        whole = (message(call, stop="tool_use"), message(text("It is 42.")))
        server.replies = [Reply(sse(*events_of(each))) for each in whole]
        env = environment(ANTHROPIC_API_KEY="sk-ant-not-a-key", ANTHROPIC_BASE_URL=server.url)
        flags = ["--socket", str(tmp_path / "run.sock"), "--state", f"sqlite:///{tmp_path / 'run.db'}"]
        code, out, err = await rockbot([*flags, "up", "--feed", str(feed)], env=env, cwd=tmp_path)
    assert code == 0, err
    assert "It is 42." in out
    assert "-> run_python" in err
    first, second = (received.body for received in server.received)
    assert {"run_python", "run_javascript"} <= {tool["name"] for tool in first["tools"]}
    assert [entry["role"] for entry in second["messages"]] == ["user", "assistant", "user"]
    (result,) = second["messages"][2]["content"]
    assert (result["type"], result["tool_use_id"]) == ("tool_result", "toolu_1")
    assert "42" in json.dumps(result["content"])
