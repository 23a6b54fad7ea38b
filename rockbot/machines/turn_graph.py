"""The states of a task and every way from one to another, as data: `rockbot turn describe` draws it, a test checks it.

A way is a record of the journal; what has to happen for it is said in words. Only what changes the state, or is a step of the
turn itself, is a way.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from rockbot.machines.turn_evolve import evolve
from rockbot.machines.turn_records import TaskAccepted, TurnEnded, TurnRecord
from rockbot.machines.turn_state import Conversation, StateName

__all__ = ["ENDS", "MEANINGS", "STATES", "WAYS", "Way", "mermaid", "state_of", "text", "ways_of"]

#: Every state, in the order in which a task may come by them.
STATES: Final[dict[StateName, str]] = {
    "received": "accepted; waits for its turn, or for the next model call of the turn that it joined",
    "awaiting_model": "the model was called",
    "awaiting_tools": "at least one tool call is under way",
    "awaiting_approval": "nothing is under way but what people have to approve",
    "awaiting_input": "nothing is under way but a question to people",
    "compacting": "the model was asked for a summary, because its window is full",
    "stalled": "a step lies in a dead-letter queue; the clock stands",
    "completed": "answered",
    "failed": "ended with a reason: a limit, an error, a step that nobody mended",
    "canceled": "ended from outside, or by a task that interrupted it",
    "expired": "its deadline passed",
}
ENDS: Final[frozenset[StateName]] = frozenset({"completed", "failed", "canceled", "expired"})

#: What has to happen for a record to be written.
MEANINGS: Final[dict[str, str]] = {
    "task_accepted": "a task arrives",
    "turn_started": "its turn has come",
    "task_joined": "it answers a question of the running turn",
    "model_replied": "the model has replied",
    "model_called": "all tools have answered, or a task has joined",
    "tools_called": "the reply calls tools",
    "tool_returned": "a tool has answered, or the model is told why not",
    "call_asked": "a worker wants a person's approval",
    "ask_decided": "a person has approved",
    "step_failed": "a step became a dead letter",
    "call_repeated": "a step is sent again after the clock stood",
    "turn_resumed": "the clock runs again",
    "compaction_began": "the window is full",
    "compacted": "the summary has come",
    "compaction_failed": "there is no summary",
    "turn_ended": "it ends",
}
#: Records that say nothing about a task that stays in its state.
_ASIDE: Final = frozenset(
    {"task_accepted", "task_joined", "turn_started", "turn_ended", "transcript_sealed", "answer_ignored"}
)


class Way(NamedTuple):
    """From one state (empty: from nowhere) to another by a record of that kind."""

    before: StateName | str
    record: str
    after: StateName


#: Every way there is.
WAYS: Final[frozenset[Way]] = frozenset(
    {
        Way("", "task_accepted", "received"),
        Way("awaiting_approval", "ask_decided", "awaiting_approval"),
        Way("awaiting_approval", "ask_decided", "awaiting_tools"),
        Way("awaiting_approval", "tool_returned", "awaiting_approval"),
        Way("awaiting_approval", "tool_returned", "awaiting_input"),
        Way("awaiting_approval", "tool_returned", "awaiting_tools"),
        Way("awaiting_approval", "turn_ended", "canceled"),
        Way("awaiting_approval", "turn_ended", "expired"),
        Way("awaiting_input", "ask_decided", "awaiting_input"),
        Way("awaiting_input", "tool_returned", "awaiting_input"),
        Way("awaiting_input", "tool_returned", "awaiting_tools"),
        Way("awaiting_input", "turn_ended", "canceled"),
        Way("awaiting_input", "turn_ended", "expired"),
        Way("awaiting_model", "compaction_began", "compacting"),
        Way("awaiting_model", "model_called", "awaiting_model"),
        Way("awaiting_model", "model_replied", "awaiting_model"),
        Way("awaiting_model", "step_failed", "stalled"),
        Way("awaiting_model", "tools_called", "awaiting_approval"),
        Way("awaiting_model", "tools_called", "awaiting_input"),
        Way("awaiting_model", "tools_called", "awaiting_tools"),
        Way("awaiting_model", "turn_ended", "canceled"),
        Way("awaiting_model", "turn_ended", "completed"),
        Way("awaiting_model", "turn_ended", "expired"),
        Way("awaiting_model", "turn_ended", "failed"),
        Way("awaiting_model", "turn_resumed", "awaiting_model"),
        Way("awaiting_tools", "ask_decided", "awaiting_tools"),
        Way("awaiting_tools", "call_asked", "awaiting_approval"),
        Way("awaiting_tools", "call_asked", "awaiting_tools"),
        Way("awaiting_tools", "call_repeated", "awaiting_tools"),
        Way("awaiting_tools", "model_called", "awaiting_model"),
        Way("awaiting_tools", "step_failed", "stalled"),
        Way("awaiting_tools", "tool_returned", "awaiting_approval"),
        Way("awaiting_tools", "tool_returned", "awaiting_input"),
        Way("awaiting_tools", "tool_returned", "awaiting_tools"),
        Way("awaiting_tools", "turn_ended", "canceled"),
        Way("awaiting_tools", "turn_ended", "expired"),
        Way("awaiting_tools", "turn_ended", "failed"),
        Way("awaiting_tools", "turn_resumed", "awaiting_tools"),
        Way("compacting", "compacted", "awaiting_model"),
        Way("compacting", "compaction_failed", "awaiting_model"),
        Way("compacting", "step_failed", "stalled"),
        Way("compacting", "turn_ended", "canceled"),
        Way("compacting", "turn_ended", "expired"),
        Way("compacting", "turn_ended", "failed"),
        Way("compacting", "turn_resumed", "compacting"),
        Way("received", "model_called", "awaiting_model"),
        Way("received", "task_joined", "awaiting_input"),
        Way("received", "turn_ended", "canceled"),
        Way("received", "turn_ended", "expired"),
        Way("received", "turn_ended", "failed"),
        Way("received", "turn_started", "awaiting_model"),
        Way("stalled", "ask_decided", "stalled"),
        Way("stalled", "call_asked", "awaiting_approval"),
        Way("stalled", "call_asked", "awaiting_tools"),
        Way("stalled", "call_asked", "stalled"),
        Way("stalled", "call_repeated", "awaiting_model"),
        Way("stalled", "call_repeated", "awaiting_tools"),
        Way("stalled", "call_repeated", "compacting"),
        Way("stalled", "call_repeated", "stalled"),
        Way("stalled", "compacted", "awaiting_model"),
        Way("stalled", "compaction_failed", "awaiting_model"),
        Way("stalled", "model_replied", "awaiting_model"),
        Way("stalled", "step_failed", "stalled"),
        Way("stalled", "tool_returned", "awaiting_approval"),
        Way("stalled", "tool_returned", "awaiting_input"),
        Way("stalled", "tool_returned", "awaiting_tools"),
        Way("stalled", "tool_returned", "stalled"),
        Way("stalled", "turn_ended", "canceled"),
        Way("stalled", "turn_ended", "expired"),
        Way("stalled", "turn_ended", "failed"),
        Way("awaiting_approval", "turn_ended", "failed"),
    }
)


def state_of(state: Conversation, task_id: str) -> StateName | str:
    """The state of a task in a conversation; empty when it is not under way there."""
    turn = state.turn
    if turn is not None:
        if turn.task.id == task_id:
            return turn.state
        for joined in turn.joined:
            if joined.task.id == task_id:
                return turn.state if joined.heard else "received"
    return "received" if any(task.id == task_id for task in state.waiting) else ""


def ways_of(state: Conversation, record: TurnRecord) -> tuple[Conversation, set[Way]]:
    """The conversation after a record, and the ways that its tasks took by it."""
    after = evolve(state, record)
    tasks = {task.id for task in state.waiting}
    if state.turn is not None:
        tasks |= {state.turn.task.id, *(each.task.id for each in state.turn.joined)}
    if isinstance(record, TaskAccepted):
        tasks.add(record.task.id)
    found = set()
    for task in tasks:
        was = state_of(state, task)
        ended = isinstance(record, TurnEnded) and record.task_id == task
        now = record.status if isinstance(record, TurnEnded) and ended else state_of(after, task)
        if was != now or (record.kind not in _ASIDE and was != "received"):
            found.add(Way(was, record.kind, now))  # type: ignore[arg-type]
    return after, found


def text() -> str:
    """The graph for a terminal."""
    lines = []
    for state, meaning in STATES.items():
        lines.append(f"{state}: {meaning}")
        ways = sorted(way for way in WAYS if way.before == state)
        lines += [f"  -> {way.after:18} {MEANINGS[way.record]} ({way.record})" for way in ways]
    return "\n".join(lines)


def mermaid() -> str:
    """The graph as a Mermaid state diagram."""
    lines = ["stateDiagram-v2"]
    drawn: dict[tuple[str, str], list[str]] = {}
    for way in sorted(WAYS):
        drawn.setdefault((way.before or "[*]", way.after), []).append(way.record)
    lines += [f"    {before} --> {after}: {', '.join(records)}" for (before, after), records in drawn.items()]
    lines += [f"    {state} --> [*]" for state in STATES if state in ENDS]
    return "\n".join(lines)
