"""Cancelling over a real broker, by a client that knows nothing of ours: measured to the end of the child on another process."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import aio_pika
import pytest
from e2e.processes import environment, running

pytestmark = [pytest.mark.rabbitmq, pytest.mark.sandbox, pytest.mark.timeout(240)]

TASK = {"input": "```python\nwhile True: pass\n```"}


def children(pid: int) -> set[int]:
    """The child processes of a process."""
    found = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        found |= {int(child) for child in (task / "children").read_text().split()}
    return found


def busy_ticks(pid: int) -> int:
    """What a process has used of the processor, in clock ticks."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])


async def until_one_works(pid: int) -> set[int]:
    """The children, once one of them has used the processor for two seconds more: longer than it takes to begin."""
    before: dict[int, int] = {}
    while True:
        await asyncio.sleep(0.05)
        there = children(pid)
        if any(busy_ticks(child) - before.setdefault(child, busy_ticks(child)) > 200 for child in there):
            return there


async def test_a_foreign_message_ends_a_running_script_of_another_process_within_two_seconds(
    amqp_url: str, tmp_path: Path
) -> None:
    env = environment(
        ROCKBOT_BROKER_URL=amqp_url,
        ROCKBOT_STATE_URL=f"sqlite:///{tmp_path / 'state.db'}",
        ROCKBOT_MODEL="scripted/demo",
        ROCKBOT_HOST__LOG_FORMAT="json",
        ROCKBOT_SCRIPTS='{"default_wall_seconds": 600, "max_wall_seconds": 600}',
    )
    connection = await aio_pika.connect(amqp_url)
    async with (
        connection,
        running("run", until="host consumes", env=env, cwd=tmp_path),
        running("scripts", until="service consumes", env=env, cwd=tmp_path) as service,
    ):
        channel = await connection.channel()
        exchange = await channel.get_exchange("rockbot")
        lossy = await channel.get_exchange("rockbot.lossy")
        watch = await channel.declare_queue(exclusive=True)
        await watch.bind(lossy, "agent.status.*")
        replies = await channel.declare_queue(exclusive=True)

        async def cancelled_after(number: int) -> float:
            """Have a script run and its task cancelled; the seconds until the script's process was gone."""
            task = aio_pika.Message(json.dumps(TASK).encode(), reply_to=replies.name, message_id=f"m{number}")
            await exchange.publish(task, "agent.task.assistant")
            async with watch.iterator() as statuses:
                async for message in statuses:
                    await message.ack()
                    status = json.loads(message.body)
                    if status["kind"] == "tool_call":
                        break
            there = await until_one_works(service.pid)
            began = time.monotonic()
            cancel = aio_pika.Message(json.dumps({"task_id": status["task_id"]}).encode())
            await exchange.publish(cancel, "control.cancel")
            while there <= children(service.pid):
                await asyncio.sleep(0.005)
            seconds = time.monotonic() - began
            async with replies.iterator() as answers:
                async for message in answers:
                    await message.ack()
                    answer = json.loads(message.body)
                    break
            print(f"a running script of another process ended {seconds * 1000:.0f} ms after the message")
            assert (answer["status"], answer["error"]["code"]) == ("canceled", "canceled")
            return seconds

        # A machine that stands still for a moment has three tries.
        async with asyncio.timeout(150):
            for number in range(3):
                if await cancelled_after(number) < 2:
                    return
    raise AssertionError("it took longer than two seconds each time")
