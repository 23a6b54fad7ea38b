"""What makes a transcript one that every provider takes: who may speak after whom, and which call has its result where.

Pure. Tests hold every request to these rules; compaction asks them where a transcript may be cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rockbot.events.content import Message, TextPart, ToolCallPart, ToolResultPart

__all__ = ["begun", "may_cut", "transcript_problems"]

#: Stands for what is not shown: a transcript begins with a user's message.
_LEFT_OUT: Final = "[earlier messages are left out here]"


def may_cut(messages: Sequence[Message], at: int) -> bool:
    """Whether no call stands before the place `at` whose result stands behind it, or is still to come."""
    return at == 0 or not messages[at - 1].tool_calls


def begun(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The messages, with a note before them when they begin in the middle of a transcript, with a reply."""
    if not messages or messages[0].role == "user":
        return tuple(messages)
    return (Message(role="user", parts=(TextPart(text=_LEFT_OUT),)), *messages)


def transcript_problems(
    messages: Sequence[Message], *, open_calls: bool = False, alternating: bool = False
) -> list[str]:
    """Everything that is wrong with a transcript, a sentence each; empty for a correct one.

    A transcript begins with a user message; no message is empty; a reply of the model follows a user message. The results of
    a reply's tool calls stand at the head of the next message, a user's: one for each call, in the order of the calls, and
    nowhere else. Ids of calls are unique within a reply, and only the model calls.

    `open_calls` allows calls of the last message to be without results. `alternating` demands, as some providers do, that no
    user message follows another; adapters join such neighbours.
    """
    problems: list[str] = []
    if messages and messages[0].role != "user":
        problems.append("message 0 is not a user's")
    for at, message in enumerate(messages):
        before = messages[at - 1] if at else None
        if not message.parts:
            problems.append(f"message {at} is empty")
        if before is not None and before.role == message.role and (alternating or message.role == "assistant"):
            problems.append(f"messages {at - 1} and {at} are both of the {message.role}")
        problems.extend(_misplaced(at, message))
        asked = [call.call_id for call in before.tool_calls] if before is not None else []
        answered = [part.call_id for part in message.parts if isinstance(part, ToolResultPart)]
        if asked != answered:
            problems.append(f"message {at} has results of {answered}, the calls before it are {asked}")
    if messages and messages[-1].tool_calls and not open_calls:
        problems.append(f"the calls of message {len(messages) - 1} have no results")
    return problems


def _misplaced(at: int, message: Message) -> list[str]:
    problems: list[str] = []
    calls = [part.call_id for part in message.parts if isinstance(part, ToolCallPart)]
    results = [isinstance(part, ToolResultPart) for part in message.parts]
    if message.role == "user" and calls:
        problems.append(f"message {at} is a user's and calls tools")
    if message.role == "assistant" and any(results):
        problems.append(f"message {at} is the assistant's and has results")
    if len(set(calls)) < len(calls):
        problems.append(f"message {at} uses the id of a call twice: {calls}")
    if results != sorted(results, reverse=True):
        problems.append(f"message {at} has a result behind something else")
    return problems
