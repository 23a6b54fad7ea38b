"""The page about tools: its toolset, its settings and its commands work together as printed."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from rockbot.cli.main import run
from rockbot.settings import load

PAGE = (Path(__file__).parents[2] / "docs" / "tools.md").read_text()


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(autouse=True)
def as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    program, _, _ = _blocks("python")[0].partition("# The functions stay")
    (tmp_path / "tools.py").write_text(program)
    (tmp_path / "rockbot.toml").write_text("\n".join(_blocks("toml")))


def test_the_settings_are_settings() -> None:
    settings = load()
    assert settings.tools.files == (Path("tools.py"),)
    assert [rule.then for rule in settings.agents["assistant"].policy.rules] == ["deny", "ask", "allow", "deny"]


@pytest.mark.parametrize("line", [line for block in _blocks("console") for line in block.splitlines()])
def test_the_commands_work(line: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    *variables, rest = re.split(r"(?<=') (?=rockbot)", line.removeprefix("$ "))
    for variable in variables:
        name, _, value = variable.partition("=")
        monkeypatch.setenv(name, value.strip("'"))
    arguments = shlex.split(rest)[1:]
    if arguments[0] == "run":  # it would run: that it could be put together is enough
        if "--handlers" in arguments:
            monkeypatch.setenv("ROCKBOT_HANDLERS", json.dumps(arguments[2].split(",")))
        arguments = ["config", "check"]
    code = run(arguments)
    out, err = capfd.readouterr()
    assert code == 0, f"{out}{err}"
    if "explain" in arguments:
        assert ("ask" if "--tainted" in arguments else "deny") in out
