"""Effects once: the mark that a message was handled is stored with what handling it did, and with what it sends.

Messages are delivered at least once, so a copy may come at any time: after a crash, from a publisher that tried again, from
a dead letter that was sent on twice. A copy of a handled id is acknowledged without being handled; whatever of its
messages had not been sent yet is sent. A message that fails, is retried or dead-lettered leaves no mark. Two copies that
are handled at the same time both run, and the store takes the effects of one of them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import final

from rockbot.context import Context, Emission
from rockbot.events import Event
from rockbot.handler import CallNext
from rockbot.outbox import emission_of, row_of
from rockbot.state.keys import Key, handled_key
from rockbot.state.ports import Commit, OutboxRow, StateStore, VersionConflict
from rockbot_messaging.errors import BodyTooLarge
from rockbot_messaging.measures import Measures, Names
from rockbot_messaging.ports import Door
from rockbot_messaging.topics import check_topic

__all__ = ["DeduplicationLink"]

logger = logging.getLogger(__name__)


@final
class DeduplicationLink:
    """Acts for subscriptions that remember their messages, and passes everything else on.

    `body_limit` is how many bytes the bus takes as a body: a message that could never be sent must not be committed.
    """

    def __init__(self, store: StateStore, *, measures: Measures, body_limit: int) -> None:
        self._store = store
        self._measures = measures
        self._limit = body_limit

    @property
    def handles(self) -> tuple[type[Event], ...]:
        return (Event,)

    async def handle(self, event: Event, context: Context, call_next: CallNext) -> None:
        if context.remember is None:
            await call_next(event, context)
            return
        envelope = context.envelope
        mark = handled_key(envelope.tenant, context.subscription, envelope.message_id)
        if (rows := await self._store.committed(mark, cause=envelope.message_id)) is not None:
            self._copy(context, rows)
            return
        collected = len(context.emissions)
        context.collect_effects()
        await call_next(event, context)
        if not await self._commit(context, mark, context.remember, context.emissions[collected:]):
            # What this copy decided is nobody's decision; what the other one decided is what goes out. (What lies in the
            # outbox of a machine was decided by both alike.)
            context.emissions[collected:] = [emission for emission in context.emissions[collected:] if emission.stored]
            self._copy(context, await self._store.committed(mark, cause=envelope.message_id) or ())

    async def _commit(self, context: Context, mark: Key, remember: float, emissions: Sequence[Emission]) -> bool:
        """Store everything; False when a copy was faster. Raises what nothing was stored for."""
        cause = context.envelope.message_id
        rows = []
        for emission in emissions:
            self._check(emission)
            if not emission.stored and emission.door is not Door.LOSSY:
                rows.append(row_of(emission, cause=cause))
        writes = context.effects.writes
        try:
            await self._store.commit(
                Commit(mark=mark, remember=remember, cause=cause, writes=writes, outbox=tuple(rows))
            )
        except VersionConflict:
            if await self._store.committed(mark, cause=cause) is None:
                raise  # one of its own values was changed by somebody else
            return False
        self._mark_when_sent(context, rows)
        return True

    def _check(self, emission: Emission) -> None:
        envelope = emission.envelope
        check_topic(envelope.topic)
        if len(envelope.body) > self._limit:
            raise BodyTooLarge(
                f"the message {envelope.type!r} that was to be sent has a body of {len(envelope.body)} bytes, "
                f"the limit is {self._limit}"
            )

    def _copy(self, context: Context, rows: Sequence[OutboxRow]) -> None:
        for row in rows:
            context.send_again(emission_of(row))
        self._mark_when_sent(context, rows)
        self._measures.count(Names.DUPLICATES, subscription=context.subscription)
        logger.debug(
            "a copy of a handled message was acknowledged",
            extra={
                "message_id": context.envelope.message_id,
                "subscription": context.subscription,
                "sent_again": len(rows),
            },
        )

    def _mark_when_sent(self, context: Context, rows: Sequence[OutboxRow]) -> None:
        if not rows:
            return
        ids = [row.id for row in rows]

        async def mark() -> None:
            await self._store.mark_sent(ids)

        context.after_publish.append(mark)
