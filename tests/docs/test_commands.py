"""Commands for running hosts in the documentation work as printed."""

from __future__ import annotations

import asyncio
import io
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from gateway.fake_agent import FakeHost, bury, served_host

from rockbot.cli.main import run
from rockbot.events import ApprovalRequest
from rockbot.letters.models import LetterFilter
from rockbot.state.keys import approval_key, task_key
from rockbot_messaging.subscriptions import WorkSubscription

ROOT = Path(__file__).parents[2]
NAMES = ("dead-letters.md", "cli.md", "streaming.md", "turns.md", "approvals.md", "observability.md")
PAGES = (*(ROOT / "docs" / name for name in NAMES), ROOT / "README.md")
QUEUE = "agent.assistant"
#: Commands that are printed as what fails when a letter waits.
FAILING = {"rockbot doctor --fail-on dead-letters": 6, "rockbot dlq list --fail-if-any": 6}


class Terminal(io.StringIO):
    """Somebody at the keyboard."""

    def isatty(self) -> bool:
        return True


def _commands() -> Iterator[str]:
    for page in PAGES:
        for block in re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL):
            for line in block.splitlines():
                if re.match(r"\$ (\.venv/bin/)?rockbot (dlq|doctor|ask|approvals|turn (cancel|describe))", line):
                    yield line.removeprefix("$ ").removeprefix(".venv/bin/")


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    editor = tmp_path / "editor.py"
    editor.write_text(
        "import pathlib, sys\npath = pathlib.Path(sys.argv[1])\n"
        "path.write_text(path.read_text().replace('inptu', 'input'))\n"
    )
    monkeypatch.setenv("EDITOR", f"{sys.executable} {editor}")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)


async def _prepared(host: FakeHost, command: str) -> tuple[str, str]:
    """Letters that a command can be tried on, and the command with what stands for ids filled in; and what is typed."""
    if "approvals" in command or "turn cancel" in command:
        return await _asked(host, command), ""
    mends = any(option in command for option in ("--edit", "--headers"))
    body = b'{"inptu": "silent"}' if mends else b'{"input": "silent"}'
    for number in range(3):
        await bury(host.bus, f"letter-{number}", body=body, headers={"draft": "yes"})
    desk = host.operator.dead_letters
    (group,) = await desk.groups(LetterFilter(queue=QUEUE))
    if "restore" in command or "discarded" in command:
        async for _ in desk.discard(LetterFilter(queue=QUEUE), reason="a test", actor="me"):
            pass
    if "import" in command:
        lines = [letter.model_dump_json() async for letter in desk.export(LetterFilter())]
        Path("letters.jsonl").write_text("\n".join(lines))
        async for _ in desk.purge(QUEUE, expect=3, actor="me", reason="a test"):
            pass
    filled = re.sub(r"\bID\b", "letter-1", re.sub(r"\bGROUP\b", group.id, command))
    return filled, "3\n" if "purge" in command else "y\n"


async def _asked(host: FakeHost, command: str) -> str:
    """Something that people are asked, and a task that runs."""
    for kind in ("approval", "question"):
        request = ApprovalRequest(
            approval_id=kind, kind=kind, task_id="t", conversation_id="c", agent="assistant", tool="run_python"
        )
        await host.store.put(approval_key("default", kind), request.model_dump_json().encode())
    row = b'{"conversation_id": "c", "agent": "assistant", "status": "accepted"}'
    await host.store.put(task_key("default", "t"), row)
    work = WorkSubscription(name="steps", patterns=("agent.step.assistant", "approval.decision.assistant"))
    await host.bus.declare([work])
    return re.sub(r"\bTASK\b", "t", re.sub(r"\bQUESTION\b", "question", re.sub(r"\bID\b", "approval", command)))


def test_there_are_commands_to_run() -> None:
    assert len(list(_commands())) > 20


@pytest.mark.parametrize("command", list(_commands()))
async def test_a_documented_command_works(
    command: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    async with served_host() as host:
        line, typed = await _prepared(host, command)
        monkeypatch.setattr(sys, "stdin", Terminal(typed))
        arguments = ["--socket", str(host.socket), *shlex.split(line)[1:]]
        code = await asyncio.to_thread(run, arguments)
        out, err = capfd.readouterr()
        assert code == FAILING.get(command, 0), f"{out}{err}"
