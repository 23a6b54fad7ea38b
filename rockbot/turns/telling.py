"""A turn's journal as lines that people read. Pure: records and their instants in, a story out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, final

from rockbot.events.content import text_of
from rockbot.events.models import Usage
from rockbot.machines.turn_evolve import evolve
from rockbot.machines.turn_records import (
    AnswerIgnored,
    AskDecided,
    CallAsked,
    CallRepeated,
    Compacted,
    CompactionBegan,
    CompactionFailed,
    ConversationForked,
    ModelCalled,
    ModelReplied,
    StepFailed,
    TaskAccepted,
    TaskJoined,
    ToolReturned,
    ToolsCalled,
    TranscriptSealed,
    TurnEnded,
    TurnRecord,
    TurnResumed,
    TurnStarted,
)
from rockbot.machines.turn_state import AwaitingModel, AwaitingTools, Compacting, Conversation, Task, Turn
from rockbot.turns.models import Hang, StepEntry

__all__ = ["Told", "tell"]

#: Characters of a text in a line.
_LINE: Final = 160


@final
@dataclass(slots=True)
class Told:
    """What a journal says about one task. `turn` is the one it has, or had a part in, as it was last."""

    task: Task | None = None
    turn: Turn | None = None
    ended: TurnEnded | None = None
    waits_for: list[Hang] = field(default_factory=list)
    steps: list[StepEntry] = field(default_factory=list)
    conversation: Conversation = field(default_factory=Conversation)


def tell(task_id: str, records: Iterable[tuple[int, int, TurnRecord]]) -> Told:
    """The story of a task; `records` are versions, instants (epoch milliseconds) and records of its conversation, in order."""
    teller = _Teller(task_id)
    for version, at_ms, record in records:
        teller.take(version, at_ms, record)
    return teller.told()


@final
class _Teller:
    def __init__(self, task_id: str) -> None:
        self._task_id = task_id
        self._told = Told()
        #: When a message was sent that is not answered, by its id.
        self._sent: dict[str, int] = {}
        self._letters: dict[str, StepFailed] = {}

    def take(self, version: int, at_ms: int, record: TurnRecord) -> None:
        before = self._told.conversation
        after = evolve(before, record)
        self._told.conversation = after
        mine = self._concerns(record) or self._part_of(before.turn) or self._part_of(after.turn)
        if isinstance(record, TaskAccepted) and record.task.id == self._task_id:
            self._told.task = record.task
        if isinstance(record, TurnEnded) and record.task_id == self._task_id:
            self._told.ended = record
        if mine:
            entry = self._entry(version, at_ms, record, after.turn or before.turn)
            if entry is not None:
                self._told.steps.append(entry)
            turn = after.turn if self._part_of(after.turn) else before.turn
            if self._part_of(turn):
                self._told.turn = turn
        self._note(at_ms, record, after.turn)

    def told(self) -> Told:
        turn = self._told.conversation.turn
        if self._told.ended is None and turn is not None and self._part_of(turn):
            self._told.waits_for = list(self._hangs(turn))
        elif self._told.ended is None and self._told.task is not None:
            ahead = f"the turn of task {turn.task.id}" if turn is not None else "its turn to begin"
            since = self._told.task.accepted_ms
            self._told.waits_for = [Hang(kind="queue", id=self._task_id, text=f"waits for {ahead}", since_ms=since)]
        return self._told

    def _concerns(self, record: TurnRecord) -> bool:
        match record:
            case TaskAccepted(task=task):
                return task.id == self._task_id
            case TaskJoined(task_id=task_id) | TurnEnded(task_id=task_id):
                return task_id == self._task_id
        return False

    def _part_of(self, turn: Turn | None) -> bool:
        return turn is not None and self._task_id in (turn.task.id, *(each.task.id for each in turn.joined))

    def _note(self, at_ms: int, record: TurnRecord, turn: Turn | None) -> None:
        """Remember when what was sent, and which letter a call lies in."""
        match record:
            case TurnStarted(model_call=call) | ModelCalled(id=call) | CompactionBegan(id=call):
                self._sent[call] = at_ms
            case Compacted(model_call=call) | CompactionFailed(model_call=call):
                self._sent[call] = at_ms
            case ToolsCalled(calls=calls):
                self._sent |= {call.id: at_ms for call in calls}
            case CallRepeated(new_id=call) | AskDecided(new_id=call) if call:
                self._sent[call] = at_ms
            case StepFailed(id=call):
                self._letters[call] = record
        open_calls = set(turn.open_calls) if turn is not None else set()
        self._letters = {call: letter for call, letter in self._letters.items() if call in open_calls}

    def _hangs(self, turn: Turn) -> Iterable[Hang]:
        stalled = {call.id: call.reason for call in turn.stalled}
        for call in turn.open_calls:
            since = self._sent.get(call, turn.task.accepted_ms)
            if call in stalled:
                letter = self._letters.get(call)
                queue, message = (letter.queue, letter.message_id) if letter else ("", call)
                yield Hang(
                    kind="dead_letter",
                    id=message,
                    text=f"lies in {queue or 'a dead-letter queue'}: {_line(stalled[call])}",
                    since_ms=since,
                    command=f"rockbot turn resume {turn.task.id}",
                )
            else:
                kind, text = self._awaited(turn, call)
                yield Hang(kind=kind, id=call, text=text, since_ms=since)
        for asked in turn.asking:
            assert asked.asks is not None
            question = asked.asks.kind == "question"
            yield Hang(
                kind="question" if question else "approval",
                id=asked.id,
                text=_line(asked.asks.text or f"may the tool {asked.tool} be called?"),
                since_ms=asked.asks.asked_ms,
                command=f"rockbot approvals {'answer' if question else 'show'} {asked.id}",
            )

    @staticmethod
    def _awaited(turn: Turn, call: str) -> tuple[str, str]:
        match turn.phase:
            case AwaitingModel():
                return "model", "the model's reply"
            case Compacting():
                return "summary", "a summary of the older part of the conversation"
            case AwaitingTools(calls=calls):
                tool = next((each.tool for each in calls if each.id == call), "")
                return "tool", f"the tool {tool}"

    def _took(self, call: str, at_ms: int) -> int | None:
        sent = self._sent.get(call)
        return None if sent is None else max(0, at_ms - sent)

    def _entry(self, version: int, at_ms: int, record: TurnRecord, turn: Turn | None) -> StepEntry | None:
        def entry(
            kind: str,
            text: str,
            id: str = "",
            *,
            answers: str = "",
            usage: Usage | None = None,
            cost: float | None = None,
        ) -> StepEntry:
            took = self._took(answers, at_ms) if answers else None
            shown = id or answers
            return StepEntry(
                version=version,
                at_ms=at_ms,
                kind=kind,
                text=_line(text),
                id=shown,
                took_ms=took,
                usage=usage,
                cost=cost,
            )

        match record:
            case TaskAccepted(task=task):
                return entry("accepted", text_of(task.parts) or "a task without text", task.id)
            case TurnStarted(model_call=call):
                return entry("model called", _model(turn), call)
            case TaskJoined(task_id=task_id):
                return entry("joined", f"task {task_id} joined the turn", task_id)
            case ModelReplied(id=call, message=message, usage=usage, cost=cost):
                tools = ", ".join(part.tool for part in message.tool_calls)
                said = message.text or ("" if tools else "an empty reply")
                text = f"{said} [calls {tools}]" if tools else said
                return entry("model replied", text, answers=call, usage=usage, cost=cost)
            case ToolsCalled(calls=calls):
                return entry("tools called", ", ".join(call.tool for call in calls))
            case CallAsked(id=call, ask=ask):
                return entry("asked", ask.text or "people are asked for their approval", call)
            case AskDecided(id=call, decision=decision, by=by, text=text):
                return entry("decided", f"{decision} by {by or 'nobody'}" + (f": {text}" if text else ""), call)
            case ToolReturned(id=call, result=result):
                tool = next((each.tool for each in turn.pending if each.id == call), "") if turn else ""
                outcome = "failed" if result.is_error else "returned"
                return entry("tool answered", f"{tool} {outcome}: {text_of(result.parts)}", answers=call)
            case ModelCalled(id=call):
                return entry("model called", _model(turn), call)
            case StepFailed(id=call, queue=queue, reason=reason):
                return entry("stalled", f"the message lies in {queue}.dlq: {reason}", answers=call)
            case CallRepeated(new_id=call):
                return entry("sent again", "its deadline had passed while the turn stood still", call)
            case TurnResumed():
                return entry("resumed", "nothing stalls the turn any more")
            case CompactionBegan(id=call):
                return entry("summary asked for", "the conversation is too long for the model", call)
            case Compacted(id=call, usage=usage, cost=cost):
                return entry("summarised", "older messages have a summary", answers=call, usage=usage, cost=cost)
            case CompactionFailed(id=call, reason=reason, usage=usage, cost=cost):
                return entry("no summary", reason, answers=call, usage=usage, cost=cost)
            case AnswerIgnored(type=type_name, id=message):
                return entry("ignored", f"{type_name}, which nothing waits for", message)
            case TurnEnded(status=status, error=error, output=output, task_id=task_id):
                return entry(status, f"{error.code}: {error.message}" if error else output, task_id)
            case TranscriptSealed() | ConversationForked():
                return None


def _model(turn: Turn | None) -> str:
    if turn is None:
        return ""
    return f"call {turn.model_calls} of agent {turn.task.agent.name}"


def _line(text: str) -> str:
    """One line of it, cut where it is too long."""
    flat = " ".join(text.split())
    if len(flat) <= _LINE:
        return flat
    return f"{flat[:_LINE]} [truncated, {len(flat) - _LINE} chars omitted]"
