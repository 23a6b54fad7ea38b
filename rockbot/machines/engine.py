"""The engine: runs machines against the store so that a crash at any line loses nothing and repeats nothing.

Load, advance, append everything in one transaction; the dispatcher then publishes and settles. A message that was handled
before finds its id in the journal: whatever of its commands is still open is published again, and nothing is decided
anew. Somebody else's write in between is no failure: load and decide again.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import Sequence
from typing import Final, Generic, TypeVar, final

from rockbot.context import Context, Emission
from rockbot.events.event import Event
from rockbot.machines.machine import Command, Decision, Input, Machine, advance, fold
from rockbot.outbox import emission_of
from rockbot.state.keys import Key
from rockbot.state.ports import Append, IndexRow, Loaded, OutboxRow, StateStore, Timer, VersionConflict
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.errors import BodyTooLarge
from rockbot_messaging.packing import pack
from rockbot_messaging.ports import Door

__all__ = ["Engine"]

S = TypeVar("S")
R = TypeVar("R")

#: Records between two snapshots.
SNAPSHOT_EVERY: Final = 16
#: Times a step is decided anew after somebody else wrote first, before its message is handed back.
_TRIES: Final = 20


@final
class Engine(Generic[S, R]):
    """Runs one kind of machine; any number of streams, any number of processes.

    `body_limit` is how many bytes the bus takes as a body (None: any number). A command with more never gets into the
    journal: the machine decides again, knowing which one it was.
    """

    def __init__(
        self,
        machine: Machine[S, R],
        store: StateStore,
        *,
        body_limit: int | None = None,
        jitter: random.Random | None = None,
    ) -> None:
        self._machine = machine
        self._store = store
        self._limit = body_limit
        self._jitter = jitter or random.Random()  # noqa: S311 - spreads retries, no secret

    async def step(self, stream: Key, event: Event, context: Context) -> bool:
        """Handle one message on a stream; False when it had been handled before.

        Its commands are put into the context's emissions; when they have been published, their rows are marked.

        Raises:
            VersionConflict: others kept writing first. PermanentFailure: the machine refuses the input.
            NewerRelease: the stream cannot be read by this release. StateUnavailable: nothing was stored.
            BodyTooLarge: the machine insists on a message that the bus would not carry; nothing was stored.
        """
        message_id = context.envelope.message_id
        for attempt in range(_TRIES):
            loaded = await self._store.load(stream, handled=message_id)
            if loaded.handled:
                self._send(context, loaded.unanswered)
                return False
            state, decision, commands = self._decide(self._state(loaded), event, context)
            step = self._append(stream, loaded, state, decision, commands, context)
            try:
                await self._store.append(step)
            except VersionConflict:
                if attempt + 1 == _TRIES:
                    raise
                await asyncio.sleep(self._jitter.uniform(0, 0.002 * (attempt + 1)))
                continue
            for signal in decision.signals:  # first, so that a watcher sees the step before what comes of it
                envelope = _envelope(context, signal)
                if self._fits(envelope):
                    context.send_again(Emission(envelope, Door.LOSSY))
            self._send(context, step.outbox)
            return True
        raise AssertionError("unreachable")

    async def state(self, stream: Key) -> tuple[S, int]:
        """The present state of a stream and its version (0: there is none)."""
        loaded = await self._store.load(stream)
        return self._state(loaded), loaded.version

    def _state(self, loaded: Loaded) -> S:
        machine = self._machine
        state = machine.load_state(loaded.snapshot.value) if loaded.snapshot else machine.initial()
        return fold(machine, state, (machine.load_record(record.value) for record in loaded.records))

    def _decide(self, before: S, event: Event, context: Context) -> tuple[S, Decision[R], list[MessageEnvelope]]:
        """The decision whose commands all fit, and these as messages."""
        given = Input(event, context.envelope, context.clock.now_ms(), self._limit)
        while True:
            state, decision = advance(self._machine, before, given)
            envelopes = [_envelope(context, command) for command in decision.commands]
            made = zip(decision.commands, envelopes, strict=True)
            oversize = {command.name: envelope for command, envelope in made if not self._fits(envelope)}
            if not oversize:
                return state, decision, envelopes
            if told := given.oversize & oversize.keys():
                name = min(told)
                size = len(oversize[name].body)
                raise BodyTooLarge(f"the command {name!r} has a body of {size} bytes, the limit is {self._limit}")
            given = dataclasses.replace(given, oversize=given.oversize | oversize.keys())

    def _fits(self, envelope: MessageEnvelope) -> bool:
        return self._limit is None or len(envelope.body) <= self._limit

    def _append(
        self,
        stream: Key,
        loaded: Loaded,
        state: S,
        decision: Decision[R],
        commands: Sequence[MessageEnvelope],
        context: Context,
    ) -> Append:
        machine = self._machine
        version = loaded.version + len(decision.records)
        since = version - (loaded.snapshot.version if loaded.snapshot else 0)
        outbox = [
            OutboxRow(
                id=envelope.message_id,
                cause=context.envelope.message_id,
                message=pack(envelope),
                door=command.event.door.value,
                address=command.address,
                awaits_answer=command.awaits_answer,
            )
            for command, envelope in zip(decision.commands, commands, strict=True)
        ]
        timers = []
        for timer in decision.timers:
            envelope = context.make(
                timer.event,
                topic=timer.topic,
                name=f"timer:{timer.id}@{timer.due_ms}",
                return_address=timer.return_address,
            )
            if not self._fits(envelope):
                raise BodyTooLarge(f"the timer {timer.id!r} has a message of more than {self._limit} bytes")
            timers.append(Timer(timer.id, timer.due_ms, pack(envelope.replace(deadline_ms=None))))
        return Append(
            stream=stream,
            expected_version=loaded.version,
            records=tuple(machine.dump_record(record) for record in decision.records),
            handled=context.envelope.message_id,
            snapshot=machine.dump_state(state) if since >= SNAPSHOT_EVERY else None,
            outbox=tuple(outbox),
            answered=decision.answered,
            timers=tuple(timers),
            canceled_timers=decision.canceled_timers,
            index=tuple(IndexRow(row.key, row.value) for row in decision.index),
        )

    def _send(self, context: Context, rows: Sequence[OutboxRow]) -> None:
        if not rows:
            return
        for row in rows:
            context.send_again(emission_of(row))
        ids = [row.id for row in rows]

        async def mark() -> None:
            await self._store.mark_sent(ids)

        context.after_publish.append(mark)


def _envelope(context: Context, command: Command) -> MessageEnvelope:
    envelope = context.make(
        command.event,
        topic=command.topic,
        name=command.name,
        return_address=command.return_address,
        correlation_id=command.correlation_id,
        conversation_id=command.conversation_id,
        root_task_id=command.root_task_id,
    )
    return envelope.replace(deadline_ms=command.deadline_ms)
