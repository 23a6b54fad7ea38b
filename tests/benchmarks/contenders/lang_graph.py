"""LangGraph's loop of a model node and a tool node, with its SQLite checkpointer, each checkpoint on disk before the next node.

    lang_graph.py STATE_FILE TURNS

`durability="sync"` is the mode that promises what we promise; its default writes while the next node runs. The checkpointer uses
SQLite's own settings, with which a commit survives the process but not always the machine.
"""

from __future__ import annotations

import sys
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, MessagesState, StateGraph

from tests.benchmarks.loop import ANSWER, ASK, QUESTION, STEPS, WARM_UP, Steps, found
from tests.benchmarks.window import report, run


async def turns(state: str, count: int) -> None:
    """Run `count` turns, each in a thread of its own."""
    steps = Steps(warm_up=WARM_UP)

    async def model(state: MessagesState) -> dict[str, Any]:
        steps.model_began()
        step = sum(isinstance(message, AIMessage) for message in state["messages"]) + 1
        if step < STEPS:
            call = {"name": "look", "args": {"shelf": step}, "id": f"call-{step}"}
            reply = AIMessage(content=ASK, tool_calls=[call])
        else:
            reply = AIMessage(content=ANSWER)
        steps.model_ended()
        return {"messages": [reply]}

    async def tool(state: MessagesState) -> dict[str, Any]:
        last = state["messages"][-1]
        assert isinstance(last, AIMessage)
        return {
            "messages": [
                ToolMessage(content=found(call["args"]["shelf"]), tool_call_id=call["id"]) for call in last.tool_calls
            ]
        }

    def whither(state: MessagesState) -> str:
        return "tool" if getattr(state["messages"][-1], "tool_calls", None) else END

    graph = StateGraph(MessagesState)
    graph.add_node("model", model)
    graph.add_node("tool", tool)
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", whither, ["tool", END])
    graph.add_edge("tool", "model")
    async with AsyncSqliteSaver.from_conn_string(state) as saver:
        compiled = graph.compile(checkpointer=saver)
        for number in range(count + WARM_UP):
            result = await compiled.ainvoke(
                {"messages": [HumanMessage(content=QUESTION)]},
                {"configurable": {"thread_id": f"t{number}"}, "recursion_limit": 4 * STEPS},
                durability="sync",
            )
            assert len(result["messages"]) == 2 * STEPS
            steps.turn_ended()
    report({"turns": steps.result()})


if __name__ == "__main__":
    run(turns(sys.argv[1], int(sys.argv[2])))
