"""Providers by name: what a preset knows, what settings and environment change, and what is refused at start."""

from __future__ import annotations

from pathlib import Path

import pytest
from nodes.openai_api import KEY, Reply, completion, request, serve

from rockbot.errors import ConfigError
from rockbot.llm import LlmClient
from rockbot.settings import AgentSettings, OpenAiSettings, Settings, load
from rockbot_handlers.llm.presets import PRESETS, endpoint_of
from rockbot_handlers.llm.providers import open_clients

LOCAL = {"ollama", "vllm", "llamacpp", "lmstudio"}


def settings_of(model: str, **providers: OpenAiSettings) -> Settings:
    return Settings(model=model, providers=providers)


@pytest.mark.parametrize("name", sorted(PRESETS))
async def test_every_preset_is_a_provider_by_its_name_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PRESETS[name].key_variable, KEY)
    clients: dict[str, LlmClient] = open_clients(settings_of(f"{name}/some/model"))
    assert list(clients) == [name]
    assert PRESETS[name].base_url in repr(clients[name])
    assert KEY not in repr(clients[name])
    await clients[name].close()


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_servers_on_the_net_need_a_key_and_those_on_ones_own_machine_do_not(name: str) -> None:
    if name in LOCAL:
        assert endpoint_of(name, OpenAiSettings()).key == ""
        return
    with pytest.raises(ConfigError, match=rf"providers\.{name}\.api_key or {PRESETS[name].key_variable}"):
        endpoint_of(name, OpenAiSettings())


def test_a_setting_goes_before_the_environment_and_that_before_the_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", " from-the-environment\n")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://gateway/v1")
    found = endpoint_of("openai", OpenAiSettings())
    assert (found.key, found.base_url, found.output_limit) == (
        "from-the-environment",
        "http://gateway/v1",
        "max_completion_tokens",
    )
    mine = OpenAiSettings(api_key=KEY, base_url="http://mine/v1", output_limit="max_tokens", timeout_seconds=7)
    found = endpoint_of("openai", mine)
    assert (found.key, found.base_url, found.output_limit, found.timeout) == (KEY, "http://mine/v1", "max_tokens", 7)


def test_the_key_in_the_environment_for_openai_is_not_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert endpoint_of("mine", OpenAiSettings(base_url="http://mine/v1")).key == ""
    assert endpoint_of("ollama", OpenAiSettings()).key == ""


def test_what_a_server_wants_can_be_set() -> None:
    assert endpoint_of("groq", OpenAiSettings(api_key=KEY)).reasoning is False
    assert endpoint_of("groq", OpenAiSettings(api_key=KEY, reasoning=True)).reasoning is True
    assert endpoint_of("deepseek", OpenAiSettings(api_key=KEY)).reasoning is True
    assert endpoint_of("mine", OpenAiSettings(base_url="http://mine", images=False)).images is False


async def test_a_provider_of_ones_own_is_read_from_the_file_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve() as server:
        file = tmp_path / "rockbot.toml"
        file.write_text(
            f'model = "gpu/qwen"\n[providers.gpu]\nbase_url = "{server.url}"\nheaders = {{ X-Team = "blue" }}\n'
        )
        monkeypatch.setenv("ROCKBOT_PROVIDERS__GPU__API_KEY", KEY)
        settings = load(config=file)
        assert KEY not in f"{settings!r}{settings}"
        assert "blue" not in f"{settings!r}"
        clients = open_clients(settings)
        server.replies = [Reply(completion("ok"))]
        response = await clients["gpu"].complete(request(model="gpu/qwen"), call_id="c", deadline=None)
        assert (response.message.text, response.model) == ("ok", "gpu/gpt-test-1")
        (got,) = server.received
        assert (got.path, got.headers["authorization"], got.headers["x-team"]) == (
            "/chat/completions",
            f"Bearer {KEY}",
            "blue",
        )
        await clients["gpu"].close()


async def test_agents_may_use_several_providers_at_once() -> None:
    agents = {
        "assistant": AgentSettings(model="ollama/a"),
        "second": AgentSettings(model="mine/b"),
        "third": AgentSettings(model="scripted/demo"),
    }
    settings = Settings(agents=agents, providers={"mine": OpenAiSettings(base_url="http://mine/v1")})
    clients = open_clients(settings)
    assert set(clients) == {"ollama", "mine", "scripted"}
    for client in clients.values():
        await client.close()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (settings_of("nobody/x"), ["no provider 'nobody'", "anthropic, deepseek", "providers.nobody.base_url"]),
        (settings_of("scripted/demo", mine=OpenAiSettings()), ["providers.mine needs a base_url", "ollama"]),
        (settings_of("mine/x", mine=OpenAiSettings(base_url="mine:8000")), ["providers.mine.base_url", "http://"]),
        (
            settings_of("scripted/demo", anthropic=OpenAiSettings(base_url="http://x")),
            ["providers.anthropic", "[anthropic]"],
        ),
        (settings_of("openai/gpt"), ["provider 'openai' needs a key", "OPENAI_API_KEY"]),
    ],
)
def test_what_cannot_work_is_an_error_at_start(settings: Settings, said: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        open_clients(settings)
    for part in said:
        assert part in str(caught.value)


def test_a_providers_name_is_a_word_of_a_topic() -> None:
    with pytest.raises(ConfigError, match="providers"):
        load({"providers": {"my provider": {"base_url": "http://x"}}})
