"""Model SDKs that would trace themselves do not, even where somebody made a provider the global one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

#: In a process of its own, because a global provider can be set once.
_PROGRAM = """
import asyncio
from nodes import anthropic_api, openai_api
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from rockbot.settings import AnthropicSettings, OpenAiSettings
from rockbot_handlers.llm.anthropic import open_anthropic
from rockbot_handlers.llm.openai import open_openai

spans = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
trace.set_tracer_provider(provider)

async def main():
    async with anthropic_api.serve() as server:
        server.replies = [anthropic_api.Reply(anthropic_api.message(anthropic_api.text("Hello")))]
        client = open_anthropic(AnthropicSettings(api_key=anthropic_api.KEY, base_url=server.url, timeout_seconds=60))
        with trace.get_tracer("here").start_as_current_span("chat"):
            await client.complete(anthropic_api.request(), call_id="c", deadline=None)
        await client.close()
        sent = server.received
    async with openai_api.serve() as server:
        server.replies = [openai_api.Reply(openai_api.completion("Hello"))]
        settings = OpenAiSettings(api_key=openai_api.KEY, base_url=f"{server.url}/v1", timeout_seconds=60)
        client = open_openai("openai", settings)
        with trace.get_tracer("here").start_as_current_span("chat"):
            await client.complete(openai_api.request(), call_id="c", deadline=None)
        await client.close()
        sent = sent + server.received
    assert len(sent) == 2
    assert not [each for each in sent if "traceparent" in each.headers]
    print([span.name for span in spans.get_finished_spans()])

asyncio.run(main())
"""


def test_a_call_through_an_sdk_is_one_span_and_that_is_ours() -> None:
    tests = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        env={**os.environ, "PYTHONPATH": str(tests)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['chat', 'chat']"
