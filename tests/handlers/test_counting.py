"""Tokens counted by the provider before a call, where an agent asks for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rockbot.agents.reading import read_agent
from rockbot.chain import Chain
from rockbot.events import AgentTask, LlmRequest, LlmResponse, Message, TextPart
from rockbot.plugins import Services
from rockbot.settings import AgentSettings, ScriptedSettings, Settings
from rockbot_handlers.llm.plugin import plugin
from tests.machines.stage import Play

TOPIC = "llm.request.scripted.interactive"


@pytest.mark.parametrize(("limit", "calls"), [(1, 0), (100_000, 1), (None, 1)])
async def test_a_request_with_more_tokens_than_its_limit_is_answered_without_a_call(
    limit: int | None,
    calls: int,
    make_services: Callable[..., Services],
    chain_of: Callable[..., Chain],
    make_context: Any,
    tmp_path: Path,
) -> None:
    log = tmp_path / "calls.jsonl"
    services = make_services(scripted=ScriptedSettings(call_log=log))
    message = Message(role="user", parts=(TextPart(text="hello, how are you?"),))
    request = LlmRequest(model="scripted/demo", messages=(message,), input_limit=limit)
    context = make_context(request, TOPIC)
    await chain_of(services, plugin).run(request, context)
    response = LlmResponse.model_validate_json(context.emissions[-1].envelope.body)
    assert response.stop_reason == ("end_turn" if calls else "context_window")
    assert (len(log.read_text().splitlines()) if log.exists() else 0) == calls


@pytest.mark.parametrize(("setting", "limit"), [("provider", 900), ("estimate", None)])
def test_count_tokens_puts_the_window_into_every_request(setting: Any, limit: int | None) -> None:
    its = AgentSettings(count_tokens=setting, context_window=1000, max_output_tokens=100)
    play = Play(read_agent("assistant", Settings(agents={"assistant": its})).snapshot(()))
    play.take(AgentTask(input="hello"))
    (request,) = play.open.values()
    assert isinstance(request.event, LlmRequest)
    assert request.event.input_limit == limit
