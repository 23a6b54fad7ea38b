"""One trace over four processes and a broker: a stranger's task, two hosts, a model's API, a sandbox, the reply."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import Counter
from pathlib import Path
from typing import Any

import aio_pika
import pytest
from e2e.processes import environment, running
from nodes.anthropic_api import Received
from nodes.openai_api import KEY, Reply, call, completion, serve
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from telemetry.collector import Collector

pytestmark = [pytest.mark.rabbitmq, pytest.mark.sandbox, pytest.mark.timeout(180)]


def _model(received: Received) -> Reply:
    """A model that computes in a sandbox and then says what came of it."""
    if received.body["messages"][-1]["role"] == "tool":
        return Reply(completion("It is 42."))
    return Reply(completion(None, call("c1", "run_python", {"code": "6 * 7"}), stop="tool_calls"))


async def _ask(url: str, traceparent: str) -> dict[str, Any]:
    """What a client does that knows a broker and W3C's header; returns the headers of the reply."""
    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel()
        replies = await channel.declare_queue(exclusive=True)
        exchange = await channel.get_exchange("rockbot")
        task = aio_pika.Message(
            json.dumps({"input": "What is 6 times 7?"}).encode(),
            reply_to=replies.name,
            headers={"traceparent": traceparent},
        )
        await exchange.publish(task, "agent.task.assistant")
        async with asyncio.timeout(60), replies.iterator() as coming:
            reply = await anext(coming)
            await reply.ack()
        assert json.loads(reply.body)["output"] == "It is 42."
        return dict(reply.headers)


async def test_one_trace_goes_over_a_broker_two_hosts_a_models_api_and_a_sandbox(amqp_url: str, tmp_path: Path) -> None:
    trace, stranger = secrets.token_hex(16), secrets.token_hex(8)
    with Collector() as collector:
        async with serve(_model) as api:

            def env(service: str) -> dict[str, str]:
                return environment(
                    ROCKBOT_BROKER_URL=amqp_url,
                    ROCKBOT_STATE_URL=f"sqlite:///{tmp_path / 'state.db'}",
                    ROCKBOT_MODEL="openai/gpt-test",
                    ROCKBOT_PROVIDERS__OPENAI__API_KEY=KEY,
                    ROCKBOT_PROVIDERS__OPENAI__BASE_URL=f"{api.url}/v1",
                    ROCKBOT_STREAMING__ENABLED="false",
                    ROCKBOT_HOST__LOG_FORMAT="json",
                    ROCKBOT_TELEMETRY__TRACES="true",
                    ROCKBOT_TELEMETRY__ENDPOINT=collector.address,
                    ROCKBOT_TELEMETRY__SERVICE_NAME=service,
                )

            common = ("run", "--handlers")
            async with (
                running("scripts", until="service consumes", env=env("sandboxes"), cwd=tmp_path),
                running(*common, "agent,scripts", until="host consumes", env=env("agents"), cwd=tmp_path),
                running(*common, "llm", until="host consumes", env=env("models"), cwd=tmp_path),
            ):
                headers = await _ask(amqp_url, f"00-{trace}-{stranger}-01")
            asked = [received.headers for received in api.received]
    assert headers["traceparent"].split("-")[1] == trace
    ours = [(service, span) for service, span in collector.trace if span.trace_id.hex() == trace]
    assert len(ours) == len(collector.trace)
    names = Counter((service, span.name) for service, span in ours)
    assert names["agents", "invoke_agent assistant"] == 1
    assert names["agents", "execute_tool run_python"] == 1
    assert names["sandboxes", "run_script python"] == 1
    # As many spans of calls as calls: nothing else traces them, and no context of ours leaves for the provider.
    assert names["models", "chat gpt-test"] == len(asked) == 2
    assert not any("traceparent" in each for each in asked)
    assert not any(span.status.code == Status.STATUS_CODE_ERROR for _, span in ours)
    _hangs_together([span for _, span in ours], stranger)


def _hangs_together(spans: list[Span], stranger: str) -> None:
    """Every span is under another one or the stranger's, and goes over the broker by a pair of producer and consumer."""
    by_id = {span.span_id.hex(): span for span in spans}
    assert len(by_id) == len(spans)
    for span in spans:
        above = span.parent_span_id.hex()
        if span.kind == Span.SPAN_KIND_CONSUMER:
            assert [link.span_id.hex() for link in span.links] == [above]
            assert above == stranger or by_id[above].kind == Span.SPAN_KIND_PRODUCER
        else:
            assert above in by_id
    (turn,) = [span for span in spans if span.name.startswith("invoke_agent")]
    assert [span.name for span in spans if span.parent_span_id.hex() == stranger] == [
        by_id[turn.parent_span_id.hex()].name
    ]
    # Both model calls, the tool call and the reply hang under the turn itself.
    sent = Counter(span.name.rpartition(":")[2] for span in spans if span.parent_span_id == turn.span_id)
    assert sent["llm.request.openai.interactive"] == 2
    assert sent["tool.invoke.scripts"] == 1
    assert sum(sent.values()) == 4
