"""The port through which people look at turns: what command line, gateway and library ask."""

from __future__ import annotations

from typing import Protocol

from rockbot.letters.models import Progress
from rockbot.turns.models import Fork, TurnStory
from rockbot_messaging.identity import DEFAULT_TENANT

__all__ = ["TurnDesk"]


class TurnDesk(Protocol):
    """Turns of one state store. Every method may also raise `HostUnreachable`, `StateUnavailable`."""

    async def story(self, task_id: str, *, tenant: str = DEFAULT_TENANT) -> TurnStory:
        """A task whole: state, timeline, and what it waits for.

        Raises:
            TaskNotFound: there is no such task.
        """
        ...

    async def fork(
        self,
        conversation_id: str,
        *,
        at: int | None = None,
        name: str | None = None,
        tenant: str = DEFAULT_TENANT,
    ) -> Fork:
        """Begin a new conversation as a copy of another one, as that was after its record `at` (None: the last).

        A turn that was under way there is left out: open calls are answered as never made. `name` is the new conversation's
        id, None makes one. The copy and its source know nothing of each other afterwards.

        Raises:
            ConversationNotFound: there is no such conversation, or it has no record `at`.
            InvalidRequest: a conversation `name` exists, or cannot be named so.
        """
        ...

    async def resume(
        self, task_id: str, *, actor: str, dry_run: bool = False, tenant: str = DEFAULT_TENANT
    ) -> Progress:
        """Send on the dead letters that a turn waits for, so that it goes on. `actor` names who asks, for the audit.

        Raises:
            TaskNotFound: there is no such task. InvalidRequest: it waits for no dead letter; the text says for what else.
        """
        ...
