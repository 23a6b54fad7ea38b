"""Where toolsets come from and which of them run here: settings, files, installed packages."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from rockbot.errors import ConfigError
from rockbot.plugins import Contribution, Services
from rockbot.processes import compose_host
from rockbot.settings import Settings
from rockbot.tools import Toolset
from rockbot_handlers.tools.plugin import plugin

OFFERED = Toolset("shop")


@OFFERED.tool
async def buy(what: str) -> str:
    """Buy."""
    return what


@pytest.fixture
def contribution(make_services: Callable[..., Services]) -> Callable[..., Contribution]:
    return lambda **tools: plugin(make_services(tools=tools))


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that offers the toolset `shop`."""
    points = [EntryPoint("shop", f"{__name__}:OFFERED", "rockbot.toolsets")]
    monkeypatch.setattr("rockbot.tools.loading.entry_points", lambda group: points)
    monkeypatch.setitem(__import__("sys").modules, __name__, type("Module", (), {"OFFERED": OFFERED})())


def written(path: Path, *toolsets: str, more: str = "") -> Path:
    lines = ["from __future__ import annotations", "from rockbot.tools import ToolContext, Toolset"]
    for name in toolsets:
        lines += [
            f"{name} = Toolset('{name}')",
            f"@{name}.tool",
            f"def {name}_it(a: int, context: ToolContext) -> int:",
        ]
        lines += ["    'Does it.'", "    return a"]
    path.write_text("\n".join([*lines, more, ""]))
    return path


def names(items: Any) -> list[str]:
    return sorted(item.name for item in items)


def test_files_offer_their_toolsets_and_each_has_a_queue(contribution: Any, tmp_path: Path) -> None:
    made = contribution(files=[written(tmp_path / "tools.py", "crm", "desk")])
    assert names(made.tools) == ["crm_it", "desk_it", "read_artifact"]
    assert [(item.name, item.patterns) for item in made.subscriptions] == [
        ("tool.artifacts", ("tool.invoke.artifacts",)),
        ("tool.crm", ("tool.invoke.crm",)),
        ("tool.desk", ("tool.invoke.desk",)),
    ]
    assert made.addressed == ()


def test_run_says_which_toolsets_run_here_and_the_others_are_only_addressed(contribution: Any, tmp_path: Path) -> None:
    file = written(tmp_path / "tools.py", "crm", "desk")
    made = contribution(files=[file], run=["crm"])
    assert names(made.tools) == ["crm_it", "desk_it", "read_artifact"]
    assert (names(made.subscriptions), names(made.addressed)) == (["tool.crm"], ["tool.artifacts", "tool.desk"])
    assert names(contribution(files=[file], run=[]).subscriptions) == []


@pytest.mark.usefixtures("installed")
def test_toolsets_says_which_installed_ones_are_offered(contribution: Any) -> None:
    assert names(contribution().tools) == ["buy", "read_artifact"]
    assert names(contribution(toolsets=["shop"]).tools) == ["buy", "read_artifact"]
    assert names(contribution(toolsets=[]).tools) == ["read_artifact"]


@pytest.mark.usefixtures("installed")
def test_two_toolsets_of_one_name_are_refused(contribution: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"two toolsets are named 'shop': in .*:OFFERED and in .*shop\.py"):
        contribution(files=[written(tmp_path / "shop.py", "shop")])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = 1", "has no toolset"),
        ("import nothing_of_that_name", r"ModuleNotFoundError: .* \(line 1 of tools.py\)"),
        ("def (", "SyntaxError"),
        ("import json\njson.loads('x')", r"JSONDecodeError: .* \(line 2 of tools.py\)"),
        (
            "from rockbot.tools import Toolset\nt = Toolset('t')\n@t.tool\ndef f(a):\n    'F.'\n",
            r"ToolDefinitionError: f cannot be a tool: its parameter 'a' has no annotation, .* \(line 3 of tools.py\)",
        ),
    ],
)
def test_a_file_that_cannot_be_loaded_is_named_with_its_error(
    contribution: Any, tmp_path: Path, text: str, told: str
) -> None:
    path = tmp_path / "tools.py"
    path.write_text(text)
    with pytest.raises(ConfigError, match=told) as raised:
        contribution(files=[path])
    assert str(path) in str(raised.value)


def test_what_nothing_offers_is_named(contribution: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'tools.run' names crm, which nothing offers \(offered: artifacts\)"):
        contribution(run=["crm"])
    with pytest.raises(ConfigError, match=r"'tools\.toolsets' names crm"):
        contribution(toolsets=["crm"])
    with pytest.raises(ConfigError, match="does not exist"):
        contribution(files=[tmp_path / "absent.py"])


def test_a_process_that_only_works_tools_need_not_know_all_tools_of_the_agents(tmp_path: Path) -> None:
    given = {
        "state_url": "memory://",
        "tools": {"files": [written(tmp_path / "tools.py", "crm")]},
        "agents": {"assistant": {"tools": ["crm_it", "run_python"]}},
    }
    worker = compose_host(Settings.model_validate({**given, "handlers": ["deadline", "tools"]}))
    assert names(worker.contributions().subscriptions) == ["control", "tool.artifacts", "tool.crm"]
    with pytest.raises(ConfigError, match="run_python, which no handler offers"):
        compose_host(Settings.model_validate({**given, "handlers": ["deadline", "agent", "tools"]})).contributions()
