"""Every adapter passes the same suite: Anthropic's, OpenAI's (and with it every preset), the offline stand-in."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from handlers.model_contract import Act, Fails, Hangs, ModelContract
from nodes import anthropic_api, openai_api
from nodes.anthropic_api import KEY, Reply, Server, serve

from rockbot.llm import LlmClient
from rockbot.settings import AnthropicSettings, OpenAiSettings
from rockbot_handlers.llm.anthropic import AnthropicClient, open_anthropic
from rockbot_handlers.llm.openai import OpenAiClient, open_openai
from rockbot_handlers.llm.rules import parse_scripts
from rockbot_handlers.llm.scripted import ScriptedClient

_STATUS = {"transient": 500, "throttled": 429, "permanent": 400, "unknown": 504}


def _failed(act: Fails, body: Any) -> Reply:
    headers = {} if act.after is None else {"retry-after": str(act.after)}
    return Reply(body, status=_STATUS[act.how], headers=headers)


def _pieces(text: str) -> Iterator[str]:
    return (text[at : at + 10] for at in range(0, len(text), 10))


class AnthropicStage:
    model = "anthropic/claude-test"
    remote = True

    def __init__(self, server: Server) -> None:
        self.server = server
        self.client: AnthropicClient = open_anthropic(AnthropicSettings(api_key=KEY, base_url=server.url))

    def play(self, *acts: Act, streamed: bool = False) -> LlmClient:
        self.server.replies = [self._reply(act, streamed=streamed) for act in acts]
        return self.client

    @property
    def attempts(self) -> int:
        return len(self.server.received)

    def _reply(self, act: Act, *, streamed: bool) -> Reply:
        match act:
            case Hangs():
                return Reply(hang=True)
            case Fails():
                return _failed(act, anthropic_api.error("some_error", "words"))
        texts = [anthropic_api.text(act.text)] if act.text else []
        calls = [
            {"type": "tool_use", "id": f"toolu_{at}", "name": name, "input": given}
            for at, (name, given) in enumerate(act.calls)
        ]
        stop = "tool_use" if calls else "end_turn"
        if not streamed:
            return Reply(anthropic_api.message(*texts, *calls, stop=stop))
        events: list[dict[str, Any]] = [{"type": "message_start", "message": anthropic_api.message()}]
        for at, block in enumerate([*texts, *calls]):
            start = {**block, "text": ""} if block["type"] == "text" else {**block, "input": {}}
            events.append({"type": "content_block_start", "index": at, "content_block": start})
            if block["type"] == "text":
                deltas = [{"type": "text_delta", "text": piece} for piece in _pieces(block["text"])]
            else:
                deltas = [
                    {"type": "input_json_delta", "partial_json": it} for it in _pieces(json.dumps(block["input"]))
                ]
            events += [{"type": "content_block_delta", "index": at, "delta": delta} for delta in deltas]
            events.append({"type": "content_block_stop", "index": at})
        events.append({"type": "message_delta", "delta": {"stop_reason": stop}, "usage": {"output_tokens": 9}})
        events.append({"type": "message_stop"})
        return Reply("".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events))


class OpenAiStage:
    remote = True

    def __init__(self, server: Server, provider: str) -> None:
        self.server = server
        self.model = f"{provider}/some/model"
        self.client: OpenAiClient = open_openai(provider, OpenAiSettings(api_key=KEY, base_url=server.url))

    def play(self, *acts: Act, streamed: bool = False) -> LlmClient:
        self.server.replies = [self._reply(act, streamed=streamed) for act in acts]
        return self.client

    @property
    def attempts(self) -> int:
        return len(self.server.received)

    def _reply(self, act: Act, *, streamed: bool) -> Reply:
        match act:
            case Hangs():
                return Reply(hang=True)
            case Fails():
                return _failed(act, openai_api.error("words"))
        stop = "tool_calls" if act.calls else "stop"
        calls = [openai_api.call(f"call_{at}", name, given) for at, (name, given) in enumerate(act.calls)]
        if not streamed:
            return Reply(openai_api.completion(act.text or None, *calls, stop=stop))
        chunks = [openai_api.chunk(role="assistant", content="")]
        chunks += [openai_api.chunk(content=piece) for piece in _pieces(act.text)]
        for at, call in enumerate(calls):
            name, arguments = call["function"]["name"], call["function"]["arguments"]
            begun = {"index": at, "id": call["id"], "type": "function", "function": {"name": name, "arguments": ""}}
            chunks.append(openai_api.chunk(tool_calls=[begun]))
            for piece in _pieces(arguments):
                chunks.append(openai_api.chunk(tool_calls=[{"index": at, "function": {"arguments": piece}}]))
        usage = {"prompt_tokens": 3, "completion_tokens": 9, "total_tokens": 12}
        return openai_api.sse(*chunks, openai_api.chunk(stop), openai_api.chunk(usage=usage))


class ScriptedStage:
    model = "scripted/contract"
    remote = False

    def __init__(self, folder: Path) -> None:
        self._log = folder / "calls.jsonl"

    def play(self, *acts: Act, streamed: bool = False) -> LlmClient:
        rules: list[dict[str, Any]] = []
        for number, act in enumerate(acts):
            assert not isinstance(act, Hangs)
            if isinstance(act, Fails):
                rules.append({"name": str(number), "fail": {"error": act.how, "after": act.after, "message": "words"}})
                continue
            calls = [{"tool": name, "arguments": given} for name, given in act.calls]
            when = {"last": "user"} if number == 0 and len(acts) > 1 else {}
            rules.append({"name": str(number), "when": when, "reply": act.text, "calls": calls})
        text = json.dumps({"scripts": {"contract": {"rules": rules}}})
        return ScriptedClient(parse_scripts(text, source="contract", syntax="json"), call_log=self._log)

    @property
    def attempts(self) -> int:
        return len(self._log.read_text().splitlines()) if self._log.exists() else 0


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serve() as server:
        yield server


class TestAnthropic(ModelContract):
    @pytest.fixture
    async def stage(self, server: Server) -> AsyncIterator[AnthropicStage]:
        stage = AnthropicStage(server)
        yield stage
        await stage.client.close()


class TestOpenAi(ModelContract):
    @pytest.fixture(params=["openai", "groq", "mine"])
    async def stage(self, server: Server, request: pytest.FixtureRequest) -> AsyncIterator[OpenAiStage]:
        stage = OpenAiStage(server, request.param)
        yield stage
        await stage.client.close()


class TestScripted(ModelContract):
    @pytest.fixture
    def stage(self, tmp_path: Path) -> ScriptedStage:
        return ScriptedStage(tmp_path)
