"""Plug-ins, and what the composition root refuses to put together."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest
from core.links import Link, Ping

from rockbot.chain import Order
from rockbot.container import compose, known_work
from rockbot.errors import ConfigError, MissingExtra
from rockbot.events import AgentTask, Event, ToolSpec
from rockbot.plugins import CallNext, Context, Contribution, Plugin, Services, load_plugins
from rockbot.plugins import Link as Registration
from rockbot.settings import AgentSettings, Settings
from rockbot.state.memory import MemoryStateStore
from rockbot_messaging.memory import MemoryBus
from rockbot_messaging.subscriptions import WorkSubscription
from rockbot_messaging.testing import FakeClock, SequenceIds


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Installs a package that offers handlers, as pip would: a module and its metadata."""

    def install(package: str, points: dict[str, str], module: str = "") -> None:
        (tmp_path / f"{package}.py").write_text(module)
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = "\n".join(f"{name} = {value}" for name, value in points.items())
        (info / "entry_points.txt").write_text(f"[rockbot.handlers]\n{lines}\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, package, raising=False)

    return install


def test_a_plugin_is_found_by_its_entry_point(install: Callable[..., None]) -> None:
    install("mine_a", {"mine-a": "mine_a:plugin"}, "def plugin(services): return services")
    ((name, plugin),) = load_plugins(("mine-a",))
    assert (name, plugin("x")) == ("mine-a", "x")  # type: ignore[arg-type, comparison-overlap]


def test_plugins_come_in_the_order_of_the_setting() -> None:
    assert [name for name, _ in load_plugins(("deadline", "agent"))] == ["deadline", "agent"]


def test_an_unknown_handler_is_told_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'handlers' names 'agnet', which is no installed handler \(known: .*agent"):
        load_plugins(("agnet",))


def test_a_missing_package_names_its_extra(install: Callable[..., None]) -> None:
    missing = "raise ModuleNotFoundError('x', name='redis.asyncio')"
    install("mine_b", {"mine-b": "mine_b:plugin"}, missing)
    with pytest.raises(MissingExtra, match=r"redis.asyncio is not installed.*rockbot\[redis\]") as caught:
        load_plugins(("mine-b",))
    assert "mine-b" in str(caught.value)


def test_a_missing_package_that_no_extra_brings_is_named(install: Callable[..., None]) -> None:
    install("mine_h", {"mine-h": "mine_h:plugin"}, "import no_such_package_at_all")
    with pytest.raises(ConfigError, match="'mine-h' cannot be loaded: No module named 'no_such_package_at_all'"):
        load_plugins(("mine-h",))


@pytest.mark.parametrize("module", ["", "from json import nothing_of_this_name"])
def test_a_handler_that_cannot_be_loaded_is_a_setting_error(install: Callable[..., None], module: str) -> None:
    install("mine_c", {"mine-c": "mine_c:plugin"}, module)
    with pytest.raises(ConfigError, match="handler 'mine-c' cannot be loaded from mine_c:plugin"):
        load_plugins(("mine-c",))


def test_two_packages_that_offer_the_same_handler_are_told_apart(install: Callable[..., None]) -> None:
    install("mine_d", {"twice": "mine_d:plugin"}, "def plugin(services): ...")
    install("mine_e", {"twice": "mine_e:plugin"}, "def plugin(services): ...")
    with pytest.raises(ConfigError, match=r"two installed packages offer a handler 'twice': mine_[de]:plugin, mine_"):
        load_plugins(("twice",))
    assert load_plugins(("agent",)), "who does not use it is not troubled"


# -- composition


async def nothing(*_: object) -> None:
    pass


def tool(name: str) -> ToolSpec:
    return ToolSpec(name=name, description="", input_schema={}, toolset="desk")


def offering(contribution: Contribution) -> Plugin:
    def plugin(services: Services) -> Contribution:
        return contribution

    return plugin


def composed(*contributions: Contribution, settings: Settings | None = None):  # type: ignore[no-untyped-def]
    clock = FakeClock()
    return compose(
        settings or Settings(),
        bus=MemoryBus(clock=clock),
        store=MemoryStateStore(clock),
        clock=clock,
        ids=SequenceIds(),
        plugins=[(f"p{at}", offering(contribution)) for at, contribution in enumerate(contributions)],
    )


def work(name: str, pattern: str = "test.x") -> WorkSubscription:
    return WorkSubscription(name=name, patterns=(pattern,))


def test_contributions_are_put_together_in_order() -> None:
    first = Contribution(
        links=(Registration(Order.WORK, "work", Link(nothing, Ping)),), events=(Ping,), subscriptions=(work("a"),)
    )
    second = Contribution(
        links=(Registration(Order.LOGGING, "log", Link(nothing)),),
        tools=(tool("add"),),
        addressed=(work("b"), work("a")),
    )
    container = composed(first, second)
    assert dict(container.chain().describe())["test.ping"] == ["log", "work"]
    assert container.services().tools() == (tool("add"),)
    assert sorted(item.name for item in known_work(container)) == ["a", "b"]
    assert container.host() is container.host()


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="a tool of the same name: add"):
        composed(Contribution(tools=(tool("add"), tool("look"))), Contribution(tools=(tool("add"),)))


def test_two_consumers_of_one_subscription_are_refused() -> None:
    with pytest.raises(ConfigError, match="consume the same subscription: desk"):
        composed(Contribution(subscriptions=(work("desk"),)), Contribution(subscriptions=(work("desk"),)))


def test_two_events_of_one_name_are_refused() -> None:
    class Rival(Event):
        type_name: ClassVar[str] = "test.ping"

    with pytest.raises((ConfigError, ValueError), match=r"two events are named 'test\.ping'"):
        composed(Contribution(events=(Ping,)), Contribution(events=(Rival,))).registry()


def test_an_agents_tool_that_nobody_offers_is_told_with_the_offered_ones() -> None:
    settings = Settings(agents={"assistant": AgentSettings(tools=("fly",))})
    with pytest.raises(ConfigError, match=r"'agents\.assistant\.tools' names fly, .* \(offered: add\)"):
        agents = Contribution(links=(Registration(Order.WORK, "agents", Link(nothing, AgentTask)),))
        composed(agents, Contribution(tools=(tool("add"),)), settings=settings)


def test_every_process_has_a_name_of_its_own() -> None:
    owners = {composed().owner() for _ in range(2)}
    assert all(str(owner).count(":") == 2 for owner in owners)


class Deaf:
    async def handle(self, event: Event, context: Context, call_next: CallNext) -> None: ...


class Hasty:
    handles = (Ping,)

    def handle(self, event: Event, context: Context, call_next: CallNext) -> None: ...


class Nameless(Event):
    pass


def _broken(services: Services) -> Contribution:
    raise KeyError("shop")


def _linked(handler: object) -> Plugin:
    return lambda services: Contribution(links=(Registration(Order.WORK, "desk", handler),))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("plugin", "told"),
    [
        (_broken, r"handler 'till' cannot be set up: KeyError: 'shop' \(line \d+ of test_plugins\.py\)"),
        (lambda services: {}, "handler 'till' has to return a Contribution, not dict"),
        (lambda services: Contribution(events=(Nameless,)), "the event Nameless without a type_name"),
        (lambda services: Contribution(events=(Link,)), "which is no subclass of Event"),
        (_linked(Deaf()), "the link 'desk' of handler 'till' has to name the events it wants: `handles` of Deaf"),
        (_linked(Hasty()), "the link 'desk' of handler 'till' needs `async def handle"),
        (_linked(object()), "`handles` of object"),
    ],
)
def test_a_plugin_that_is_wrong_is_an_error_with_its_name(plugin: Plugin, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        compose(Settings(), bus=MemoryBus(), store=MemoryStateStore(FakeClock()), plugins=[("till", plugin)])
