"""A host is killed at every point between two effects of a turn; the turn ends, and no finished call is made twice."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import uuid
from collections import Counter
from itertools import count
from pathlib import Path
from typing import Any

import pytest

CHILD = Path(__file__).with_name("child.py")
#: Runs at the same time; most of their time is start-up and waiting for claims to run out.
AT_ONCE = 4

pytestmark = [pytest.mark.alone, pytest.mark.crash, pytest.mark.sandbox]


def _settings(folder: Path, *, broker: str, namespace: str) -> Path:
    trace = folder / "trace"
    path = folder / "rockbot.toml"
    path.write_text(
        f'broker_url = "{broker}"\n'
        f'state_url = "sqlite:///{folder / "state.db"}"\n'
        f'namespace = "{namespace}"\n'
        'model = "scripted/demo"\n'
        "[host]\nrecovery_seconds = 0.5\nclaim_seconds = 0.3\n"
        f'[scripted]\ncall_log = "{trace}"\n'
        f'[scripts]\nworkers = 1\nclaim_seconds = 0.3\ncall_log = "{trace}"\n'
    )
    return path


async def _run(config: Path, kill_at: int, mode: str) -> int:
    """Run the child until it has answered (then SIGTERM) or is dead; returns its exit code."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("ROCKBOT_", "ANTHROPIC_"))}
    environment["ROCKBOT_TEST_CHILD"] = "1"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(CHILD),
        str(config),
        str(config.parent / "trace"),
        str(kill_at),
        mode,
        stdout=asyncio.subprocess.PIPE,
        env=environment,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(40):
            told = False
            async for line in process.stdout:
                if line.strip() == b"answered" and not told and process.returncode is None:
                    told = True
                    os.kill(process.pid, signal.SIGTERM)
            return await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _trace(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "trace").read_text().splitlines()]


def _check(trace: list[dict[str, Any]]) -> None:
    answers = {(line["task"], line["status"], line["answer"]) for line in trace if "answer" in line}
    assert len(answers) == 1, answers
    (_, status, output) = answers.pop()
    assert status == "completed"
    assert "42" in output
    finished: set[str] = set()
    calls: Counter[str] = Counter()
    for line in trace:
        if "finished" in line:
            finished.add(line["finished"])
        elif "call_id" in line:
            assert line["call_id"] not in finished, f"a finished call was made again: {line}"
            calls[line["call_id"]] += 1
    assert len(calls) == 3, "two model calls and one sandbox run make this turn"
    killed = [line["killed"] for line in trace if "killed" in line]
    repeated = {call: count for call, count in calls.items() if count > 1}
    # Only a kill inside a call, before its result was written down, may repeat that one call.
    if not any("ledger.finish" in point or "store.put" in point for point in killed):
        assert not repeated, (killed, repeated)
    assert sum(calls.values()) <= 4, (killed, repeated)


async def _survives(folder: Path, point: int, *, broker: str) -> bool:
    """One turn with a kill at `point`; whether the turn was long enough to be killed there."""
    run = folder / f"at-{point}"
    run.mkdir()
    config = _settings(run, broker=broker, namespace=f"crash{uuid.uuid4().hex[:12]}")
    code = await _run(config, point, "publish")
    if code == -signal.SIGKILL:
        if not any("answer" in line for line in _trace(run)):
            assert await _run(config, 0, "resume") == 0, f"killed at {point}, the next process failed"
    else:
        assert code == 0, f"the process that was not killed at {point} failed"
    _check(_trace(run))
    return code == -signal.SIGKILL


async def _matrix(folder: Path, *, broker: str, every: int = 1) -> int:
    """Kill at every point of a turn, or at each `every`-th; returns how many runs were killed."""
    killed = 0
    for first in count(1, AT_ONCE * every):
        async with asyncio.TaskGroup() as group:
            window = range(first, first + AT_ONCE * every, every)
            runs = [group.create_task(_survives(folder, point, broker=broker)) for point in window]
        outcomes = [run.result() for run in runs]
        killed += sum(outcomes)
        if not all(outcomes):
            return killed
    raise AssertionError("unreachable")


@pytest.mark.timeout(400)
async def test_a_turn_survives_a_kill_at_every_effect_of_an_embedded_host(tmp_path: Path) -> None:
    killed = await _matrix(tmp_path, broker="memory://")
    assert killed >= 15


@pytest.mark.rabbitmq
@pytest.mark.timeout(400)
async def test_a_turn_survives_kills_of_a_host_on_rabbitmq(tmp_path: Path, amqp_url: str) -> None:
    killed = await _matrix(tmp_path, broker=amqp_url, every=4)
    assert killed >= 10
