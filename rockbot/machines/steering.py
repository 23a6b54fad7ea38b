"""What becomes of a task that arrives while another one runs in its conversation: pure, one question.

*Steer* lets it join the running turn: its text is put before the model at the next call, and one answer is given to both.
*Queue* lets it wait. *Interrupt* ends the running task and begins this one.
"""

from __future__ import annotations

from typing import Literal

from rockbot.events.tasks import TaskMode
from rockbot.machines.turn_state import Conversation, Task

__all__ = ["Arrival", "arrival"]

Arrival = Literal["start", "join", "answer", "wait", "interrupt", "busy"]


def arrival(state: Conversation, task: Task, mode: TaskMode, *, max_waiting: int) -> Arrival:
    """What to do with `task`, which is the last of `state.waiting`.

    A task for another agent never joins: it waits. A turn that waits for nothing but answers to its questions takes the text
    of a joining task as the answer.
    """
    turn = state.turn
    if turn is None:
        return "start"
    if mode == "interrupt":
        return "interrupt"
    if len(state.waiting) - 1 + len(turn.joined) >= max_waiting:
        return "busy"
    if mode == "queue" or turn.task.agent.name != task.agent.name:
        return "wait"
    return "answer" if turn.state == "awaiting_input" else "join"
