"""What people are told about turns, the same over every way in: the gateway sends these models, ``--json`` prints them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from rockbot.events.models import Usage
from rockbot.history import TaskView

__all__ = ["Fork", "Hang", "HangKind", "StepEntry", "TurnStory"]

HangKind = Literal["dead_letter", "approval", "question", "model", "tool", "summary", "queue"]


class _Told(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class StepEntry(_Told):
    """One line of a timeline. `version` is the number of its record in the journal; `id` the message it is about.

    `took_ms` is the time from the message that was sent to its answer, None where nothing was waited for.
    """

    version: int
    at_ms: int
    kind: str
    text: str
    id: str = ""
    took_ms: int | None = None
    usage: Usage | None = None
    cost: float | None = None


class Hang(_Told):
    """One thing that a turn waits for: since when, and the command that a person can act with (empty: nothing to be done)."""

    kind: HangKind
    id: str
    text: str
    since_ms: int
    command: str = ""


class TurnStory(TaskView):
    """One task whole. `state` is the turn's; until it has ended `output` is what was said so far."""

    state: str = ""
    deadline_ms: int = 0
    waits_for: tuple[Hang, ...] = ()
    steps: tuple[StepEntry, ...] = ()


class Fork(_Told):
    """A conversation that was made from another one, as it was after its record `version`."""

    conversation_id: str
    source: str
    version: int
    agent: str
    messages: int
