"""One host process that kills itself with SIGKILL at its n-th effect, or has something else killed there.

    child.py SETTINGS TRACE KILL_AT (publish|resume|tell)

Store, ledger and publisher are the real ones behind proxies that count effects: each is counted once before it is made and
once after. The trace file gets a line per effect, and the model's and the sandbox's call logs go into the same file, so
that the order of "called" and "finished" can be read off it. Whatever needs approval, a person in this process approves as
soon as it is asked for or found open at the start. KILL_AT 0 never kills. With `tell` it publishes, says "reached"
at every KILL_AT-th effect (of the first ones), and stands still there until it is told to go on.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from rockbot.buses import is_embedded, make_bus
from rockbot.container import compose, known_work
from rockbot.events import AgentResponse, AgentTask, ApprovalDecision, ApprovalRequest
from rockbot.operators.faults import ApprovalNotFound
from rockbot.operators.people import PeopleDesk
from rockbot.service_process import build_service
from rockbot.settings import load
from rockbot.signals import stop_on_signals
from rockbot.state.ledger import StateLedger
from rockbot.state.open import open_store, sqlite_path
from rockbot.state.ports import StateUnavailable
from rockbot_messaging import Ack, MessageEnvelope, WatchSubscription, WorkSubscription
from rockbot_messaging.clock import RandomIds, SystemClock
from rockbot_messaging.identity import derive_id

EFFECTS = {
    "append",
    "mark_sent",
    "drop_timers",
    "begin",
    "finish",
    "release",
    "publish",
    "publish_many",
    "send",
}
#: Effects among which it tells, as many as an undisturbed turn has: without an end to it no call could ever be made.
TOLD = 60
TASK = "3f1f7d0e-0000-4000-8000-000000000001"


class Trace:
    def __init__(self, path: Path, kill_at: int, *, tells: bool = False) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._kill_at = kill_at
        self._tells = tells
        self.armed = False
        self._count = 0

    def note(self, **fields: Any) -> None:
        os.write(self._file, json.dumps(fields).encode() + b"\n")

    def reached(self, what: str) -> None:
        if not self.armed:
            return
        self._count += 1
        if self._tells:
            if self._count % self._kill_at == 0 and self._count <= TOLD:
                self.note(reached=what)
                print("reached", flush=True)
                os.read(0, 1)
        elif self._count == self._kill_at:
            self.note(killed=what)
            os.kill(os.getpid(), signal.SIGKILL)


class Counting:
    """Stands before a port and counts its effects."""

    def __init__(self, inner: Any, name: str, trace: Trace) -> None:
        self._inner = inner
        self._name = name
        self._trace = trace

    def __getattr__(self, attribute: str) -> Any:
        member = getattr(self._inner, attribute)
        if attribute not in EFFECTS:
            return member

        async def effect(*args: Any, **kwargs: Any) -> Any:
            what = f"{self._name}.{attribute}"
            self._trace.reached(f"before {what}")
            result = await member(*args, **kwargs)
            if attribute == "finish":
                # Tools know their call by the key that is derived from its id.
                tool = derive_id(args[0], "handled by\x1ftool.sums", tenant=kwargs["tenant"])
                self._trace.note(finished=args[0], tool=tool)
            self._trace.reached(f"after {what}")
            return result

        return effect


class CountingSubscriber:
    def __init__(self, inner: Any, trace: Trace) -> None:
        self._inner = inner
        self._trace = trace

    async def subscribe(self, subscription: Any, handler: Any) -> Any:
        async def handle(envelope: MessageEnvelope) -> Any:
            verdict = await handler(envelope)
            self._trace.reached(f"before settling {subscription.name}")
            return verdict

        return await self._inner.subscribe(subscription, handle)


class CountingBus:
    def __init__(self, inner: Any, trace: Trace) -> None:
        self._inner = inner
        self.publisher = Counting(inner.publisher, "publisher", trace)
        self.subscriber = CountingSubscriber(inner.subscriber, trace)

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._inner, attribute)


class Person:
    """Approves what is asked, and knows nothing of what this person did in a process before."""

    def __init__(self, desk: PeopleDesk, trace: Trace) -> None:
        self._desk = desk
        self._trace = trace

    async def look(self) -> None:
        """Approve what is open, if the store can say."""
        with suppress(StateUnavailable):
            for asked in (await self._desk.open(tenant="default", limit=10, after=None)).approvals:
                await self._approve(asked.approval_id)

    async def hear(self, envelope: MessageEnvelope) -> Ack:
        await self._approve(ApprovalRequest.model_validate_json(envelope.body).approval_id)
        return Ack()

    async def _approve(self, approval_id: str) -> None:
        self._trace.note(approves=approval_id)
        try:
            await self._desk.decide(ApprovalDecision(approval_id=approval_id, decision="approve"), tenant="default")
        except ApprovalNotFound:
            self._trace.note(decided_before=approval_id)


async def main() -> None:
    config, trace_file, kill_at, mode = sys.argv[1:5]
    settings = load(config=Path(config))
    trace = Trace(Path(trace_file), int(kill_at), tells=mode == "tell")
    clock, ids = SystemClock(), RandomIds()
    store = Counting(open_store(settings.state_address, clock), "store", trace)
    durable = sqlite_path(settings.state_address) if is_embedded(settings) else None
    bus = CountingBus(make_bus(settings, clock=clock, ids=ids, durable=durable), trace)
    ledger = Counting(StateLedger(store), "ledger", trace)
    container = compose(settings, bus=bus, store=store, ledger=ledger)  # type: ignore[arg-type]
    host = container.host()
    service = (
        build_service("scripts", settings, bus=bus, ledger=ledger)  # type: ignore[arg-type]
        if "scripts" in settings.handlers
        else None
    )
    answers = WorkSubscription(name="answers", patterns=("agent.response.*",))

    async def answered(envelope: MessageEnvelope) -> Ack:
        response = AgentResponse.model_validate_json(envelope.body)
        trace.note(answer=response.output, status=response.status, task=response.task_id)
        print("answered", flush=True)
        return Ack()

    person = Person(PeopleDesk(store, bus.publisher, clock=clock, ids=ids, source="person"), trace)  # type: ignore[arg-type]
    asked = WatchSubscription(name="asked", patterns=("approval.request.*",))

    if service is not None:
        await service.prepare()
    with stop_on_signals() as stop:
        await bus.open()
        await bus.declare([answers])
        if mode != "resume":
            body = AgentTask(input="What is 6 times 7?").to_body()
            await bus.declare(known_work(container))
            await bus._inner.publisher.publish(
                MessageEnvelope(
                    topic="agent.task.assistant", body=body, message_id=TASK, type=AgentTask.type_name, source="test"
                )
            )
            print("published", flush=True)
        trace.armed = True
        await bus._inner.subscriber.subscribe(answers, answered)
        await bus._inner.subscriber.subscribe(asked, person.hear)
        await host.start()
        if service is not None:
            await service.start()
        await person.look()
        await stop.wait()
        if service is not None:
            await service.stop(timeout=5)
        await host.drain()
        await host.close()


if __name__ == "__main__":
    asyncio.run(main())
