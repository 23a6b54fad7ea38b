"""`rockbot tools` and `rockbot policy`: what there is, what a call does, what a rule says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rockbot.cli.main import run

TOOLS = '''
from rockbot.tools import File, ToolContext, ToolError, Toolset

shop = Toolset("shop")

@shop.tool(read_only=True, output_limit=300)
async def look(what: str, context: ToolContext) -> list:
    """Look."""
    context.progress("looking", fraction=0.25)
    if what == "nothing":
        raise ToolError("there is nothing")
    if what == "trouble":
        raise KeyError("oops")
    return [what * 100, File(b"x", name="x.bin")]
'''


@pytest.fixture(autouse=True)
def written(tmp_path: Path) -> None:
    (tmp_path / "tools.py").write_text(TOOLS)
    rules = '[[agents.assistant.policy.rules]]\ntool = "look"\narguments = {{ what = "cash" }}\nthen = "{}"\n'
    text = 'handlers = ["tools"]\n[tools]\nfiles = ["tools.py"]\n' + rules.format("deny")
    (tmp_path / "rockbot.toml").write_text(text)


@pytest.fixture
def ran(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def execute(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = run(arguments)
        return (code, *capfd.readouterr())

    return execute


def test_tools_are_listed_and_shown_for_programs(ran: Any) -> None:
    code, out, _ = ran("tools", "list", "--json")
    assert (code, [json.loads(line)["name"] for line in out.splitlines()]) == (0, ["read_artifact", "look"])
    code, out, _ = ran("tools", "show", "look", "--json")
    assert (code, json.loads(out)["read_only"], json.loads(out)["output_limit"]) == (0, True, 300)


def test_a_call_is_tried_with_its_progress_its_files_and_its_whole_result_kept(ran: Any) -> None:
    code, out, err = ran("tools", "try", "look", "--arguments", '{"what": "abcdef"}')
    assert code == 0
    assert "25% looking" in err
    assert "[truncated, " in out
    parts = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert [part["name"] for part in parts] == ["result.txt", "x.bin"]
    read = {"id": parts[0]["uri"], "offset": 594}
    code, out, _ = ran("tools", "try", "read_artifact", "--arguments", json.dumps(read))
    assert (code, out) == (0, "[characters 594 to 600 of 600, the end]\nabcdef\n")
    code, _, err = ran("tools", "try", "read_artifact", "--tenant", "other", "--arguments", json.dumps(read))
    assert code == 1


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["look", "--arguments", '{"what": "nothing"}'], 1, "there is nothing"),
        (["look", "--arguments", '{"what": "trouble"}'], 1, "look raised KeyError: 'oops'"),
        (["look", "--arguments", '{"what": 5}'], 1, "what: Input should be a valid string"),
        (["look", "--arguments", "what=5"], 2, "--arguments is no JSON"),
        (["look", "--arguments", "[]"], 2, "has to be an object"),
        (["run_python"], 2, "no function that can be called here (those are: read_artifact, look)"),
    ],
)
def test_what_a_call_cannot_do_is_said(ran: Any, arguments: list[str], code: int, told: str) -> None:
    ended, out, err = ran("tools", "try", *arguments)
    assert ended == code
    assert told in f"{out}{err}"


def test_a_ruling_is_explained_for_programs(ran: Any) -> None:
    code, out, _ = ran("policy", "explain", "assistant", "look", "--arguments", '{"what": "cash"}', "--json")
    assert (code, json.loads(out)["verdict"], json.loads(out)["rules"][0]["misfit"]) == (0, "deny", "")
    code, out, _ = ran("policy", "explain", "assistant", "look", "--arguments", '{"what": "shoes"}')
    assert code == 0
    assert "no: what is not what it asks for" in out
    assert "allow (no rule fits)" in out
    code, _, err = ran("policy", "explain", "nobody", "look")
    assert code == 3
    assert "there is no agent 'nobody' (configured: assistant)" in err
