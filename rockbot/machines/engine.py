"""The engine: runs machines against the store so that a crash at any line loses nothing and repeats nothing.

Load, advance, append everything in one transaction; the dispatcher then publishes and settles. A message that was handled
before finds its id in the journal: whatever of its commands is still open is published again, and nothing is decided
anew. Somebody else's write in between is no failure: load and decide again.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar, final

from rockbot.context import Context, Emission
from rockbot.events.event import Event
from rockbot.machines.machine import Command, Decision, Input, Machine, advance, fold
from rockbot.machines.remembering import Known, Memory
from rockbot.outbox import emission_of
from rockbot.state.keys import Key
from rockbot.state.ports import Append, IndexRow, Loaded, OutboxRow, StateStore, Timer, VersionConflict
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.errors import BodyTooLarge
from rockbot_messaging.packing import pack
from rockbot_messaging.ports import Door
from rockbot_messaging.tracing import trace_id

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
    journal: the machine decides again, knowing which one it was. `memory` is kept from step to step and may be shared by the
    engines of one kind of machine on one store; without it every step reads its stream. `told` hears of the records of each
    step and of the state before them, once they are written; it must not raise.
    """

    def __init__(
        self,
        machine: Machine[S, R],
        store: StateStore,
        *,
        body_limit: int | None = None,
        jitter: random.Random | None = None,
        memory: Memory[S] | None = None,
        told: Callable[[S, Sequence[R]], None] | None = None,
    ) -> None:
        self._machine = machine
        self._store = store
        self._limit = body_limit
        self._memory = memory
        self._told = told
        self._jitter = jitter or random.Random()  # noqa: S311 - spreads retries, no secret

    async def step(
        self, stream: Key, event: Event, context: Context, *, trusts: Callable[[S], bool] | None = None
    ) -> bool:
        """Handle one message on a stream; False when it had been handled before.

        Its commands are put into the context's emissions; when they have been published, their rows are marked. `trusts`
        says whether a remembered state is certainly of this stream's own past (None: it never is).

        Raises:
            VersionConflict: others kept writing first. PermanentFailure: the machine refuses the input.
            NewerRelease: the stream cannot be read by this release. StateUnavailable: nothing was stored.
            BodyTooLarge: the machine insists on a message that the bus would not carry; nothing was stored.
        """
        if await self._step_on_memory(stream, event, context, trusts):
            return True
        message_id = context.envelope.message_id
        for attempt in range(_TRIES):
            loaded = await self._store.load(stream, handled=message_id)
            if loaded.handled:
                self._send_again(context, loaded.unanswered)
                return False
            known = Known(self._state(loaded), loaded.version, loaded.snapshot.version if loaded.snapshot else 0)
            try:
                await self._write(stream, known, self._decide(known.state, event, context), context)
            except VersionConflict:
                if attempt + 1 == _TRIES:
                    raise
                await asyncio.sleep(self._jitter.uniform(0, 0.002 * (attempt + 1)))
                continue
            return True
        raise AssertionError("unreachable")

    async def _step_on_memory(
        self, stream: Key, event: Event, context: Context, trusts: Callable[[S], bool] | None
    ) -> bool:
        """Step from what is remembered; False when that cannot be, and nothing was stored."""
        known = self._memory.take(stream) if self._memory is not None else None
        if known is None or trusts is None or not trusts(known.state):
            return False
        try:
            made = self._decide(known.state, event, context)
        except Exception:
            # It may come of a state that is not the last one any more: what is stored says the same, or better.
            return False
        try:
            await self._write(stream, known, made, context)
        except VersionConflict:
            return False
        return True

    async def _write(self, stream: Key, known: Known[S], made: _Made[S, R], context: Context) -> None:
        """Store one decision, then hand out what is to be sent. Raises what the store raises; nothing is handed out then."""
        step = self._append(stream, known, made, context)
        version = await self._store.append(step)
        if self._memory is not None:
            self._memory.put(stream, Known(made.state, version, known.snapshot if step.snapshot is None else version))
        if self._told is not None:
            self._told(known.state, made.decision.records)
        for signal in made.decision.signals:  # first, so that a watcher sees the step before what comes of it
            envelope = _envelope(context, signal)
            if self._fits(envelope):
                context.send_again(Emission(envelope, Door.LOSSY))
        for command, envelope in zip(made.decision.commands, made.commands, strict=True):
            context.send_again(Emission(envelope, command.event.door, command.address))
        # A row that awaits its answer stays until that comes; that it was sent changes nothing before it is sent again.
        self._mark_when_sent(context, [row.id for row in step.outbox if not row.awaits_answer])

    async def state(self, stream: Key) -> tuple[S, int]:
        """The present state of a stream and its version (0: there is none)."""
        loaded = await self._store.load(stream)
        return self._state(loaded), loaded.version

    def _state(self, loaded: Loaded) -> S:
        machine = self._machine
        state = machine.load_state(loaded.snapshot.value) if loaded.snapshot else machine.initial()
        return fold(machine, state, (machine.load_record(record.value) for record in loaded.records))

    def _decide(self, before: S, event: Event, context: Context) -> _Made[S, R]:
        """The decision whose commands all fit, and these as messages."""
        given = Input(event, context.envelope, context.clock.now_ms(), self._limit)
        while True:
            state, decision = advance(self._machine, before, given)
            envelopes = [_envelope(context, command) for command in decision.commands]
            made = zip(decision.commands, envelopes, strict=True)
            oversize = {command.name: envelope for command, envelope in made if not self._fits(envelope)}
            if not oversize:
                return _Made(state, decision, envelopes)
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
        known: Known[S],
        made: _Made[S, R],
        context: Context,
    ) -> Append:
        machine, decision = self._machine, made.decision
        since = known.version + len(decision.records) - known.snapshot
        outbox = [
            OutboxRow(
                id=envelope.message_id,
                cause=context.envelope.message_id,
                message=pack(envelope),
                door=command.event.door.value,
                address=command.address,
                awaits_answer=command.awaits_answer,
            )
            for command, envelope in zip(decision.commands, made.commands, strict=True)
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
            expected_version=known.version,
            records=tuple(machine.dump_record(record) for record in decision.records),
            handled=context.envelope.message_id,
            snapshot=machine.dump_state(made.state) if since >= SNAPSHOT_EVERY else None,
            outbox=tuple(outbox),
            answered=decision.answered,
            timers=tuple(timers),
            canceled_timers=decision.canceled_timers,
            index=tuple(IndexRow(row.key, row.value) for row in decision.index),
        )

    def _send_again(self, context: Context, rows: Sequence[OutboxRow]) -> None:
        for row in rows:
            context.send_again(emission_of(row))
        self._mark_when_sent(context, [row.id for row in rows])

    def _mark_when_sent(self, context: Context, ids: Sequence[str]) -> None:
        if not ids:
            return

        async def mark() -> None:
            await self._store.mark_sent(ids)

        context.after_publish.append(mark)


@final
@dataclass(frozen=True, slots=True)
class _Made(Generic[S, R]):
    """A decision, the state that it leads to, and its commands as messages."""

    state: S
    decision: Decision[R]
    commands: Sequence[MessageEnvelope]


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
    trace = command.traceparent
    if trace is None:
        return envelope.replace(deadline_ms=command.deadline_ms)
    same = trace_id(trace) == trace_id(context.envelope.traceparent)
    state = envelope.tracestate if same else None  # vendors' words about one trace mean nothing in another
    return envelope.replace(deadline_ms=command.deadline_ms, traceparent=trace, tracestate=state)
