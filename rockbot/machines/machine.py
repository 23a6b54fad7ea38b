"""Journaled step machines: the shape of everything that must survive a crash half-way.

A machine is pure. `decide` looks at the state and one input and says what happened (records) and what is to be done
(commands, timers); `evolve` folds one record into the state. Because the state is nothing but the fold of its records,
the journal is the truth and a snapshot merely a shortcut. Nothing here knows agents, stores or the bus.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar, final

from rockbot.events.event import Event
from rockbot.state.keys import Key
from rockbot_messaging.envelope import MessageEnvelope, ReturnAddress

__all__ = ["Command", "Decision", "IndexWrite", "Input", "Machine", "TimerRequest", "advance", "fold"]

S = TypeVar("S")
R = TypeVar("R")


@final
@dataclass(frozen=True, slots=True)
class Input:
    """One event with its envelope, at an instant of the injected clock.

    `body_limit` is how many bytes the body of a command may have (None: any number). `oversize` names the commands of an
    earlier decision on this very input that had more: decide again without them, or with smaller ones.
    """

    event: Event
    envelope: MessageEnvelope
    now_ms: int
    body_limit: int | None = None
    oversize: frozenset[str] = frozenset()


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One message to send with the step. Its id is derived from the input's id, its tenant and `name`.

    `address` sends it to one queue instead of through its door. `awaits_answer` keeps it open until a later step names its
    id in `answered`. `traceparent` is the trace context that it is sent in; None: that of the input.
    """

    name: str
    event: Event
    topic: str
    address: str = ""
    return_address: ReturnAddress | None = None
    deadline_ms: int | None = None
    correlation_id: str | None = None
    conversation_id: str | None = None
    root_task_id: str | None = None
    traceparent: str | None = None
    awaits_answer: bool = False


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TimerRequest:
    """Have `event` published to `topic` at `due_ms`; `id` is unique in the store, setting it again moves it."""

    id: str
    due_ms: int
    event: Event
    topic: str
    return_address: ReturnAddress | None = None


@final
@dataclass(frozen=True, slots=True)
class IndexWrite:
    """A row written with the step."""

    key: Key
    value: bytes | None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Decision(Generic[R]):
    """What one input leads to. At least one record: also an ignored input is written down.

    `signals` are lossy messages for watchers: sent with the step, never repeated. `state` is the fold of the records, when
    whoever decided has it at hand.
    """

    records: tuple[R, ...]
    commands: tuple[Command, ...] = ()
    signals: tuple[Command, ...] = ()
    answered: tuple[str, ...] = ()
    timers: tuple[TimerRequest, ...] = ()
    canceled_timers: tuple[str, ...] = ()
    index: tuple[IndexWrite, ...] = field(default=())
    state: Any = field(default=None, compare=False)


class Machine(Protocol[S, R]):
    """A pure, journaled machine. No method does I/O or looks at a clock."""

    def initial(self) -> S:
        """The state before the first record."""
        ...

    def decide(self, state: S, given: Input) -> Decision[R]:
        """What an input leads to. Raises only verdict errors (`PermanentFailure`) for inputs that make no sense."""
        ...

    def evolve(self, state: S, record: R) -> S:
        """The state after one more record."""
        ...

    def dump_record(self, record: R) -> bytes: ...

    def load_record(self, data: bytes) -> R:
        """A stored record. Raises `NewerRelease`: this one cannot read it."""
        ...

    def dump_state(self, state: S) -> bytes: ...

    def load_state(self, data: bytes) -> S:
        """A stored state. Raises `NewerRelease`: this one cannot read it."""
        ...


def advance(machine: Machine[S, R], state: S, given: Input) -> tuple[S, Decision[R]]:
    """One step: the new state and what is to be done. Equal arguments give equal results."""
    decision = machine.decide(state, given)
    if decision.state is not None:
        return decision.state, decision
    return fold(machine, state, decision.records), decision


def fold(machine: Machine[S, R], state: S, records: Iterable[R]) -> S:
    """The state after some more records."""
    for record in records:
        state = machine.evolve(state, record)
    return state
