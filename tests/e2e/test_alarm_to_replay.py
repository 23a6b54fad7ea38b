"""A failure, from alarm to replay: what a person sees and does, with real processes over a broker.

A tool fails until somebody mends what it needs. The section of that name in `docs/dead-letters.md` tells the same story.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aio_pika
import pytest
from e2e.processes import environment, rockbot, running
from e2e.shop import install

pytestmark = [pytest.mark.rabbitmq, pytest.mark.timeout(180)]

_PLUGIN = """
import os
from pathlib import Path

from rockbot import topics
from rockbot.chain import Order
from rockbot.events import TextPart, ToolInvoke, ToolResult, ToolSpec
from rockbot.plugins import Contribution, Link
from rockbot_messaging import RetryPolicy
from rockbot_messaging.subscriptions import WorkSubscription

FOLDER = Path(os.environ["WAREHOUSE"])


class Warehouse:
    handles = (ToolInvoke,)

    async def handle(self, event, context, call_next):
        if context.envelope.topic != topics.tool_invoke("warehouse"):
            await call_next(event, context)
            return
        with (FOLDER / "calls").open("a") as calls:
            calls.write(f"{context.envelope.message_id}\\n")
        stock = (FOLDER / "stock.txt").read_text()
        context.answer(ToolResult(call_id=event.call_id, tool=event.tool, parts=(TextPart(text=stock),)))


def plugin(services):
    schema = {"type": "object", "properties": {"item": {"type": "string"}}, "required": ["item"]}
    return Contribution(
        links=(Link(Order.WORK, "warehouse", Warehouse()),),
        subscriptions=(
            WorkSubscription(
                name="tools.warehouse", patterns=("tool.invoke.warehouse",), retry=RetryPolicy(max_attempts=1)
            ),
        ),
        tools=(
            ToolSpec(
                name="check_stock", description="How many there are.", input_schema=schema, toolset="warehouse",
                idempotent=True,
            ),
        ),
    )
"""

_RULES = """
[scripts.story]
description = "Asks the warehouse, and says what it said."

[[scripts.story.rules]]
name = "say it"
when = { last = "tool" }
reply = "In stock: $result"

[[scripts.story.rules]]
name = "ask"
when = { last = "user" }
calls = [{ tool = "check_stock", arguments = { item = "$user" } }]
"""


class Caller:
    """A client that knows nothing of ours: gives a task, hears statuses, keeps its reply queue."""

    def __init__(self, channel: aio_pika.abc.AbstractChannel, exchange: aio_pika.abc.AbstractExchange) -> None:
        self._channel = channel
        self._exchange = exchange
        self.replies = f"caller-{uuid.uuid4()}"
        self.said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def listen(self, lossy: aio_pika.abc.AbstractExchange) -> None:
        replies = await self._channel.declare_queue(self.replies, exclusive=True)
        statuses = await self._channel.declare_queue(f"{self.replies}-status", exclusive=True)
        await statuses.bind(lossy, "agent.status.assistant")

        async def heard(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            self.said.put_nowait(json.loads(message.body))

        async def answered(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            self.answers.put_nowait(json.loads(message.body))

        await statuses.consume(heard, no_ack=True)
        await replies.consume(answered, no_ack=True)

    async def ask(self, text: str) -> None:
        body = json.dumps({"input": text}).encode()
        message = aio_pika.Message(body, reply_to=self.replies, correlation_id="mine", message_id=str(uuid.uuid4()))
        await self._exchange.publish(message, "agent.task.assistant")

    async def status(self, kind: str) -> dict[str, Any]:
        async with asyncio.timeout(60):
            while (status := await self.said.get())["kind"] != kind:
                pass
            return status

    async def answer(self) -> dict[str, Any]:
        async with asyncio.timeout(60):
            return await self.answers.get()


@asynccontextmanager
async def _caller(url: str, namespace: str) -> AsyncIterator[Caller]:
    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel()
        caller = Caller(channel, await channel.get_exchange(namespace))
        await caller.listen(await channel.get_exchange(f"{namespace}.lossy"))
        yield caller


async def test_a_failing_tool_is_noticed_understood_mended_and_its_turn_goes_on(amqp_url: str, tmp_path: Path) -> None:
    namespace = f"story{uuid.uuid4().hex[:8]}"
    (tmp_path / "rules.toml").write_text(_RULES)
    env = environment(
        PYTHONPATH=str(install(tmp_path / "site", "warehouse", _PLUGIN)),
        WAREHOUSE=str(tmp_path),
        ROCKBOT_BROKER_URL=amqp_url,
        ROCKBOT_NAMESPACE=namespace,
        ROCKBOT_STATE_URL=f"sqlite:///{tmp_path / 'state.db'}",
        ROCKBOT_MODEL="scripted/story",
        ROCKBOT_HANDLERS='["logging", "deadline", "agent", "llm", "warehouse"]',
        ROCKBOT_SCRIPTED__RULES=str(tmp_path / "rules.toml"),
        ROCKBOT_SCRIPTED__CALL_LOG=str(tmp_path / "model-calls"),
        ROCKBOT_HOST__LOG_FORMAT="json",
    )

    async def run(*arguments: str, code: int = 0) -> list[Any]:
        ended, out, err = await rockbot(["--json", *arguments], env=env, cwd=tmp_path)
        assert ended == code, (out, err)
        return [json.loads(line) for line in out.splitlines()]

    def calls(name: str) -> list[str]:
        return (tmp_path / name).read_text().splitlines()

    async with running("run", until="host consumes", env=env, cwd=tmp_path), _caller(amqp_url, namespace) as caller:
        await run("doctor", "--fail-on", "dead-letters")

        # The alarm: the caller is told, and so is whoever watches.
        await caller.ask("bolts")
        stalled = await caller.status("stalled")
        assert "tools.warehouse.dlq" in stalled["text"]
        checks = {check["name"]: check for check in await run("doctor", "--fail-on", "dead-letters", code=6)}
        assert "1 " in checks["dead letters"]["detail"]

        # What happened, and to whom.
        (group,) = await run("dlq", "groups")
        assert (group["count"], group["error_type"], group["handler"]) == (1, "FileNotFoundError", "warehouse")
        (letter,) = await run("dlq", "show", group["queue"], group["example"])
        assert (letter["turn"]["state"], letter["turn"]["ended"]) == ("stalled", False)
        assert letter["topic"] == "tool.invoke.warehouse"
        assert "stock.txt" in letter["traceback"]
        kept = tmp_path / "kept.jsonl"
        await run("dlq", "export", "--group", group["id"], "-o", str(kept))

        # Mend the cause, send it on: the turn resumes where it stood.
        (tmp_path / "stock.txt").write_text("12 bolts")
        (sent,) = (await run("dlq", "replay", "--group", group["id"]))[-1:]
        assert (sent["worked"], sent["refusals"]) == (1, 0)
        answer = await caller.answer()
        assert (answer["status"], answer["output"]) == ("completed", "In stock: 12 bolts")
        assert len(calls("model-calls")) == 2
        assert len(calls("calls")) == 2
        assert len(set(calls("calls"))) == 1
        await run("doctor", "--fail-on", "dead-letters")

        # A letter whose turn has ended says so, and stays; its task can be begun anew.
        await run("dlq", "import", str(kept))
        (refused,) = (await run("dlq", "replay", "--group", group["id"], code=6))[-1:]
        assert (refused["worked"], refused["ended_turns"]) == (0, 1)
        assert "has ended: completed" in refused["refused"][0][1]
        (again,) = (await run("dlq", "replay", letter["id"], "--restart-turn"))[-1:]
        assert (again["worked"], again["refusals"]) == (1, 0)
        answer = await caller.answer()
        assert (answer["status"], answer["output"]) == ("completed", "In stock: 12 bolts")
        assert answer["task_id"] != letter["root_task_id"]
        (put_away,) = await run("dlq", "discarded")
        assert put_away["discarded_from"] == "tools.warehouse"
        assert answer["task_id"] in put_away["discarded_reason"]
        assert [entry["action"] for entry in await run("dlq", "audit")] == ["restart-turn", "import", "replay"]
