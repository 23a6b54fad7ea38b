"""A tools file, an agent with a policy, and a model that calls: the whole way, in one process and in memory."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest

from rockbot.events import AgentResponse, AgentStatus
from rockbot.operators.open import embedded_operator
from rockbot.processes import Embedded
from rockbot.settings import Settings

TOOLS = '''
from rockbot.tools import ToolContext, Toolset

shop = Toolset("shop")

@shop.tool(read_only=True, output_limit=300, origin="web")
def read_page(context: ToolContext) -> str:
    """Read a page."""
    context.progress("half", fraction=0.5)
    return "".join(f"row {number} costs {number * 7}\\n" for number in range(1000))

@shop.tool
async def buy(amount: int) -> str:
    """Buy."""
    return f"bought {amount}"
'''
RULES = r"""
[[scripts.shopper.rules]]
name = "read"
when = { last = "user", user = 'page' }
calls = [{ tool = "read_page", arguments = {} }]

[[scripts.shopper.rules]]
name = "buy"
when = { last = "user", user = 'buy' }
calls = [{ tool = "buy", arguments = { amount = 5 } }]

[[scripts.shopper.rules]]
name = "mistake"
when = { last = "user", user = 'wrong' }
calls = [{ tool = "buy", arguments = { amount = "five" } }]

[[scripts.shopper.rules]]
name = "page"
when = { last = "tool", result = 'at (?P<id>artifact:\S+\d)', step = 2 }
calls = [{ tool = "read_artifact", arguments = { id = "$id", grep = "row 500 " } }]

[[scripts.shopper.rules]]
name = "tell"
when = { last = "tool" }
reply = "told: $result"
"""


def settings(folder: Path) -> Settings:
    (folder / "tools.py").write_text(TOOLS)
    (folder / "rules.toml").write_text(RULES)
    rule = {"tool": "buy", "when_tainted": "web", "then": "deny", "reason": "strangers were read"}
    return Settings.model_validate(
        {
            "state_url": "memory://",
            "model": "scripted/shopper",
            "scripted": {"rules": str(folder / "rules.toml")},
            "handlers": ["deadline", "agent", "llm", "tools"],
            "tools": {"files": [str(folder / "tools.py")]},
            "agents": {"assistant": {"policy": {"rules": [rule]}}},
        }
    )


@pytest.mark.timeout(240)
async def test_tools_of_a_file_are_called_by_an_agent_bounded_and_judged(tmp_path: Path) -> None:
    progress: list[AgentStatus] = []
    async with Embedded(settings(tmp_path)) as embedded:
        operator = embedded_operator(embedded)

        async def ask(text: str) -> str:
            async with asyncio.timeout(60), aclosing(operator.ask("assistant", text, conversation_id="one")) as events:
                async for event in events:
                    if isinstance(event, AgentStatus) and event.kind == "tool_progress":
                        progress.append(event)
                    if isinstance(event, AgentResponse):
                        return event.output
            raise AssertionError("no answer")

        assert await ask("wrong") == (
            "told: the tool was not called, its arguments do not fit: amount: Input should be a valid integer"
            " (arguments: amount)"
        )
        assert await ask("buy 5") == "told: bought 5"
        assert "row 500 costs 3500" in await ask("read the page")
        assert "strangers were read" in await ask("buy 5")
    assert [(status.tool, status.text, status.fraction) for status in progress] == [("read_page", "half", 0.5)]
