"""Broadcasts that every process hears, and the command that ends a conversation's task."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from rockbot.events.event import Event
from rockbot_messaging.canceling import CANCEL_TOPIC, CANCEL_TYPE
from rockbot_messaging.ports import Door

__all__ = ["CancelTask", "ControlCancel", "ControlReload"]


class ControlCancel(Event):
    """Stop the work of one task, everywhere. ``{"task_id": "..."}`` is a whole message.

    `task_id` is the root task: what was delegated on its behalf ends with it. `calls` narrows it to these calls (ids of
    their commands) and what they caused; the task itself is then not touched.
    """

    type_name: ClassVar[str] = CANCEL_TYPE
    topics: ClassVar[tuple[str, ...]] = (CANCEL_TOPIC,)
    door: ClassVar[Door] = Door.LOSSY

    task_id: str = Field(min_length=1)
    reason: str = ""
    by: str = ""
    calls: tuple[str, ...] = ()


class ControlReload(Event):
    """Read the configuration of agents again, everywhere. ``{}`` is a whole message; `reason` is for the logs."""

    type_name: ClassVar[str] = "rockbot.control.reload"
    topics: ClassVar[tuple[str, ...]] = ("control.reload",)
    door: ClassVar[Door] = Door.LOSSY

    reason: str = ""


class CancelTask(Event):
    """End one task of one conversation as canceled, whether it runs or waits; a task that has ended stays as it is."""

    type_name: ClassVar[str] = "rockbot.agent.cancel"

    task_id: str = Field(min_length=1)
    conversation_id: str = Field(min_length=1)
    reason: str = ""
    by: str = ""
