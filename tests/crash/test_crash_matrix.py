"""A host, or its store, is killed at every point between two effects of a turn; it ends, and no finished call is made twice.

Every day: an embedded host on SQLite at every point, and a host on RabbitMQ with one server of state at some of them, the other
server and other points on the next day (`ROCKBOT_TEST_SEED` says otherwise); a turn that waits for a person at some. `make
chaos`: every store at every point, with and without a person.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, Literal, Protocol

import pytest
from nodes.rabbitmq import RabbitNode

CHILD = Path(__file__).with_name("child.py")
#: Runs at the same time; most of their time is start-up and waiting for claims to run out.
AT_ONCE = 4

pytestmark = [pytest.mark.alone, pytest.mark.crash]


#: What a turn does between its two model calls: call a function, have a person approve that first, or run a script.
Doing = Literal["sum", "approved sum", "script"]


class Server(Protocol):
    """A server of state that belongs to the suite."""

    url: str

    def kill(self) -> None: ...

    def start(self) -> None: ...


#: The servers, and what keeps a run apart from others on one.
SERVERS = {"postgres": ("postgres", "pool=4&schema"), "redis": ("redis_node", "pool=4&prefix")}
DAY = int(os.environ.get("ROCKBOT_TEST_SEED", datetime.now(UTC).toordinal()))
TODAY = sorted(SERVERS)[DAY % len(SERVERS)]


#: The offline model calls a tool once, and says what it said.
RULES = """
[[scripts.sums.rules]]
name = "ask"
when = { last = "user" }
calls = [{ tool = "multiply", arguments = { a = 6, b = 7 } }]

[[scripts.sums.rules]]
name = "tell"
when = { last = "tool" }
reply = "It is $result."
"""
TOOL = """
import json, os
from rockbot.tools import ToolContext, Toolset

sums = Toolset("sums")

@sums.tool(idempotent=True, needs_approval=APPROVAL)
async def multiply(a: int, b: int, context: ToolContext) -> int:
    \"\"\"Multiply.\"\"\"
    with open(TRACE, "ab", buffering=0) as trace:
        trace.write(json.dumps({"call_id": context.idempotency_key}).encode() + b"\\n")
    return a * b
"""


def _settings(folder: Path, *, broker: str, state: str = "", doing: Doing = "sum") -> Path:
    sandbox = doing == "script"
    own = f"crash{uuid.uuid4().hex[:12]}"
    trace = folder / "trace"
    path = folder / "rockbot.toml"
    (folder / "rules.toml").write_text(RULES)
    (folder / "tools.py").write_text(f"TRACE, APPROVAL = {str(trace)!r}, {doing == 'approved sum'}\n{TOOL}")
    handlers = ["logging", "deadline", "deduplication", "agent", "llm", "scripts" if sandbox else "tools"]
    path.write_text(
        f'broker_url = "{broker}"\n'
        f'state_url = "{state + own if state else f"sqlite:///{folder}/state.db"}"\n'
        f'namespace = "{own}"\n'
        f'model = "scripted/{"demo" if sandbox else "sums"}"\n'
        f"handlers = {handlers}\n"
        "[streaming]\nenabled = false\n"  # what is lossy needs no surviving
        "[host]\nrecovery_seconds = 0.5\nclaim_seconds = 0.3\n"
        f'[scripted]\ncall_log = "{trace}"\n'
        + ("" if sandbox else f'rules = "{folder}/rules.toml"\n[tools]\nfiles = ["{folder}/tools.py"]\n')
        + f'[scripts]\nworkers = 1\nclaim_seconds = 0.3\ncall_log = "{trace}"\n'
    )
    return path


async def _run(config: Path, kill_at: int, mode: str, server: Server | None = None) -> int:
    """Run the child until it has answered (then SIGTERM) or is dead; returns its exit code.

    Whenever it tells that it stands still, the `server` is killed; it is started again while the child goes on.
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("ROCKBOT_", "ANTHROPIC_"))}
    environment["ROCKBOT_TEST_CHILD"] = "1"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(CHILD),
        str(config),
        str(config.parent / "trace"),
        str(kill_at),
        mode,
        stdin=asyncio.subprocess.PIPE if server else None,
        stdout=asyncio.subprocess.PIPE,
        env=environment,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(150):
            told = False
            async for line in process.stdout:
                if line.strip() == b"reached" and server is not None and process.stdin is not None:
                    await asyncio.to_thread(server.kill)
                    process.stdin.write(b".")
                    await asyncio.to_thread(server.start)
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


def _check(trace: list[dict[str, Any]], *, server_killed: bool = False) -> None:
    answers = {(line["task"], line["status"], line["answer"]) for line in trace if "answer" in line}
    assert len(answers) == 1, answers
    (_, status, output) = answers.pop()
    assert status == "completed"
    assert "42" in output
    finished: set[str] = set()
    calls: Counter[str] = Counter()
    for line in trace:
        if "finished" in line:
            finished |= {line["finished"], line["tool"]}
        elif "call_id" in line:
            assert line["call_id"] not in finished, f"a finished call was made again: {line}"
            calls[line["call_id"]] += 1
    assert len(calls) == 3, "two model calls and one tool call make this turn"
    if server_killed:
        return  # a call whose result could not be written down is made again, as often as that happens
    # Only a kill inside a call, before its result was written down, may repeat that one call.
    repeated = {call for call, count in calls.items() if count > 1}
    assert repeated <= _open_when_killed(trace), [line for line in trace if "killed" in line]
    assert sum(calls.values()) <= 4, repeated


def _open_when_killed(trace: list[dict[str, Any]]) -> set[str]:
    """The calls that were made and not written down when the process died; none when it lived."""
    made: set[str] = set()
    for line in trace:
        if "killed" in line:
            return made
        if "call_id" in line:
            made.add(line["call_id"])
        made -= {line.get("finished"), line.get("tool")}
    return set()


async def _survives(folder: Path, point: int, *, broker: str, state: str, doing: Doing = "sum") -> bool:
    """One turn with a kill at `point`; whether the turn was long enough to be killed there."""
    run = folder / f"at-{point}"
    run.mkdir()
    config = _settings(run, broker=broker, state=state, doing=doing)
    code = await _run(config, point, "publish")
    if code == -signal.SIGKILL:
        if not any("answer" in line for line in _trace(run)):
            assert await _run(config, 0, "resume") == 0, f"killed at {point}, the next process failed"
    else:
        assert code == 0, f"the process that was not killed at {point} failed"
    trace = _trace(run)
    _check(trace)
    assert any("approves" in line for line in trace) == (doing == "approved sum")
    return code == -signal.SIGKILL


async def _matrix(folder: Path, *, broker: str, state: str = "", every: int = 1, doing: Doing = "sum") -> int:
    """Kill at every point of a turn, or at each `every`-th, others on the next day; returns how many runs were killed."""
    killed = 0
    for first in count(1 + DAY % every, AT_ONCE * every):
        async with asyncio.TaskGroup() as group:
            window = range(first, first + AT_ONCE * every, every)
            runs = [
                group.create_task(_survives(folder, point, broker=broker, state=state, doing=doing)) for point in window
            ]
        outcomes = [run.result() for run in runs]
        killed += sum(outcomes)
        if not all(outcomes):
            return killed
    raise AssertionError("unreachable")


def _server(request: pytest.FixtureRequest, name: str) -> tuple[Server, str]:
    """A server of state, and its address but for the name of the run."""
    fixture, query = SERVERS[name]
    server: Server = request.getfixturevalue(fixture)
    return server, f"{server.url}?{query}="


@pytest.fixture
def own_broker() -> Iterator[str]:
    """A node for one test: every run leaves a namespace of queues, and those of a few matrices fill a node's memory."""
    node = RabbitNode()
    try:
        node.start()
        yield node.url
    finally:
        node.stop()


async def _turn_over_a_server_that_dies(folder: Path, server: Server, state: str, *, broker: str, every: int) -> int:
    """One turn; the server of its state is killed at each `every`-th effect. Returns how often that was."""
    config = _settings(folder, broker=broker, state=state)
    assert await _run(config, every, "tell", server) == 0
    trace = _trace(folder)
    _check(trace, server_killed=True)
    return sum("reached" in line for line in trace)


@pytest.mark.timeout(900)
async def test_a_turn_survives_a_kill_at_every_effect_of_an_embedded_host(tmp_path: Path) -> None:
    assert await _matrix(tmp_path, broker="memory://") >= 15


@pytest.mark.timeout(300)
async def test_a_turn_that_waits_for_a_person_survives_kills_of_an_embedded_host(tmp_path: Path) -> None:
    assert await _matrix(tmp_path, broker="memory://", every=20, doing="approved sum") >= 3


@pytest.mark.rabbitmq
@pytest.mark.timeout(900)
async def test_a_turn_survives_kills_of_a_host_whose_state_is_on_a_server(
    tmp_path: Path, amqp_url: str, request: pytest.FixtureRequest
) -> None:
    _, state = _server(request, TODAY)
    assert await _matrix(tmp_path, broker=amqp_url, state=state, every=8) >= 5


@pytest.mark.rabbitmq
@pytest.mark.timeout(300)
async def test_a_turn_survives_kills_of_the_server_that_keeps_its_state(
    tmp_path: Path, amqp_url: str, request: pytest.FixtureRequest
) -> None:
    server, state = _server(request, TODAY)
    assert await _turn_over_a_server_that_dies(tmp_path, server, state, broker=amqp_url, every=9) >= 3


@pytest.mark.full
@pytest.mark.sandbox
@pytest.mark.timeout(1200)
async def test_a_turn_that_runs_a_script_survives_a_kill_at_every_effect(tmp_path: Path) -> None:
    assert await _matrix(tmp_path, broker="memory://", doing="script") >= 15


@pytest.mark.full
@pytest.mark.rabbitmq
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("doing", ["sum", "approved sum"])
@pytest.mark.parametrize("store", ["sqlite", *SERVERS])
async def test_a_turn_survives_a_kill_at_every_effect_whatever_its_store(
    tmp_path: Path, own_broker: str, request: pytest.FixtureRequest, store: str, doing: Doing
) -> None:
    state = "" if store == "sqlite" else _server(request, store)[1]
    assert await _matrix(tmp_path, broker=own_broker, state=state, doing=doing) >= 15


@pytest.mark.full
@pytest.mark.timeout(1200)
async def test_a_turn_that_waits_for_a_person_survives_a_kill_at_every_effect(tmp_path: Path) -> None:
    assert await _matrix(tmp_path, broker="memory://", doing="approved sum") >= 15


@pytest.mark.full
@pytest.mark.rabbitmq
@pytest.mark.timeout(900)
@pytest.mark.parametrize("store", SERVERS)
@pytest.mark.parametrize("every", [2, 3, 5])
async def test_a_turn_survives_its_server_killed_at_every_few_effects(
    tmp_path: Path, own_broker: str, request: pytest.FixtureRequest, store: str, every: int
) -> None:
    server, state = _server(request, store)
    assert await _turn_over_a_server_that_dies(tmp_path, server, state, broker=own_broker, every=every) >= 15 // every
