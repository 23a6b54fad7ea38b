"""Cancelling work on every process: one broadcast stops what runs, a tombstone refuses what is queued or delayed.

The broadcast may be missed by a process that is just starting or cut off. That is why the tombstone is written first:
whoever begins a call, or renews the claim on a running one, looks for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, final

from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.ledger import ResultLedger
from rockbot_messaging.subscriptions import WatchSubscription

__all__ = ["CANCEL_TOPIC", "CANCEL_TYPE", "Cancellation", "InvalidCancellation", "RunningCalls", "cancel_watch"]

CANCEL_TOPIC: Final = "control.cancel"
CANCEL_TYPE: Final = "rockbot.control.cancel"


class InvalidCancellation(ValueError):
    """A body is no cancellation; the text says why."""


def cancel_watch() -> WatchSubscription:
    """What every process that makes calls listens to."""
    return WatchSubscription(name="control", patterns=(CANCEL_TOPIC,))


@final
@dataclass(frozen=True, slots=True)
class Cancellation:
    """What a broadcast asks for: the work under these ids is not to go on, for this reason."""

    ids: frozenset[str]
    reason: str

    @classmethod
    def read(cls, envelope: MessageEnvelope) -> Cancellation:
        """The cancellation in a message.

        Raises:
            InvalidCancellation: there is none; the text names what is missing.
        """
        try:
            body: Any = json.loads(envelope.body)
        except ValueError:
            raise InvalidCancellation("the body is not JSON") from None
        task = body.get("task_id") if isinstance(body, dict) else None
        if not isinstance(task, str) or not task:
            raise InvalidCancellation('the body has no "task_id"')
        calls = body.get("calls") or ()
        if not isinstance(calls, list | tuple) or not all(isinstance(call, str) and call for call in calls):
            raise InvalidCancellation('"calls" is no list of ids')
        reason = body.get("reason")
        return cls(frozenset(calls or (task,)), reason if isinstance(reason, str) and reason else "canceled")

    async def carry_out(self, *, tenant: str, ledger: ResultLedger, running: RunningCalls) -> int:
        """Leave tombstones, then stop what runs in this process; returns how many calls were stopped.

        Raises:
            Whatever the ledger raises; what runs here was stopped all the same.
        """
        try:
            for each in sorted(self.ids):
                await ledger.refuse(each, tenant=tenant, reason=self.reason)
        finally:
            stopped = running.stop(self.ids, tenant=tenant, reason=self.reason)
        return stopped


@final
class RunningCalls:
    """The calls that run in this process, by their own ids and the ids of what they were begun for."""

    def __init__(self) -> None:
        self._calls: dict[tuple[str, str], tuple[frozenset[str], Callable[[str], None]]] = {}

    def __len__(self) -> int:
        return len(self._calls)

    @contextmanager
    def running(
        self, call_id: str, *, tenant: str, under: Collection[str], stop: Callable[[str], None]
    ) -> Iterator[None]:
        """Within the block `stop(reason)` is called when the call, or something of `under`, is cancelled."""
        self._calls[tenant, call_id] = (frozenset((call_id, *under)), stop)
        try:
            yield
        finally:
            del self._calls[tenant, call_id]

    def stop(self, ids: Collection[str], *, tenant: str, reason: str) -> int:
        """Stop every call that has one of `ids`; returns how many there were."""
        found = [stop for (its, _), (mine, stop) in self._calls.items() if its == tenant and not mine.isdisjoint(ids)]
        for stop in found:
            stop(reason)
        return len(found)
