"""Cancelling in a host: hears the broadcast, stops what runs here, and ends the tasks it names.

Every host hears it, and each does all of it: tombstones are left once, and the commands that end the tasks have ids that
derive from the broadcast, so that those of many hosts are one.
"""

from __future__ import annotations

import json
import logging
from typing import Final, final

from rockbot import topics
from rockbot.chain import Order
from rockbot.context import Context
from rockbot.errors import PermanentFailure
from rockbot.events import CancelTask, ControlCancel, Event
from rockbot.handler import CallNext
from rockbot.machines.turn_messages import return_token
from rockbot.plugins import Contribution, Link, Services
from rockbot.state.keys import task_key, tasks_under
from rockbot.state.ports import StateStore
from rockbot_messaging.canceling import Cancellation, InvalidCancellation, RunningCalls, cancel_watch
from rockbot_messaging.envelope import ReturnAddress
from rockbot_messaging.ledger import ResultLedger

__all__ = ["CancelLink", "canceling"]

logger = logging.getLogger(__name__)

#: States of a task's index row after which nothing is to be ended any more.
_ENDED: Final = frozenset({"completed", "failed", "canceled", "expired"})


def canceling(services: Services) -> Contribution:
    """What every host has, whichever handlers it was given."""
    link = CancelLink(services.state, services.ledger, services.running)
    return Contribution(links=(Link(Order.WORK, "control", link),), subscriptions=(cancel_watch(),))


@final
class CancelLink:
    """Takes `control.cancel`."""

    def __init__(self, store: StateStore, ledger: ResultLedger, running: RunningCalls) -> None:
        self._store = store
        self._ledger = ledger
        self._running = running

    @property
    def handles(self) -> tuple[type[Event], ...]:
        return (ControlCancel,)

    async def handle(self, event: ControlCancel, context: Context, call_next: CallNext) -> None:  # noqa: ARG002
        tenant = context.envelope.tenant
        try:
            cancellation = Cancellation.read(context.envelope)
        except InvalidCancellation as exc:
            raise PermanentFailure(str(exc)) from exc
        stopped = await cancellation.carry_out(tenant=tenant, ledger=self._ledger, running=self._running)
        if stopped:
            logger.info("running calls were stopped", extra={"task": event.task_id, "count": stopped})
        if not event.calls:
            for task_id, row in await self._tasks(tenant, event.task_id):
                self._end(task_id, row, event, context)

    async def _tasks(self, tenant: str, root: str) -> list[tuple[str, dict[str, str]]]:
        """The root task and those delegated under it, with their index rows; of those that have not ended."""
        names, after = [root], None
        while True:
            page = await self._store.list(tasks_under(tenant, root), after=after)
            names += [entry.value.decode() for entry in page.entries]
            after = page.next
            if after is None:
                break
        found = []
        for name in names:
            entry = await self._store.get(task_key(tenant, name))
            row = json.loads(entry.value) if entry else {}
            if row and row["status"] not in _ENDED:
                found.append((name, row))
        return found

    def _end(self, task_id: str, row: dict[str, str], event: ControlCancel, context: Context) -> None:
        agent, conversation = row["agent"], row["conversation_id"]
        cancel = CancelTask(task_id=task_id, conversation_id=conversation, reason=event.reason, by=event.by)
        step = topics.step(agent)
        address = ReturnAddress(step, return_token(conversation, task_id))
        context.emit(cancel, topic=step, name=f"cancel:{task_id}", return_address=address)
