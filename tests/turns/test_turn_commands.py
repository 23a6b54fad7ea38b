"""``rockbot turn`` as people type it, over the socket of a host."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from core.town import Town, Worker, opened_town
from turns.desks import letters_of

from rockbot.cli.main import run
from rockbot.gateway.app import create_app
from rockbot.gateway.server import serve
from rockbot.operators.bus import BusOperator
from rockbot.turns.service import TurnService
from rockbot_messaging.testing import SequenceIds

Cli = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
async def town(tmp_path: Path) -> AsyncIterator[Town]:
    async with opened_town("memory", tmp_path) as made:
        yield made


@pytest.fixture
async def cli(
    town: Town, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> AsyncIterator[Cli]:
    """Run a command against the town's operator; in a thread, because it brings an event loop of its own."""
    monkeypatch.chdir(tmp_path)
    letters = letters_of(town)
    turns = TurnService(town.store, ids=SequenceIds(91), letters=letters)
    operator = BusOperator(town.client, clock=town.clock, ids=SequenceIds(92), dead_letters=letters, turns=turns)
    with tempfile.TemporaryDirectory(prefix="rb") as folder:
        socket = Path(folder) / "host" / "s.sock"
        async with serve(create_app(operator), socket):

            async def execute(*arguments: str) -> tuple[int, str, str]:
                capfd.readouterr()
                code = await asyncio.to_thread(run, ["--socket", str(socket), *arguments])
                return (code, *capfd.readouterr())

            yield execute


async def test_a_timeline_shows_each_step_and_a_fork_goes_on_from_one(town: Town, cli: Cli) -> None:
    await town.host(Worker().plugin)
    await town.say("use it", id="t1", conversation_id="talk")
    await town.answered(1)
    code, out, err = await cli("turn", "timeline", "t1")
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()[2:]] == ["1", "2", "3", "4", "5", "6", "7", "8"]
    assert "Task t1: completed" in out
    code, out, _ = await cli("--json", "turn", "timeline", "t1")
    steps: list[dict[str, Any]] = [json.loads(line) for line in out.splitlines()]
    assert (code, steps[0]["kind"], steps[-1]["kind"]) == (0, "accepted", "completed")
    code, out, _ = await cli("turn", "show", "t1")
    assert code == 0
    assert "you said 42" in out
    code, out, _ = await cli("--json", "turn", "fork", "talk", "--at", "4", "--name", "other")
    assert (code, json.loads(out)["conversation_id"]) == (0, "other")
    await town.say("another way", id="t2", conversation_id="other")
    assert (await town.answered(2))[-1].output == "you said another way"


async def test_what_stalls_is_named_with_the_command_that_resumes_it(town: Town, cli: Cli) -> None:
    worker = Worker()
    worker.broken = True
    await town.host(worker.plugin)
    await town.say("hello", id="t1")
    await town.until_status("t1", "stalled")
    code, out, _ = await cli("turn", "show", "t1")
    assert code == 0
    assert "rockbot turn resume t1" in out
    assert "no such model" in out
    worker.broken = False
    code, out, _ = await cli("turn", "resume", "t1")
    assert (code, out.strip()) == (0, "sent on 1 letter")
    (response,) = await town.answered(1)
    assert response.output == "you said hello"
    code, _, err = await cli("turn", "resume", "t1")
    assert code == 2
    assert "has ended (completed)" in err


async def test_a_task_that_is_not_there_is_an_error_of_one_line(town: Town, cli: Cli) -> None:
    code, out, err = await cli("turn", "show", "nothing")
    assert (code, out, err.strip()) == (1, "", "error: there is no task 'nothing'")
    code, _, err = await cli("--json", "turn", "fork", "nothing")
    assert (code, json.loads(err)["error"]["code"]) == (1, "conversation_not_found")
