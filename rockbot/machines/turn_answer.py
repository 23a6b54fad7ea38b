"""An answer that always leaves: one whose output the bus would not carry is cut, and says by how much."""

from __future__ import annotations

import dataclasses
import json
from typing import Final

from rockbot.events.content import TextPart
from rockbot.events.tasks import AgentResponse
from rockbot.machines.machine import Command

__all__ = ["shortened"]

#: Characters of an error's sentence that stay.
_ERROR_LIMIT: Final = 300


def shortened(command: Command, limit: int) -> Command:
    """The command of an `AgentResponse` with as much of its output as fits into a body of `limit` bytes.

    What is left out is counted in an exact marker at the end: ``[truncated, N chars omitted]``.
    """
    answer = command.event
    assert isinstance(answer, AgentResponse)
    error = answer.error
    if error is not None and len(error.message) > _ERROR_LIMIT:
        error = error.model_copy(update={"message": _cut(error.message, _ERROR_LIMIT)})
    bare = _with_output(answer.model_copy(update={"error": error}), "")
    # The output travels twice, as text and as a part; a part costs its frame too.
    frame = len(_with_output(bare, "x").to_body()) - 2
    kept = _fitting(answer.output, (limit - frame) // 2 - len(_marker(len(answer.output))))
    return dataclasses.replace(command, event=_with_output(bare, _cut(answer.output, kept)))


def _with_output(answer: AgentResponse, output: str) -> AgentResponse:
    return answer.model_copy(update={"output": output, "parts": (TextPart(text=output),) if output else ()})


def _cut(text: str, kept: int) -> str:
    return text if kept >= len(text) else text[:kept] + _marker(len(text) - kept)


def _marker(omitted: int) -> str:
    return f"[truncated, {omitted} chars omitted]"


def _fitting(text: str, room: int) -> int:
    """How many characters from the start of `text` have at most `room` bytes as JSON; every character has at least one."""
    low, high = 0, max(0, min(len(text), room))
    while low < high:
        middle = (low + high + 1) // 2
        size = len(json.dumps(text[low:middle], ensure_ascii=False).encode("utf-8", "surrogatepass")) - 2
        if size <= room:
            low, room = middle, room - size
        else:
            high = middle - 1
    return low
