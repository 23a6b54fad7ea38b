"""Turns, as they are counted and traced: told of what was written into a journal, and of nothing twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import final

from rockbot.context import Context
from rockbot.machines.turn_records import ModelReplied, StepFailed, TaskAccepted, TurnEnded, TurnRecord, TurnResumed
from rockbot.machines.turn_state import Conversation, Task
from rockbot.telemetry import semconv
from rockbot_messaging.measures import Measures, Names
from rockbot_messaging.tracing import NO_TRACING, Tracing

__all__ = ["TurnMeasures"]


@final
class TurnMeasures:
    """Counts for one message of an agent; `told` is called with what it added to the journal."""

    __slots__ = ("_agent", "_context", "_measures", "_tracing")

    def __init__(self, agent: str, context: Context, measures: Measures, tracing: Tracing) -> None:
        self._agent = agent
        self._context = context
        self._measures = measures
        self._tracing = tracing

    def told(self, before: Conversation, records: Sequence[TurnRecord]) -> None:
        """These records were added to a conversation that was like this."""
        count, agent = self._measures.count, self._agent
        for record in records:
            match record:
                case ModelReplied():
                    count(Names.TURN_STEPS, 1, agent=agent)
                case StepFailed():
                    count(Names.TURN_STALLS, 1, agent=agent)
                case TurnResumed() if before.turn is not None and before.turn.stalled:
                    count(Names.TURN_RESUMES, 1, agent=agent)
                case TurnEnded():
                    count(Names.TURNS, 1, agent=agent, status=record.status)
                    task = next((each for each in _tasks(before, records) if each.id == record.task_id), None)
                    if task is not None and task.accepted_ms:
                        self._ended(task, record)
                case _:
                    pass

    def _ended(self, task: Task, record: TurnEnded) -> None:
        now_ms = self._context.clock.now_ms()
        seconds = max(0, now_ms - task.accepted_ms) / 1000
        self._measures.observe(Names.TURN_DURATION, seconds, agent=self._agent, status=record.status)
        if self._tracing is NO_TRACING:
            return
        self._tracing.ended(
            task.id,
            f"{semconv.INVOKE_AGENT} {self._agent}",
            {
                semconv.GEN_AI_OPERATION_NAME: semconv.INVOKE_AGENT,
                semconv.GEN_AI_AGENT_NAME: self._agent,
                semconv.GEN_AI_CONVERSATION_ID: self._context.envelope.conversation_id or "",
                semconv.ROCKBOT_TASK_ID: task.id,
                semconv.ROCKBOT_TURN_STATUS: record.status,
            },
            traceparent=task.traceparent,
            began_ms=task.accepted_ms,
            ended_ms=now_ms,
            error_type="" if record.status == "completed" or record.error is None else record.error.code,
        )


def _tasks(before: Conversation, records: Sequence[TurnRecord]) -> Iterator[Task]:
    """Every task that may have ended."""
    if before.turn is not None:
        yield before.turn.task
        yield from (each.task for each in before.turn.joined)
    yield from before.waiting
    yield from (record.task for record in records if isinstance(record, TaskAccepted))
