"""Carries a plan out: creates, binds, sets policies, and leaves alone what it would have to destroy.

A queue is deleted by `prune` alone, and only when it is empty and unused. Quorum queues know neither `if-empty` nor
`if-unused` (measured on 3.10.8: 540 NOT_IMPLEMENTED over AMQP, 400 over HTTP), so that is done in two steps: the bindings
are taken away, and when the broker has counted nobody and nothing twice, more than one of its counting rounds apart, the
queue goes. What turned up meanwhile puts the bindings back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, final

from aiormq.abc import AbstractChannel
from aiormq.exceptions import AMQPError

from rockbot_messaging.errors import MessagingError
from rockbot_messaging.rabbitmq.channel import ChannelLost
from rockbot_messaging.rabbitmq.connection import Session, speaking
from rockbot_messaging.rabbitmq.declaring import NameTaken, declare
from rockbot_messaging.rabbitmq.management import Management
from rockbot_messaging.rabbitmq.planning import Mark, Plan, Step
from rockbot_messaging.rabbitmq.policies import Policy
from rockbot_messaging.rabbitmq.topology import Binding, Exchange, Queue, Topology

__all__ = ["COUNTING_ROUND", "LEFT_ALONE", "Done", "apply", "prune"]

_TIMEOUT: Final = 30.0

#: Seconds between two counts of a queue that are surely not the same count (a quorum queue counts every 5 s).
COUNTING_ROUND: Final = 6.0


#: What the error of a queue begins with that holds something, or that somebody uses.
LEFT_ALONE: Final = "left alone"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What became of a step; `error` empty means that it was carried out."""

    step: Step
    error: str = ""


async def apply(
    session: Session, management: Management | None, plan: Plan, wanted: Topology, *, remove_bindings: bool = False
) -> AsyncIterator[Done]:
    """Carry out what can be; refused steps are not touched, one that fails does not keep the others from being tried.

    Without a management interface every wanted binding is made again, which changes nothing where it exists.
    """
    for step in plan.marked(Mark.ADD, Mark.ALTER):
        yield await _tried(step, _carry_out(session, management, step))
    if management is None:
        refused = {step.name for step in plan.marked(Mark.REFUSE)}
        bindings = tuple(b for b in wanted.bindings if b.queue not in refused and b.exchange not in refused)
        sure = Step(mark=Mark.ADD, kind="bindings", name=f"all {len(bindings)}", reason="made sure of")
        yield await _tried(sure, _declare(session, Topology(bindings=bindings)))
    if remove_bindings:
        for step in plan.marked(Mark.SURPLUS):
            if isinstance(step.subject, Binding):
                yield await _tried(step, _unbind(session, step.subject))


async def prune(
    session: Session, management: Management, steps: Sequence[Step], *, counting_round: float = COUNTING_ROUND
) -> AsyncIterator[Done]:
    """Delete surplus queues and exchanges that hold nothing and that nobody uses; anything else is left and told."""
    queues = [step for step in steps if isinstance(step.subject, Queue)]
    bindings = (await management.look()).bindings or frozenset()
    taken: dict[str, list[Binding]] = {}
    idle: list[Step] = []
    for step in queues:
        if busy := await _busy(session, management, step.name, counted=False):
            yield Done(step=step, error=f"{LEFT_ALONE}: {busy}")
            continue
        taken[step.name] = [binding for binding in bindings if binding.queue == step.name]
        error = ""
        for binding in taken[step.name]:
            error = error or (await _tried(step, _unbind(session, binding))).error
        if error:
            await _put_back(session, taken[step.name])
            yield Done(step=step, error=error)
        else:
            idle.append(step)
    if idle:
        await asyncio.sleep(counting_round)
    for step in idle:
        if busy := await _busy(session, management, step.name, counted=True):
            await _put_back(session, taken[step.name])
            yield Done(step=step, error=f"{LEFT_ALONE}: {busy}")
        else:
            yield await _tried(step, _delete(session, step.name))
    for step in steps:
        if isinstance(step.subject, Exchange):
            yield await _tried(step, management.delete_exchange(step.name))


async def _busy(session: Session, management: Management, queue: str, *, counted: bool) -> str:
    """Why a queue may not go, as the queue itself and as the broker's books have it; empty when it may.

    `counted` says that its messages must have been counted by now, those in somebody's hands with them.
    """
    there = await management.queue(queue)
    if there is None:
        return ""
    async with _channel(session) as rpc:
        now = await rpc.queue_declare(queue, passive=True)
    if counted and not there.counts_unacked:
        return "the management interface does not count its messages: not yet, or its metrics collection is off"
    messages = max(there.messages, now.message_count or 0)
    consumers = max(there.consumers, now.consumer_count or 0)
    held = [f"{messages} messages"] if messages else []
    held += [f"{consumers} consumers"] if consumers else []
    return f"it has {' and '.join(held)}" if held else ""


async def _delete(session: Session, queue: str) -> None:
    async with _channel(session) as rpc:
        gone = await rpc.queue_delete(queue)
    if gone.message_count:
        raise MessagingError(f"{gone.message_count} messages came in the instant of its deletion and went with it")


async def _carry_out(session: Session, management: Management | None, step: Step) -> None:
    match step.subject:
        case Queue() as queue:
            await _declare(session, Topology(queues=(queue,)))
        case Exchange() as exchange:
            await _declare(session, Topology(exchanges=(exchange,)))
        case Binding() as binding:
            await _declare(session, Topology(bindings=(binding,)))
        case Policy() as policy if management is not None:
            await management.set_policy(policy)
        case _:
            raise MessagingError("it can be done over the management interface only: set broker.management_url")


async def _declare(session: Session, topology: Topology) -> None:
    try:
        await declare(session, topology)
    except (ChannelLost, NameTaken) as exc:
        raise MessagingError(str(exc)) from None


async def _unbind(session: Session, binding: Binding) -> None:
    async with _channel(session) as rpc:
        await rpc.queue_unbind(binding.queue, binding.exchange, binding.pattern)


async def _put_back(session: Session, bindings: Sequence[Binding]) -> None:
    if bindings:
        await _declare(session, Topology(bindings=tuple(bindings)))


@asynccontextmanager
async def _channel(session: Session) -> AsyncGenerator[AbstractChannel]:
    """A channel of its own for one request; what the broker refuses is told as one line.

    Raises:
        MessagingError: the broker refused, or the connection ended.
    """
    try:
        channel = await session.channel(confirms=False)
        try:
            async with speaking(_TIMEOUT):
                yield channel.rpc
        finally:
            await channel.close()
    except (AMQPError, ChannelLost) as exc:
        raise MessagingError(f"RabbitMQ refuses: {exc}") from None


async def _tried(step: Step, act: Awaitable[None]) -> Done:
    try:
        await act
    except MessagingError as exc:
        return Done(step=step, error=str(exc))
    return Done(step=step)
