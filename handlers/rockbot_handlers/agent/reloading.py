"""The broadcast that has every host read its agents again."""

from __future__ import annotations

from typing import Final, final

from rockbot.agents.roster import Roster
from rockbot.context import Context
from rockbot.events import ControlReload, Event
from rockbot.handler import CallNext
from rockbot_messaging.subscriptions import WatchSubscription

__all__ = ["RELOADS", "ReloadHandler"]

#: By which every host hears it.
RELOADS: Final = WatchSubscription(name="agents-reload", patterns=ControlReload.topics)


@final
class ReloadHandler:
    """Reloads; what is wrong with the new configuration is in the log, in health and in `doctor`."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster

    @property
    def handles(self) -> tuple[type[Event], ...]:
        return (ControlReload,)

    async def handle(self, event: ControlReload, context: Context, call_next: CallNext) -> None:  # noqa: ARG002
        await self._roster.reload(
            f"asked for by a message: {event.reason}" if event.reason else "asked for by a message"
        )
