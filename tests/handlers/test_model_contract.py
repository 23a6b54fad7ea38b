"""Every adapter passes the same suite: Anthropic's (also deferred), OpenAI's and with it every preset, the offline stand-in."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from nodes import anthropic_api, openai_api
from nodes.anthropic_api import KEY, Reply, Server, serve

from rockbot.llm import LlmClient
from rockbot.settings import AnthropicSettings, OpenAiSettings
from rockbot.testing.model_contract import Act, Cuts, Fails, Hangs, ModelContract, Says
from rockbot_handlers.llm.anthropic import open_anthropic
from rockbot_handlers.llm.deferred import DeferredClients
from rockbot_handlers.llm.openai import OpenAiClient, open_openai
from rockbot_handlers.llm.rules import parse_scripts
from rockbot_handlers.llm.scripted import ScriptedClient

_STATUS = {"transient": 500, "throttled": 429, "permanent": 400, "unknown": 504}


def _failed(act: Fails, body: Any) -> Reply:
    headers = {} if act.after is None else {"retry-after": str(act.after)}
    return Reply(body, status=_STATUS[act.how], headers=headers)


class AnthropicStage:
    model = "anthropic/claude-test"
    remote = True
    thinks = True

    def __init__(self, server: Server) -> None:
        self.server = server
        self.strict = server.check = anthropic_api.StrictCheck()
        self.client: LlmClient = open_anthropic(AnthropicSettings(api_key=KEY, base_url=server.url))

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
            case Fails("context_window"):
                words = "prompt is too long: 212345 tokens > 200000 maximum"
                return Reply(anthropic_api.error("invalid_request_error", words), status=400)
            case Fails():
                return _failed(act, anthropic_api.error("some_error", "words"))
            case Cuts(text, how):
                events = anthropic_api.events_of(anthropic_api.message(anthropic_api.text(text)))[:-3]
                if how == "overloaded":
                    events.append(anthropic_api.error("overloaded_error", "Overloaded"))
                return Reply(anthropic_api.sse(*events), cut=how == "connection")
            case Says():
                whole = self._message(act)
                return Reply(anthropic_api.sse(*anthropic_api.events_of(whole)) if streamed else whole)

    def _message(self, act: Says) -> dict[str, Any]:
        thoughts = [anthropic_api.thought(act.thinking)] if act.thinking else []
        self.strict.issued += thoughts
        texts = [anthropic_api.text(act.text)] if act.text else []
        calls = [anthropic_api.call(f"toolu_{at}", name, given) for at, (name, given) in enumerate(act.calls)]
        stop = act.stop or ("tool_use" if calls else "end_turn")
        return anthropic_api.message(
            *thoughts,
            *texts,
            *calls,
            stop="model_context_window_exceeded" if stop == "context_window" else stop,
            cache_read_input_tokens=act.cached,
        )


class OpenAiStage:
    remote = True
    thinks = True

    def __init__(self, server: Server, provider: str) -> None:
        self.server = server
        server.check = openai_api.StrictCheck(reasoning=provider != "groq")
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
            case Fails("context_window"):
                return Reply(openai_api.error("too long", code="context_length_exceeded"), status=400)
            case Fails():
                return _failed(act, openai_api.error("words"))
            case Cuts(text, how):
                chunks = [openai_api.chunk(content=piece) for piece in anthropic_api.pieces(text)]
                if how == "overloaded":
                    return openai_api.sse(*chunks, openai_api.error("overloaded", code=503), end="")
                reply = openai_api.sse(*chunks, end="" if how == "connection" else openai_api.DONE)
                reply.cut = how == "connection"
                return reply
            case Says():
                return self._says(act, streamed=streamed)

    def _says(self, act: Says, *, streamed: bool) -> Reply:
        stop = "tool_calls" if act.calls else "stop"
        if act.stop is not None:
            stop = {"max_tokens": "length", "refusal": "content_filter"}[act.stop]
        calls = [openai_api.call(f"call_{at}", name, given) for at, (name, given) in enumerate(act.calls)]
        usage = {
            "prompt_tokens": 3 + act.cached,
            "completion_tokens": 9,
            "total_tokens": 12 + act.cached,
            "prompt_tokens_details": {"cached_tokens": act.cached},
        }
        thinking = {"reasoning_content": act.thinking} if act.thinking else {}
        if not streamed:
            return Reply(openai_api.completion(act.text or None, *calls, stop=stop, usage=usage, **thinking))
        chunks = [openai_api.chunk(role="assistant", content="")]
        chunks += [openai_api.chunk(reasoning_content=piece) for piece in anthropic_api.pieces(act.thinking)]
        chunks += [openai_api.chunk(content=piece) for piece in anthropic_api.pieces(act.text)]
        for at, call in enumerate(calls):
            name, arguments = call["function"]["name"], call["function"]["arguments"]
            begun = {"index": at, "id": call["id"], "type": "function", "function": {"name": name, "arguments": ""}}
            chunks.append(openai_api.chunk(tool_calls=[begun]))
            for piece in anthropic_api.pieces(arguments):
                chunks.append(openai_api.chunk(tool_calls=[{"index": at, "function": {"arguments": piece}}]))
        return openai_api.sse(*chunks, openai_api.chunk(stop), openai_api.chunk(usage=usage))


class ScriptedStage:
    model = "scripted/contract"
    remote = False
    thinks = False

    def __init__(self, folder: Path) -> None:
        self._log = folder / "calls.jsonl"

    def play(self, *acts: Act, streamed: bool = False) -> LlmClient:
        rules: list[dict[str, Any]] = []
        for number, act in enumerate(acts):
            assert isinstance(act, Says | Fails)
            if isinstance(act, Fails):
                rules.append({"name": str(number), "fail": {"error": act.how, "after": act.after, "message": "words"}})
                continue
            calls = [{"tool": name, "arguments": given} for name, given in act.calls]
            when = {"last": "user"} if number == 0 and len(acts) > 1 else {}
            rules.append(
                {"name": str(number), "when": when, "reply": act.text, "calls": calls, "stop_reason": act.stop}
            )
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


class TestDeferred(ModelContract):
    @pytest.fixture
    async def stage(self, server: Server) -> AsyncIterator[AnthropicStage]:
        stage, deferred = AnthropicStage(server), DeferredClients()
        direct = stage.client
        stage.client = deferred.defer("anthropic", "there", lambda: direct)
        await deferred.warm_up()
        yield stage
        await stage.client.close()


class TestOpenAi(ModelContract):
    @pytest.fixture(params=["openai", "groq"])
    async def stage(self, server: Server, request: pytest.FixtureRequest) -> AsyncIterator[OpenAiStage]:
        stage = OpenAiStage(server, request.param)
        yield stage
        await stage.client.close()


class TestScripted(ModelContract):
    @pytest.fixture
    def stage(self, tmp_path: Path) -> ScriptedStage:
        return ScriptedStage(tmp_path)
