"""Model calls recorded and played, and the switch that forbids real ones."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from nodes.anthropic_api import KEY, Reply, Server, error, events_of, message, request, serve, sse, text

from rockbot.errors import ConfigError
from rockbot.events import LlmRequest, LlmResponse, Message, TextPart
from rockbot.llm import LlmClient, LlmPermanent, LlmThrottled, LlmUnknownOutcome, TextDelta
from rockbot.plugins import Services
from rockbot.settings import AgentSettings, AnthropicSettings, Settings, load
from rockbot.settings_providers import CassetteSettings
from rockbot_handlers.llm.anthropic import open_anthropic
from rockbot_handlers.llm.cassettes import PlayingClient, RecordingClient
from rockbot_handlers.llm.providers import open_clients


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serve() as server:
        yield server


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cassettes" / "talk.jsonl"


@pytest.fixture
async def recording(server: Server, path: Path) -> AsyncIterator[RecordingClient]:
    client = RecordingClient(open_anthropic(AnthropicSettings(api_key=KEY, base_url=server.url)), path)
    yield client
    await client.close()


async def ask(client: LlmClient, req: LlmRequest, call_id: str = "c1") -> LlmResponse:
    return await client.complete(req, call_id=call_id, deadline=None)


async def follow(client: LlmClient, req: LlmRequest) -> list[TextDelta | LlmResponse]:
    return [item async for item in client.stream(req, call_id="c1", deadline=None)]


def said(words: str) -> LlmRequest:
    return request(Message(role="user", parts=(TextPart(text=words),)))


async def test_what_was_recorded_is_played_word_for_word_without_key_or_network(
    server: Server, recording: RecordingClient, path: Path
) -> None:
    server.replies = [
        Reply(message(text("Hello"))),
        Reply(sse(*events_of(message(text("In several pieces."))))),
        Reply({"input_tokens": 12}),
        Reply(message(text("Again"))),
    ]
    real: list[Any] = [
        await ask(recording, said("hi")),
        await follow(recording, said("stream")),
        await recording.count_tokens(said("count")),
        await ask(recording, said("hi")),
    ]
    playing = PlayingClient(path)
    assert playing.left == 4
    assert [
        await ask(playing, said("hi"), "another call id"),
        await follow(playing, said("stream")),
        await playing.count_tokens(said("count")),
        await ask(playing, said("hi")),
    ] == real
    assert (playing.left, len(server.received)) == (0, 4)


async def test_a_cassette_holds_no_secret(server: Server, recording: RecordingClient, path: Path) -> None:
    server.replies = [Reply(message(text("Hello"))), Reply(error("authentication_error", f"bad {KEY}"), status=401)]
    await ask(recording, said("hi"))
    with pytest.raises(LlmPermanent):
        await ask(recording, said("ho"))
    assert KEY not in path.read_text()
    assert server.url not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0


async def test_failures_are_played_too_with_what_was_said_before(
    server: Server, recording: RecordingClient, path: Path
) -> None:
    slow = Reply(error("rate_limit_error", "slow"), status=429, headers={"retry-after": "17"})
    events = events_of(message(text("The answer is")))[:-3]
    server.replies = [slow, Reply(sse(*events), cut=True)]
    with pytest.raises(LlmThrottled):
        await ask(recording, said("hi"))
    with pytest.raises(LlmUnknownOutcome):
        await follow(recording, said("stream"))
    playing = PlayingClient(path)
    with pytest.raises(LlmThrottled, match="slow") as caught:
        await ask(playing, said("hi"))
    assert caught.value.after == 17
    heard: list[str] = []
    with pytest.raises(LlmUnknownOutcome):
        async for item in playing.stream(said("stream"), call_id="c", deadline=None):
            assert isinstance(item, TextDelta)
            heard.append(item.text)
    assert "".join(heard) == "The answer is"


async def test_whole_and_streamed_calls_play_for_each_other(
    server: Server, recording: RecordingClient, path: Path
) -> None:
    server.replies = [Reply(message(text("Hello")))]
    whole = await ask(recording, said("hi"))
    assert await follow(PlayingClient(path), said("hi")) == [TextDelta("Hello"), whole]


async def test_a_call_that_was_not_recorded_names_itself_and_what_is_nearest(
    server: Server, recording: RecordingClient, path: Path
) -> None:
    server.replies = [Reply(message(text("Hello")))] * 2
    await ask(recording, request(system="Be brief."))
    await ask(recording, said("What is 6 times 7?"))
    playing = PlayingClient(path)
    with pytest.raises(LlmPermanent) as caught:
        await ask(playing, said("What is 6 times 8?"), "call-9")
    told = str(caught.value)
    assert told.startswith(
        f"anthropic: the cassette {path} has no recording of this call to anthropic/claude-test (call-9)"
    )
    assert (
        'line 2, differs at $.messages[0].parts[0].text: recorded "What is 6 times 7?", asked "What is 6 times 8?"'
        in told
    )
    await ask(playing, said("What is 6 times 7?"))
    with pytest.raises(LlmPermanent, match="it was played already; record again"):
        await ask(playing, said("What is 6 times 7?"))


@pytest.mark.parametrize(
    ("content", "said"), [(None, "cannot be read"), ('{"request": 1}', "line 1 .* is no recorded")]
)
def test_a_file_that_is_no_cassette_is_an_error_at_start(path: Path, content: str | None, said: str) -> None:
    if content is not None:
        path.parent.mkdir()
        path.write_text(content)
    with pytest.raises(ConfigError, match=said):
        PlayingClient(path)


def with_model(**settings: Any) -> Settings:
    return Settings(agents={"assistant": AgentSettings(model="anthropic/claude-test")}, **settings)


async def test_settings_say_what_is_recorded_and_what_is_played(server: Server, path: Path) -> None:
    server.replies = [Reply(message(text("Hello")))]
    real = AnthropicSettings(api_key=KEY, base_url=server.url)
    recording = open_clients(with_model(anthropic=real, cassette=CassetteSettings(file=path, record=True)))["anthropic"]
    await ask(recording, said("hi"))
    await recording.close()
    played = open_clients(with_model(cassette=CassetteSettings(file=path), allow_model_calls=False))["anthropic"]
    assert (await ask(played, said("hi"))).message.text == "Hello"
    assert len(json.loads(path.read_text())) == 2


@pytest.mark.parametrize("by", ["file", "environment"])
async def test_real_models_can_be_forbidden_and_the_error_names_the_call(
    by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "rockbot.toml"
    config.write_text('model = "anthropic/claude-test"\n' + ("allow_model_calls = false\n" if by == "file" else ""))
    if by == "environment":
        monkeypatch.setenv("ROCKBOT_ALLOW_MODEL_CALLS", "false")
    client = open_clients(load(config=config))["anthropic"]
    for call in (
        ask(client, said("Pay me."), "call-7"),
        follow(client, said("Pay me.")),
        client.count_tokens(said("x")),
    ):
        with pytest.raises(LlmPermanent, match=r"allow_model_calls = false.*anthropic/claude-test"):
            await call
    with pytest.raises(LlmPermanent, match=r"call call-7, asked 'Pay me\.'"):
        await ask(client, said("Pay me."), "call-7")
    await client.close()


async def test_the_scripted_model_is_no_real_one(make_services: Callable[..., Services]) -> None:
    settings = make_services(allow_model_calls=False).settings
    (client,) = open_clients(settings).values()
    response = await ask(client, said("hello").model_copy(update={"model": "scripted/demo"}))
    assert "not a language model" in response.message.text
