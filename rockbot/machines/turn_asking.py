"""Asking the model: what is too long to be sent whole is sealed, what is too long for the model is summarised first.

A summary is one more call of the turn, by the same rules as any other: journaled before it leaves, answered once, sent
again with its id. What it says becomes a record, so that a step which loses against another writer appends the same
summary again and asks nobody.
"""

from __future__ import annotations

from typing import Final

from rockbot import topics
from rockbot.events.content import Message, TextPart
from rockbot.events.models import LlmResponse
from rockbot.machines.segments import seal, seal_first, size_of
from rockbot.machines.turn_draft import TurnDraft
from rockbot.machines.turn_records import Compacted, CompactionBegan, CompactionFailed
from rockbot.machines.turn_state import Compacting, Task
from rockbot.machines.turn_window import cut_at, window_share
from rockbot.tokens import estimate_request

__all__ = ["ask_for_summary", "ask_model", "send_request", "take_summary"]

#: Bytes of a task's own words that stand beside the summary as they are; longer ones are only in the summary.
_OWN_WORDS: Final = 8 * 1024


def ask_model(draft: TurnDraft, task: Task, name: str) -> None:
    """Have the model say what comes next, in the command `name`, or summarise first when its window is too full."""
    agent = draft.agent(task)
    draft.seal(seal(draft.state.messages, draft.state.sealed, limit=draft.given.body_limit))
    tokens = estimate_request(draft.messages.request(task, agent, draft.state), factor=draft.state.token_factor)
    if tokens > window_share(agent) and ask_for_summary(draft, task, forced=False):
        return
    send_request(draft, task, name)


def ask_for_summary(draft: TurnDraft, task: Task, *, forced: bool) -> bool:
    """Have the model summarise what is old; False when there is nothing to gain by it, or it was done for this very call.

    `forced`: the provider says that the transcript is too long.
    """
    turn = draft.current()
    name = f"memory:{task.id}:{turn.model_calls}"
    if turn.compacted_at == turn.model_calls or name in draft.given.oversize:
        return False
    agent = draft.agent(task)
    state = draft.state
    # What is kept is to leave room: a summary before every call would be worse than a shorter memory.
    cut = cut_at(state.messages, agent.keep_recent, window_share(agent) / 4 / state.token_factor)
    if not cut and state.earlier is None:
        return False
    if state.earlier is None and len(state.messages) == 1:
        return False  # one message too long for the model stays too long when it is asked to summarise it
    draft.record(CompactionBegan(id=draft.id(name), cut=cut, forced=forced))
    send_request(draft, task, name)
    draft.signal(task, "compacting", "")
    return True


def take_summary(draft: TurnDraft, phase: Compacting, response: LlmResponse, name: str) -> str:
    """Write down the summary that came, or that none did (then why is returned); the command `name` is to ask the model."""
    task = draft.current().task
    text = response.message.text.strip()
    if not text or response.stop_reason in ("refusal", "context_window"):
        reason = f"the model gave no summary of the conversation ({response.stop_reason if text else 'an empty reply'})"
        draft.record(
            CompactionFailed(
                id=phase.id, reason=reason, usage=response.usage, model_call=draft.id(name), cost=response.cost
            )
        )
        return reason
    kept = draft.state.messages[phase.cut :]
    draft.seal(seal_first(draft.state.messages, phase.cut, draft.state.sealed))
    message = _summary(text, task, kept)
    draft.record(
        Compacted(id=phase.id, message=message, usage=response.usage, model_call=draft.id(name), cost=response.cost)
    )
    return ""


def send_request(draft: TurnDraft, task: Task, name: str) -> None:
    """Send the call that the turn waits for, in the command `name`: for a reply, or for a summary."""
    agent = draft.agent(task)
    phase = draft.current().phase
    if isinstance(phase, Compacting):
        request = draft.messages.summary_request(task, agent, draft.state, phase)
    else:
        draft.seal(seal(draft.state.messages, draft.state.sealed, limit=draft.given.body_limit))
        request = draft.messages.request(task, agent, draft.state)
        draft.signal(task, "model_call", request.model)
    draft.call(task, name, request, topics.llm_request(request.model.partition("/")[0], request.lane))


def _summary(text: str, task: Task, kept: tuple[Message, ...]) -> Message:
    said = TextPart(text=f"[A summary of the conversation up to here]\n{text}")
    own = Message(role="user", parts=task.parts)
    heard = any(message.parts[: len(task.parts)] == task.parts for message in kept)
    return Message(role="user", parts=(said,) if heard or size_of(own) > _OWN_WORDS else (said, *task.parts))
