"""Processes and brokers die in mid-turn; every task is answered exactly once all the same."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aio_pika
import pytest
from e2e.processes import environment, rockbot, running
from nodes.rabbitmq import RabbitNode, free_port

pytestmark = [pytest.mark.rabbitmq, pytest.mark.sandbox, pytest.mark.crash, pytest.mark.timeout(300)]

HOST = ("run", "host consumes")
SCRIPTS = ("scripts", "service consumes")
#: A turn whose script takes two seconds.
SLOW = "```python\nimport time\nend = time.time() + 2\nwhile time.time() < end: pass\nprint('slept well')\n```"


def _environment(broker: str, folder: Path, **more: str) -> dict[str, str]:
    return environment(
        ROCKBOT_BROKER_URL=broker,
        ROCKBOT_STATE_URL=f"sqlite:///{folder / 'state.db'}",
        ROCKBOT_MODEL="scripted/demo",
        ROCKBOT_NAMESPACE=f"survival{free_port()}",
        ROCKBOT_HOST__LOG_FORMAT="json",
        ROCKBOT_SCRIPTS__CALL_LOG=str(folder / "calls.jsonl"),
        **more,
    )


@asynccontextmanager
async def _client(env: dict[str, str]) -> AsyncIterator[Any]:
    """Yields `ask(text)` (returns the correlation id) and a queue of (correlation id, answer)."""
    connection = await aio_pika.connect(env["ROCKBOT_BROKER_URL"])
    try:
        channel = await connection.channel()
        replies = await channel.declare_queue(exclusive=True)
        exchange = await channel.get_exchange(env["ROCKBOT_NAMESPACE"])
        inbox: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()

        async def on_reply(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            inbox.put_nowait((message.correlation_id or "", json.loads(message.body)))

        async def ask(name: str, text: str) -> None:
            body = json.dumps({"input": text}).encode()
            message = aio_pika.Message(body, correlation_id=name, reply_to=replies.name)
            await exchange.publish(message, "agent.task.assistant")

        await replies.consume(on_reply, no_ack=True)
        yield ask, inbox
    finally:
        await connection.close()


async def _begun(folder: Path) -> None:
    """A script has begun."""
    async with asyncio.timeout(60):
        while not (folder / "calls.jsonl").exists():
            await asyncio.sleep(0)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_turn_goes_on_after_host_and_scripts_were_ended_in_its_middle(
    amqp_url: str, tmp_path: Path, number: signal.Signals
) -> None:
    env = _environment(amqp_url, tmp_path)
    async with AsyncExitStack() as stack:
        first = [
            await stack.enter_async_context(running(name, until=until, env=env, cwd=tmp_path))
            for name, until in (HOST, SCRIPTS)
        ]
        ask, inbox = await stack.enter_async_context(_client(env))
        before_all = time.monotonic()
        await ask("slow", SLOW)
        await _begun(tmp_path)
        for process in first:
            os.kill(process.pid, number)
        in_the_middle = time.monotonic() - before_all < 2
        async with asyncio.timeout(60):
            codes = [await process.wait() for process in first]
        assert codes == [0 if number == signal.SIGTERM else -signal.SIGKILL] * 2
        for name, until in (HOST, SCRIPTS):
            await stack.enter_async_context(running(name, until=until, env=env, cwd=tmp_path))
        async with asyncio.timeout(60):
            name, answer = await inbox.get()
    assert (name, answer["status"], answer["model_calls"], answer["tool_calls"]) == ("slow", "completed", 2, 1)
    assert "slept well" in answer["output"]
    # What ended politely had finished its run; what was killed had not, and a sandbox may run again.
    runs = len((tmp_path / "calls.jsonl").read_text().splitlines())
    assert runs in ((1,) if number == signal.SIGTERM else (2,) if in_the_middle else (1, 2))


async def test_two_hosts_and_two_script_services_answer_every_task_once(amqp_url: str, tmp_path: Path) -> None:
    env = _environment(amqp_url, tmp_path)
    async with AsyncExitStack() as stack:
        for name, until in (HOST, SCRIPTS, HOST, SCRIPTS):
            await stack.enter_async_context(running(name, until=until, env=env, cwd=tmp_path))
        ask, inbox = await stack.enter_async_context(_client(env))
        for number in range(100):
            await ask(str(number), f"What is {number} * 3?")
        answers = []
        async with asyncio.timeout(60):
            while len(answers) < 100:
                answers.append(await inbox.get())
        await ask("last", "hello")
        async with asyncio.timeout(60):
            last, _ = await inbox.get()
    assert last == "last"  # and no second answer came before it
    assert Counter(name for name, _ in answers) == {str(number): 1 for number in range(100)}
    assert all(f"= {int(name) * 3}\n" in answer["output"] for name, answer in answers)
    calls = [json.loads(line)["call_id"] for line in (tmp_path / "calls.jsonl").read_text().splitlines()]
    assert len(calls) == len(set(calls)) == 100


async def _health(port: int, path: str) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    status = int((await reader.readline()).split()[1])
    writer.close()
    await writer.wait_closed()
    return status


async def test_a_broker_that_was_killed_finds_everybody_back(tmp_path: Path) -> None:
    node, ports = RabbitNode(), (free_port(), free_port())
    try:
        await asyncio.to_thread(node.start)
        env = _environment(node.url, tmp_path)
        async with AsyncExitStack() as stack:
            for (name, until), port in zip((HOST, SCRIPTS), ports, strict=True):
                own = {**env, "ROCKBOT_HOST__HEALTH_PORT": str(port)}
                await stack.enter_async_context(running(name, until=until, env=own, cwd=tmp_path))
                assert [await _health(port, path) for path in ("/livez", "/readyz", "/startupz")] == [200, 200, 200]
            await asyncio.to_thread(node.remember_queues)
            await asyncio.to_thread(node.kill)
            async with asyncio.timeout(60):
                while 200 in [await _health(port, "/readyz") for port in ports]:
                    pass
            assert [await _health(port, "/livez") for port in ports] == [200, 200]
            code, _, err = await rockbot(["ask", "assistant", "hello"], env=env, cwd=tmp_path)
            assert code == 4 and "cannot be used" in err
            await asyncio.to_thread(node.start)
            async with asyncio.timeout(60):
                while {await _health(port, "/readyz") for port in ports} != {200}:
                    pass
            code, out, err = await rockbot(["ask", "assistant", "What is 6 times 7?"], env=env, cwd=tmp_path)
            assert code == 0, err
            assert "42" in out
    finally:
        await asyncio.to_thread(node.stop)


async def test_an_embedded_host_that_was_killed_goes_on_with_what_it_had_accepted(tmp_path: Path) -> None:
    env = environment(
        ROCKBOT_STATE_URL=f"sqlite:///{tmp_path / 'state.db'}",
        ROCKBOT_SOCKET=str(tmp_path / "socket"),
        ROCKBOT_MODEL="scripted/demo",
        ROCKBOT_HOST__LOG_FORMAT="json",
        ROCKBOT_SCRIPTS__CALL_LOG=str(tmp_path / "calls.jsonl"),
    )
    publish = ["publish", "agent.task.assistant", "--conversation", "survivor", "--body", json.dumps({"input": SLOW})]
    async with running("up", until="host consumes", env=env, cwd=tmp_path) as first:
        code, _, err = await rockbot(publish, env=env, cwd=tmp_path)
        assert code == 0, err
        await _begun(tmp_path)
        os.killpg(first.pid, signal.SIGKILL)
        await first.wait()
    async with running("up", until="host consumes", env=env, cwd=tmp_path) as second:
        # The same conversation: it is answered after the task that was in hand.
        code, out, err = await rockbot(
            ["ask", "assistant", "6 * 7", "--conversation", "survivor"], env=env, cwd=tmp_path
        )
        assert code == 0, err
        assert "42" in out
        code, _, err = await rockbot(["up", "--once"], env=env, cwd=tmp_path)
        assert code == 1 and "another" in err
        os.kill(second.pid, signal.SIGTERM)
        async with asyncio.timeout(60):
            assert await second.wait() == 0
    with contextlib.closing(sqlite3.connect(tmp_path / "state.db")) as file, file:
        rows = [
            json.loads(value) for (value,) in file.execute("select value from state_values where key like '%/task/%'")
        ]
    file.close()
    assert [row["status"] for row in rows] == ["completed", "completed"]
