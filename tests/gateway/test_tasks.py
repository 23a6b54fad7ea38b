"""Tasks over every way in: the bus, and the gateway's socket."""

from __future__ import annotations

import pytest
from gateway.fake_agent import FakeHost
from history.stored import Talk

from rockbot.history import TaskFilter
from rockbot.operator import Operator
from rockbot.operators.bus import BusOperator
from rockbot.operators.faults import OperatorError, TaskNotFound
from rockbot.state.ports import StateUnavailable
from rockbot_messaging.clock import RandomIds, SystemClock


async def test_tasks_are_asked_for_near_and_far(operator: Operator, operated: FakeHost) -> None:
    talk = Talk(operated.store, "a talk/1")
    await talk.task("t/1", "Hello?", user="ann")
    await talk.reply("Hello.")
    await talk.task("t2")
    page = await operator.tasks(TaskFilter(), limit=1)
    assert [row.task_id for row in page.tasks] == ["t2"]
    page = await operator.tasks(TaskFilter(user="ann", status="ended"), limit=1)
    assert [(row.task_id, row.conversation_id) for row in page.tasks] == [("t/1", "a talk/1")]
    page = await operator.tasks(TaskFilter(conversation="a talk/1"), limit=1)
    rest = await operator.tasks(TaskFilter(conversation="a talk/1"), limit=9, after=page.next)
    assert [row.task_id for row in (*page.tasks, *rest.tasks)] == ["t2", "t/1"]
    task = await operator.task("t/1")
    assert (task.status, task.input, task.output) == ("completed", "Hello?", "Hello.")
    with pytest.raises(TaskNotFound, match="rockbot tasks list"):
        await operator.task("t/1", tenant="other")
    with pytest.raises(TaskNotFound):
        await operator.task("none")


async def test_an_operator_without_a_store_says_why(operated: FakeHost) -> None:
    bare = BusOperator(operated.bus, clock=SystemClock(), ids=RandomIds())
    with pytest.raises(OperatorError, match="without the state store"):
        await bare.task("t1")
    gone = BusOperator(operated.bus, clock=SystemClock(), ids=RandomIds(), history=StateUnavailable("the disk is gone"))
    with pytest.raises(StateUnavailable, match="the disk is gone"):
        await gone.tasks(TaskFilter())
