"""Messages that kill their process, over a real broker, with processes that really die.

However many lie in one prefetch window, each ends as one dead letter with its reason, and every neighbour is handled.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest
from crash.poison_child import PREFETCH, Job
from e2e.processes import environment
from nodes.rabbitmq import free_port

from rockbot_messaging import MessageEnvelope, WorkSubscription
from rockbot_messaging.clock import RandomIds, SystemClock
from rockbot_messaging.rabbitmq import RabbitBus, RabbitSettings

pytestmark = [pytest.mark.rabbitmq, pytest.mark.crash, pytest.mark.timeout(240)]

CHILD = Path(__file__).with_name("poison_child.py")
WORK = WorkSubscription(name="jobs", patterns=("test.job",))
#: The broker's limit of returns, which must never decide.
LIMIT = 20


def _noted(trace: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in trace.read_text().splitlines()] if trace.exists() else []


async def _run_until_done(arguments: list[str], bus: RabbitBus, handled: int, dead: int, trace: Path) -> list[int]:
    """Start a process again whenever it has died, until everything is handled or dead; how each of them ended."""
    ends: list[int] = []
    while True:
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(CHILD), *arguments, env=environment(PYTHONPATH=str(CHILD.parent.parent))
        )
        dying = asyncio.ensure_future(process.wait())
        try:
            async with asyncio.timeout(60):
                while not dying.done():
                    letters = await bus.dead_letters.letters(WORK.name, limit=1000)
                    done = {str(note["handled"]) for note in _noted(trace) if "handled" in note}
                    if len(letters) >= dead and len(done) >= handled:
                        os.kill(process.pid, signal.SIGTERM)
                        await dying
                        return ends
                    await asyncio.wait([dying], timeout=0.05)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        ends.append(await dying)
        assert len(ends) < 60, "processes die for ever"


@pytest.mark.parametrize(
    "killers", [(40,), (10, 50, 90), pytest.param(tuple(range(0, 98, 14)), marks=pytest.mark.full)]
)
async def test_each_killer_is_one_dead_letter_and_every_neighbour_is_handled(
    amqp_url: str, tmp_path: Path, killers: tuple[int, ...]
) -> None:
    namespace = f"poison{free_port()}"
    trace = tmp_path / "trace.jsonl"
    bus = RabbitBus(
        RabbitSettings(url=amqp_url, namespace=namespace, subscriptions=("jobs",)), SystemClock(), RandomIds()
    )
    await bus.open()
    try:
        await bus.declare([WORK])
        names = [f"kills-{number}" if number in killers else f"job-{number}" for number in range(PREFETCH)]
        await bus.publisher.publish_many(
            [
                MessageEnvelope(
                    topic="test.job",
                    body=Job(kills=name.startswith("kills")).to_body(),
                    message_id=name,
                    type=Job.type_name,
                    source="test",
                )
                for name in names
            ]
        )
        arguments = [amqp_url, namespace, f"sqlite:///{tmp_path / 'state.db'}", str(trace)]
        sound = PREFETCH - len(killers)
        ends = await _run_until_done(arguments, bus, sound, len(killers), trace)
        letters = await bus.dead_letters.letters(WORK.name, limit=1000)
    finally:
        await bus.close()
    assert set(ends) == {-signal.SIGKILL}
    assert Counter(letter.envelope.message_id for letter in letters) == {name: 1 for name in names if "kills" in name}
    for letter in letters:
        assert letter.failure.reason.startswith("handling was begun 3 times and every time the process died")
        assert letter.failure.error_type == "Poison"
    notes = _noted(trace)
    handled = Counter(str(note["handled"]) for note in notes if "handled" in note)
    assert set(handled) == {name for name in names if "kills" not in name}
    deaths = Counter(str(note["killed"]) for note in notes if "killed" in note and note["redelivered"])
    assert deaths == {name: 3 for name in names if "kills" in name}
    if len(killers) > 5:
        assert len(ends) > LIMIT, "the broker's limit was never near: this case proves nothing"
