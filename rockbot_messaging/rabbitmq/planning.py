"""The difference between what a namespace needs and what a broker has: pure, and the same for every way of looking.

Four marks: ``+`` is missing and will be created, ``~`` is other and can be altered, ``!`` is other and cannot be altered
without moving messages (a person has to, the commands are told), ``-`` is there and not needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, final

from rockbot_messaging.rabbitmq import topology
from rockbot_messaging.rabbitmq.found import Found, FoundExchange, FoundQueue
from rockbot_messaging.rabbitmq.policies import Policy, effective, harm
from rockbot_messaging.rabbitmq.topology import Binding, Exchange, Names, Queue, Topology
from rockbot_messaging.rabbitmq.ways import anew, emptied, exchange_anew

__all__ = ["Mark", "Plan", "Step", "plan", "possible_delays", "wanted_delays"]

_DELAY: Final = re.compile(r"(?P<queue>.+)\.delay\.(?P<step>\d{1,9})")


class Mark(StrEnum):
    """What is to be done with one thing."""

    ADD = "+"
    ALTER = "~"
    REFUSE = "!"
    SURPLUS = "-"


Subject = Queue | Exchange | Binding | Policy


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One difference. `way` are the commands for a person, where the tool refuses."""

    mark: Mark
    kind: str
    name: str
    reason: str
    subject: Subject | None = None
    way: tuple[str, ...] = ()
    messages: int = 0
    consumers: int = 0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All differences, in the order in which they are worked; `blind` is what could not be looked at."""

    steps: tuple[Step, ...]
    blind: tuple[str, ...] = ()
    version: str = ""

    def marked(self, *marks: Mark) -> tuple[Step, ...]:
        """The steps with one of these marks."""
        return tuple(step for step in self.steps if step.mark in marks)


def possible_delays(names: Names, work: Iterable[str], steps: Iterable[int]) -> tuple[Queue, ...]:
    """Every delay queue that may exist for these work queues."""
    listed = tuple(steps)
    return tuple(queue for name in work for step in listed for queue in topology.delay(names, name, step).queues)


def wanted_delays(names: Names, work: Iterable[str], found: Iterable[str]) -> tuple[Queue, ...]:
    """The delay queues among `found` that belong to one of the work queues; they are made when first needed."""
    ours = set(work)
    queues: list[Queue] = []
    for name in found:
        match = _DELAY.fullmatch(name)
        if match and match["queue"] in ours:
            queues += topology.delay(names, match["queue"], int(match["step"])).queues
    return tuple(queues)


def plan(
    names: Names, wanted: Topology, policies: Iterable[Policy], found: Found, *, work: Iterable[str], vhost: str
) -> Plan:
    """What differs. `wanted` has no delay queues; those of the queues named by `work` are wanted where they exist."""
    wanted += Topology(queues=wanted_delays(names, work, found.queues))
    steps = [
        *_exchanges(wanted, found, vhost),
        *_queues(names, wanted, found, vhost),
        *_bindings(wanted, found),
        *_policies(names, tuple(policies), found),
        *_surplus(names, wanted, found),
    ]
    return Plan(steps=tuple(steps), blind=found.blind, version=found.version)


# -- exchanges and queues ---------------------------------------------------------------------------------------------


def _exchanges(wanted: Topology, found: Found, vhost: str) -> Iterable[Step]:
    for exchange in wanted.exchanges:
        there = found.exchanges.get(exchange.name)
        if there is None:
            yield Step(
                mark=Mark.ADD, kind="exchange", name=exchange.name, reason=f"{exchange.kind}, missing", subject=exchange
            )
        elif reason := _exchange_differs(exchange, there):
            yield Step(
                mark=Mark.REFUSE,
                kind="exchange",
                name=exchange.name,
                reason=reason,
                subject=exchange,
                way=exchange_anew(exchange.name, vhost),
            )


def _exchange_differs(exchange: Exchange, there: FoundExchange) -> str:
    if there.arguments is None:
        return there.differs
    reasons = [] if there.kind == exchange.kind else [f"is a {there.kind} exchange, needed is {exchange.kind}"]
    if not there.durable:
        reasons.append("is not durable")
    return "; ".join([*reasons, *_arguments_differ(exchange.arguments, there.arguments)])


def _queues(names: Names, wanted: Topology, found: Found, vhost: str) -> Iterable[Step]:
    for queue in wanted.queues:
        there = found.queues.get(queue.name)
        if there is None:
            yield Step(mark=Mark.ADD, kind="queue", name=queue.name, reason="missing", subject=queue)
        elif reason := _queue_differs(queue, there):
            yield Step(
                mark=Mark.REFUSE,
                kind="queue",
                name=queue.name,
                reason=reason,
                subject=queue,
                way=anew(names, queue.name, there, vhost),
                messages=there.messages,
                consumers=there.consumers,
            )


def _queue_differs(queue: Queue, there: FoundQueue) -> str:
    if there.arguments is None:
        return there.differs
    reasons = ["belongs to one connection alone"] if there.transient else []
    if not there.durable:
        reasons.append("is not durable")
    return "; ".join([*reasons, *_arguments_differ(queue.arguments, there.arguments)])


def _arguments_differ(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """The broker compares every argument, so an extra one keeps a host from starting as much as a missing one."""
    reasons = []
    for name in sorted({*wanted, *found}):
        if name not in found:
            reasons.append(f"{name} is missing, needed is {wanted[name]!r}")
        elif name not in wanted:
            reasons.append(f"{name}={found[name]!r} is too much")
        elif wanted[name] != found[name]:
            reasons.append(f"{name} is {found[name]!r}, needed is {wanted[name]!r}")
    return reasons


# -- bindings -----------------------------------------------------------------------------------------------------------


def _bindings(wanted: Topology, found: Found) -> Iterable[Step]:
    missing_queues = {queue.name for queue in wanted.queues} - set(found.queues)
    for binding in wanted.bindings:
        fresh = binding.queue in missing_queues or binding.exchange not in found.exchanges
        if found.bindings is None and not fresh:
            continue  # cannot be seen; `blind` says that apply makes sure of them
        if found.bindings is None or binding not in found.bindings:
            yield Step(mark=Mark.ADD, kind="binding", name=_shown(binding), reason="missing", subject=binding)
    ours, queues = set(_exchange_names(wanted)), {queue.name for queue in wanted.queues}
    for binding in sorted(found.bindings or (), key=_shown):
        if binding.exchange in ours and binding.queue in queues and binding not in wanted.bindings:
            yield Step(
                mark=Mark.SURPLUS,
                kind="binding",
                name=_shown(binding),
                reason="no handler or service asks for it: topology apply --remove-bindings",
                subject=binding,
            )


def _shown(binding: Binding) -> str:
    return (
        f"{binding.exchange} -> {binding.queue} ({binding.pattern})"
        if binding.pattern
        else (f"{binding.exchange} -> {binding.queue}")
    )


def _exchange_names(wanted: Topology) -> Iterable[str]:
    return (exchange.name for exchange in wanted.exchanges)


# -- policies -----------------------------------------------------------------------------------------------------------


def _policies(names: Names, wanted: tuple[Policy, ...], found: Found) -> Iterable[Step]:
    if found.policies is None:
        return
    there = {policy.name: policy for policy in found.policies}
    mine = {policy.name for policy in wanted}
    for policy in wanted:
        old = there.get(policy.name)
        shown = ", ".join(f"{name}={value}" for name, value in policy.definition.items())
        if old is None:
            reason = f"missing: {shown}"
            if replaced := _replaced(names, policy, found):
                reason += f"; takes the place of {replaced}"
            yield Step(mark=Mark.ADD, kind="policy", name=policy.name, reason=reason, subject=policy)
        elif old != policy:
            yield Step(
                mark=Mark.ALTER,
                kind="policy",
                name=policy.name,
                reason="; ".join(_policy_differs(policy, old)),
                subject=policy,
            )
    for queue in sorted(found.queues):
        if not queue.startswith(f"{names.namespace}.") or found.queues[queue].transient:
            continue
        counts = effective([p for p in found.policies if p.name not in mine] + list(wanted), queue)
        for rival, which in ((counts, "policy"), (effective(found.operator_policies, queue), "operator policy")):
            if rival is None or rival.name in mine:
                continue
            wrong = harm(names, queue, rival.definition)
            covered = any(policy.covers(queue) for policy in wanted) and which == "policy"
            if wrong or covered:
                yield Step(
                    mark=Mark.REFUSE,
                    kind=which,
                    name=rival.name,
                    reason=f"on {queue}: "
                    + (wrong or f"priority {rival.priority} puts it before ours, whose limits do not count"),
                    way=(
                        f"narrow its pattern {rival.pattern!r} so that it leaves {names.namespace}.* alone"
                        + ("" if which == "operator policy" else ", or lower its priority"),
                    ),
                )


def _replaced(names: Names, policy: Policy, found: Found) -> str:
    """Policies of others that stop counting for some queue once this one is there; only one policy counts per queue."""
    others = found.policies or ()
    lost = {
        other.name
        for queue in found.queues
        if queue.startswith(f"{names.namespace}.") and policy.covers(queue)
        if (other := effective(others, queue)) is not None and other.priority <= policy.priority
    }
    return ", ".join(sorted(lost))


def _policy_differs(wanted: Policy, there: Policy) -> list[str]:
    reasons = []
    for label, new, old in (
        ("pattern", wanted.pattern, there.pattern),
        ("priority", wanted.priority, there.priority),
        ("apply-to", wanted.apply_to, there.apply_to),
    ):
        if new != old:
            reasons.append(f"{label} is {old!r}, needed is {new!r}")
    return reasons + _arguments_differ(wanted.definition, there.definition)


# -- what nobody needs --------------------------------------------------------------------------------------------------


def _surplus(names: Names, wanted: Topology, found: Found) -> Iterable[Step]:
    if not found.whole:
        return
    prefix = f"{names.namespace}."
    passing = (f"{prefix}watch.", f"{prefix}reply.")
    queues = {queue.name for queue in wanted.queues}
    # Delay queues flow into work queues, those into dead-letter queues: nothing is emptied into what is gone already.
    for name in sorted(found.queues, key=lambda name: (name.endswith(".dlq"), ".delay." not in name, name)):
        there = found.queues[name]
        if name in queues or not name.startswith(prefix) or there.transient or name.startswith(passing):
            continue
        yield Step(
            mark=Mark.SURPLUS,
            kind="queue",
            name=name,
            reason=_orphan(there),
            subject=Queue(name, there.arguments or {}),
            way=emptied(names, name) if there.messages else (),
            messages=there.messages,
            consumers=there.consumers,
        )
    exchanges = set(_exchange_names(wanted))
    for name in sorted(found.exchanges):
        if name not in exchanges and name.startswith(prefix):
            yield Step(
                mark=Mark.SURPLUS,
                kind="exchange",
                name=name,
                reason="no configured handler or service needs it: topology prune",
                subject=Exchange(name, kind=found.exchanges[name].kind),
            )


def _orphan(there: FoundQueue) -> str:
    held = [f"{there.messages} messages"] if there.messages else []
    held += [f"{there.consumers} consumers"] if there.consumers else []
    state = f"holds {' and '.join(held)}" if held else "empty and unused: topology prune"
    return f"no configured handler or service needs it; {state}"
