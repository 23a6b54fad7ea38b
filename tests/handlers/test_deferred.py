"""Clients whose packages are imported after the start: when, by whom, and what becomes of a broken installation."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from handlers.model_floor import FloorModel, said
from nodes.anthropic_api import KEY, Reply, message, request, serve, text

from rockbot.errors import ConfigError
from rockbot.events import LlmRequest, LlmResponse
from rockbot.llm import LlmClient, LlmTransient
from rockbot.settings import AgentSettings, AnthropicSettings, Settings
from rockbot_handlers.llm.deferred import DeferredClients
from rockbot_handlers.llm.providers import open_clients


class Shop:
    """Opens clients in threads, once they may; `most` is how many were being opened at once."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.began = asyncio.Event()
        self.opened: list[FloorModel] = []
        self.fails: list[Exception] = []
        self.under_way = self.most = 0
        self._loop = asyncio.get_running_loop()

    def open(self) -> LlmClient:
        assert threading.current_thread() is not threading.main_thread()
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        self._loop.call_soon_threadsafe(self.began.set)
        assert self.may.wait(60)
        self.under_way -= 1
        if self.fails:
            raise self.fails.pop(0)
        self.opened.append(FloorModel())
        return self.opened[-1]


async def ask(client: LlmClient, *, deadline: float | None = None) -> LlmResponse:
    return await client.complete(request(), call_id="c", deadline=deadline)


async def test_calls_that_come_before_the_import_wait_for_one_and_the_same() -> None:
    shop, deferred = Shop(), DeferredClients()
    client = deferred.defer("anthropic", "there", shop.open)
    assert repr(client) == "DeferredClient('there')"
    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(ask(client)) for _ in range(3)]
        group.create_task(deferred.warm_up())
        await shop.began.wait()
        shop.may.set()
    assert [call.result().message.text for call in calls] == ["hi"] * 3
    (opened,) = shop.opened
    assert len(opened.made) == 3
    assert await client.count_tokens(request()) == 1
    assert len(shop.opened) == 1


async def test_packages_are_imported_one_after_the_other() -> None:
    shop, deferred = Shop(), DeferredClients()
    clients = [deferred.defer(name, name, shop.open) for name in ("anthropic", "openai", "mine")]
    shop.may.set()
    async with asyncio.TaskGroup() as group:
        group.create_task(deferred.warm_up())
        for client in clients:
            group.create_task(ask(client))
    assert (len(shop.opened), shop.most) == (3, 1)


async def test_who_is_cancelled_while_it_waits_leaves_the_import_to_the_others() -> None:
    shop, deferred = Shop(), DeferredClients()
    client = deferred.defer("anthropic", "there", shop.open)
    first, second = asyncio.create_task(ask(client)), asyncio.create_task(ask(client))
    await shop.began.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    shop.may.set()
    assert (await second).message.text == "hi"
    assert len(shop.opened) == 1


async def test_a_package_that_cannot_be_imported_is_told_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    shop, deferred = Shop(), DeferredClients()
    client = deferred.defer("anthropic", "there", shop.open)
    shop.may.set()
    shop.fails = [ImportError("no module named 'jiter'"), ImportError("no module named 'jiter'")]
    await deferred.warm_up()
    assert "no module named 'jiter'" in str(vars(caplog.records[-1])["error"])
    with pytest.raises(LlmTransient, match=r"^anthropic: .* cannot be imported: no module named 'jiter'$"):
        await ask(client)
    assert (await ask(client)).message.text == "hi"


async def test_what_a_package_says_of_its_arguments_is_not_repeated() -> None:
    shop, deferred = Shop(), DeferredClients()
    client = deferred.defer("anthropic", "there", shop.open)
    shop.may.set()
    shop.fails = [ValueError(f"bad key {KEY}")]
    with pytest.raises(LlmTransient, match=r"anthropic: its client cannot be made: ValueError$"):
        await ask(client)


async def test_the_import_takes_of_the_time_that_a_call_has() -> None:
    shop, deferred = Shop(), DeferredClients()
    client = deferred.defer("anthropic", "there", shop.open)
    with pytest.raises(LlmTransient, match="not imported in time"):
        await ask(client, deadline=0)
    left: list[float | None] = []

    class Noting(FloorModel):
        async def complete(self, request: LlmRequest, *, call_id: str, deadline: float | None) -> LlmResponse:
            left.append(deadline)
            return said("in time")

    late = deferred.defer("openai", "there", Noting)
    shop.may.set()
    assert (await ask(late, deadline=300)).message.text == "in time"
    assert (await ask(late, deadline=300)).message.text == "in time"
    first, second = left
    assert first is not None
    assert first < 300 == second


async def test_closing_does_not_wait_for_an_import_and_closes_what_was_imported() -> None:
    shop, deferred = Shop(), DeferredClients()
    never = deferred.defer("anthropic", "there", shop.open)
    await never.close()
    client = deferred.defer("anthropic", "there", shop.open)
    call = asyncio.create_task(ask(client))
    await shop.began.wait()
    await client.close()
    with pytest.raises(asyncio.CancelledError):
        await call
    shop.may.set()


async def test_a_provider_answers_through_its_package_imported_for_the_first_call() -> None:
    async with serve() as server:
        server.replies = [Reply(message(text("hello")))]
        real = AnthropicSettings(api_key=KEY, base_url=server.url)
        (client,) = open_clients(Settings(model="anthropic/claude-test", anthropic=real)).values()
        assert server.url in repr(client)
        assert KEY not in repr(client)
        assert (await ask(client)).message.text == "hello"
        await client.close()


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("HTTPS_PROXY", "ftp://10.0.0.1", "HTTPS_PROXY begins with 'ftp'"),
        ("HTTP_PROXY", "http://user:sk-word@host:port", "HTTP_PROXY is no address of a proxy"),
        ("all_proxy", "gopher://10.0.0.1", "ALL_PROXY begins with 'gopher'"),
        ("SSL_CERT_FILE", "/there/is/none.pem", "SSL_CERT_FILE names '/there/is/none.pem', which is no file"),
        ("ANTHROPIC_BASE_URL", "localhost:80", "must begin with http://"),
        ("ANTHROPIC_BASE_URL", "http://host:port/", "ANTHROPIC_BASE_URL) is no address"),
        ("ANTHROPIC_BASE_URL", "https://", "ANTHROPIC_BASE_URL) is no address"),
        ("ANTHROPIC_API_KEY", "sk-\N{SNOWMAN}", "ANTHROPIC_API_KEY) has a character that no HTTP header"),
        ("ANTHROPIC_API_KEY", "sk-1\nsk-2", "ANTHROPIC_API_KEY) has a character that no HTTP header"),
        ("ANTHROPIC_API_KEY", " ", "needs a key: set anthropic.api_key or ANTHROPIC_API_KEY"),
    ],
)
def test_what_a_package_would_refuse_later_is_an_error_at_start_without_importing_it(
    variable: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError) as caught:
        open_clients(Settings(model="anthropic/claude-test"))
    assert said in str(caught.value)
    assert "sk-" not in str(caught.value)


def test_proxies_that_are_not_used_and_those_that_are_understood_are_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setenv("HTTP_PROXY", "10.0.0.1:3128")
    monkeypatch.setenv("HTTPS_PROXY", "HTTP://10.0.0.1:3128")
    monkeypatch.setenv("SSL_CERT_FILE", str(Path(__file__)))
    assert open_clients(Settings(model="anthropic/claude-test"))
    monkeypatch.setenv("ALL_PROXY", "socks5://10.0.0.1")
    monkeypatch.setitem(sys.modules, "socksio", None)
    with pytest.raises(ConfigError, match="ALL_PROXY names a SOCKS proxy: pip install socksio"):
        open_clients(Settings(model="anthropic/claude-test"))
    monkeypatch.setenv("NO_PROXY", "localhost, *")
    assert open_clients(Settings(model="anthropic/claude-test"))


@pytest.mark.parametrize("setting", ["api_key", "headers"])
def test_a_key_or_a_header_of_a_compatible_server_must_be_one(setting: str) -> None:
    given: dict[str, object] = (
        {"api_key": "sk-\n1"} if setting == "api_key" else {"headers": {"X-Team": "bl\N{SNOWMAN}"}}
    )
    providers = {"mine": {"base_url": "http://mine/v1", **given}}
    with pytest.raises(ConfigError, match=rf"^providers\.mine\.{setting}(\.X-Team)? has a character"):
        open_clients(Settings(model="mine/x", providers=providers))


def test_no_package_of_a_provider_is_imported_to_find_out_that_all_is_well() -> None:
    import subprocess

    agents = {name: AgentSettings(model=f"{name}/x").model_dump(exclude_unset=True) for name in ("anthropic", "openai")}
    code = (
        "import sys; from rockbot.settings import Settings; from rockbot_handlers.llm.providers import open_clients; "
        f"made = open_clients(Settings(default_agent='openai', agents={agents!r}, anthropic={{'api_key': 'k'}}, "
        "providers={'openai': {'api_key': 'k'}})); "
        "print(sorted(made), [n for n in ('anthropic', 'httpx2', 'openai') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "['anthropic', 'openai'] []"


async def test_the_plugin_opens_its_clients_when_the_host_is_ready(make_services: Callable[..., object]) -> None:
    from rockbot_handlers.llm.plugin import plugin

    async with serve() as server:
        server.replies = [Reply(message(text("there")))]
        real = AnthropicSettings(api_key=KEY, base_url=server.url)
        found = plugin(make_services(model="anthropic/claude-test", anthropic=real))  # type: ignore[arg-type]
        assert found.warm_up is not None
        await found.warm_up()
        assert found.model_probe is not None
        assert (await found.model_probe("anthropic/claude-test")).message.text == "there"
        assert found.close is not None
        await found.close()
