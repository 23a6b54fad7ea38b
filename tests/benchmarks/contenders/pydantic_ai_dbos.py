"""A pydantic-ai agent in a DBOS workflow on SQLite: every model request is a step that is on disk before the next one.

pydantic_ai_dbos.py STATE_FILE TURNS
"""

from __future__ import annotations

import logging
import sys

from dbos import DBOS
from pydantic_ai import Agent
from pydantic_ai.durable_exec.dbos import DBOSDurability
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from tests.benchmarks.loop import ANSWER, ASK, QUESTION, STEPS, WARM_UP, Steps, found
from tests.benchmarks.window import report, run

steps = Steps(warm_up=WARM_UP)


async def model(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Ask for the next shelf until the last one."""
    steps.model_began()
    step = sum(isinstance(message, ModelResponse) for message in messages) + 1
    if step < STEPS:
        call = ToolCallPart(tool_name="look", args={"shelf": step}, tool_call_id=f"call-{step}")
        reply = ModelResponse(parts=[TextPart(ASK), call])
    else:
        reply = ModelResponse(parts=[TextPart(ANSWER)])
    steps.model_ended()
    return reply


agent = Agent(FunctionModel(model), name="bench", capabilities=[DBOSDurability()])


@agent.tool_plain
@DBOS.step()
async def look(shelf: int) -> str:
    """Look at a shelf."""
    return found(shelf)


@DBOS.workflow()
async def turn(question: str) -> str:
    """One turn."""
    return (await agent.run(question)).output


async def turns(count: int) -> None:
    """Run `count` turns, each a workflow of its own."""
    for _ in range(count + WARM_UP):
        assert await turn(QUESTION) == ANSWER
        steps.turn_ended()
    DBOS.destroy()
    report({"turns": steps.result()})


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    DBOS(config={"name": "bench", "system_database_url": f"sqlite:///{sys.argv[1]}", "log_level": "ERROR"})
    DBOS.launch()
    run(turns(int(sys.argv[2])))
