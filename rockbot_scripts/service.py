"""The script service: takes `script.invoke.<runtime>` from the bus, runs it once, sends the result back.

A delivery is held for exactly one run. The result is written into the ledger before anybody hears of it, so a copy of a
finished request is answered without running it again. A run has no effect outside of its sandbox; so one whose end is
unknown (its service was killed) is simply made again.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, final

from rockbot_messaging.calls import CallBusy, CallRefused, LedgeredCalls
from rockbot_messaging.canceling import Cancellation, InvalidCancellation, RunningCalls, cancel_watch
from rockbot_messaging.clock import Clock
from rockbot_messaging.envelope import SCHEMA_VERSION, MessageEnvelope
from rockbot_messaging.errors import BodyTooLarge, HeadersTooLarge, MessagingError, Unroutable
from rockbot_messaging.ledger import ResultLedger
from rockbot_messaging.measures import NO_MEASURES, Measures
from rockbot_messaging.ports import Consumption, MessageBus
from rockbot_messaging.regulation import Regulation
from rockbot_messaging.settlement import failing_for
from rockbot_messaging.subscriptions import WorkSubscription
from rockbot_messaging.tracing import NO_TRACING, Tracing
from rockbot_messaging.verdicts import Ack, DeadLetter, Retry, Verdict
from rockbot_scripts.contract import LANGUAGES, ScriptInvoke, ScriptResult, invoke_topic
from rockbot_scripts.errors import SandboxUnavailable
from rockbot_scripts.measuring import MeasuredRunner
from rockbot_scripts.ports import ScriptRunner
from rockbot_scripts.requests import InvalidRequest, read_request
from rockbot_scripts.settings import ScriptSettings

__all__ = ["ScriptService", "subscriptions"]

logger = logging.getLogger(__name__)

#: Seconds that a request which a newer release wrote waits for a service that can read it.
_UPGRADE_WINDOW: Final = 15 * 60

_EXPIRED: Final = "The script was not run: the deadline of its request had passed before it could start."


def subscriptions(settings: ScriptSettings) -> tuple[WorkSubscription, ...]:
    """Return the work subscriptions of the service, one for each runtime."""
    parallel = settings.workers or os.cpu_count() or 1
    return tuple(
        WorkSubscription(
            name=f"scripts.{language}",
            patterns=(invoke_topic(language),),
            prefetch=2 * parallel,
            concurrency=parallel,
        )
        for language in LANGUAGES
    )


def _as_it_is(subscription: WorkSubscription) -> WorkSubscription:
    return subscription


@final
class ScriptService:
    """Consumes, runs, answers. `prepare` then `start` on an open bus; `stop` drains.

    `owner` names this process in the ledger, `source` in the envelopes it sends; queues of ours begin with `namespace`.
    `regulation` goes around the handling of every delivery (None: one without marks and counts), `configure` has the last
    word on each subscription. Runs are counted in `measures` and spans of them go to `tracing`.
    """

    def __init__(
        self,
        runner: ScriptRunner,
        *,
        bus: MessageBus,
        ledger: ResultLedger,
        clock: Clock,
        settings: ScriptSettings,
        owner: str,
        source: str = "rockbot-scripts",
        namespace: str = "rockbot",
        regulation: Regulation | None = None,
        configure: Callable[[WorkSubscription], WorkSubscription] = _as_it_is,
        measures: Measures = NO_MEASURES,
        tracing: Tracing = NO_TRACING,
    ) -> None:
        self._namespace = namespace
        self._runner = MeasuredRunner(runner, clock=clock, measures=measures, tracing=tracing)
        self._bus = bus
        self._ledger = ledger
        # A run has no effect outside of its sandbox, so one that was drained away may be begun elsewhere at once.
        self._calls = LedgeredCalls(
            ledger,
            owner=owner,
            harmless=(SandboxUnavailable,),
            cancelling_is_harmless=True,
            claim_seconds=settings.claim_seconds,
        )
        self._clock = clock
        self._source = source
        self._call_log: Path | None = settings.call_log
        self._subscriptions = tuple(configure(item) for item in subscriptions(settings))
        self._regulation = regulation or Regulation(clock=clock, publish=bus.publisher.publish, source=source)
        self._consumptions: list[Consumption] = []
        self._running = RunningCalls()
        self._prepared = False

    @property
    def subscriptions(self) -> Sequence[WorkSubscription]:
        """What the service consumes."""
        return self._subscriptions

    async def prepare(self) -> None:
        """Build the sandbox if it is missing and start its workers; raises SandboxUnavailable with a reason."""
        if not self._prepared:
            self._prepared = True
            await self._runner.start()

    async def start(self) -> None:
        """Declare the queues and consume. The bus must be open. Raises what `prepare` and the bus raise."""
        await self.prepare()
        await self._bus.declare(self._subscriptions)
        for subscription in self._subscriptions:
            handler = self._regulation.around(subscription, self.handle)
            self._consumptions.append(await self._bus.subscriber.subscribe(subscription, handler))
        self._consumptions.append(await self._bus.subscriber.subscribe(cancel_watch(), self.hear))

    async def stop(self, *, timeout: float) -> int:
        """Consume no more, let runs in hand end within `timeout` seconds, end the workers.

        Returns how many deliveries were handed back unfinished; another process will run them.
        """
        self._regulation.drain()  # what only waits need not be waited for
        consumptions, self._consumptions = self._consumptions, []
        returned = await asyncio.gather(*(item.stop(timeout=timeout) for item in consumptions))
        await self._runner.close()
        return sum(returned)

    async def run_until(self, stop: asyncio.Event, *, drain_seconds: float = 10.0) -> None:
        """Serve until `stop` is set, then drain."""
        try:
            await self.start()
            await stop.wait()
        finally:
            await self.stop(timeout=drain_seconds)

    def describe(self) -> Mapping[str, object]:
        """Return facts about the sandbox and the runs in hand."""
        return {**self._runner.describe(), "running": len(self._running)}

    def measure(self) -> None:
        """Tell the measures how the sandboxes are; for whoever is about to show them."""
        self._runner.measure()

    def cancel(self, root_task_id: str, *, tenant: str = "default") -> int:
        """Stop the running scripts of one root task; each is answered as `cancelled`. Returns how many."""
        return self._running.stop((root_task_id,), tenant=tenant, reason="its task was cancelled")

    async def hear(self, envelope: MessageEnvelope) -> Verdict:
        """Handle one broadcast: stop what it names and refuse what comes later."""
        try:
            cancellation = Cancellation.read(envelope)
        except InvalidCancellation as wrong:
            return DeadLetter(reason=str(wrong), error_type=type(wrong).__name__)
        await cancellation.carry_out(tenant=envelope.tenant, ledger=self._ledger, running=self._running)
        return Ack()

    async def handle(self, envelope: MessageEnvelope) -> Verdict:
        """Handle one delivery; the answer is stored by the broker before the verdict is given."""
        if envelope.schema_version > SCHEMA_VERSION + 1:
            return _await_upgrade(envelope, self._clock.now_ms())
        try:
            invoke = read_request(envelope, namespace=self._namespace)
        except InvalidRequest as wrong:
            return DeadLetter(reason=str(wrong), error_type=type(wrong).__name__)

        call, tenant = envelope.message_id, envelope.tenant
        # A run belongs to its root task, and to the tool call that caused it.
        under = tuple(each for each in (envelope.root_task_id, envelope.causation_id) if each)

        async def work(_: int) -> bytes:
            cancel = asyncio.Event()
            with self._running.running(call, tenant=tenant, under=under, stop=lambda _: cancel.set()):
                return (await self._run(envelope, invoke, cancel)).model_dump_json().encode()

        try:
            body = await self._calls.run(call, tenant=tenant, work=work, under=under)
        except CallBusy as busy:
            return Retry(after=busy.seconds, reason=str(busy), counted=False)
        except CallRefused as refused:
            logger.info("script not run: %s", refused, extra={"call_id": envelope.message_id})
            return Ack()
        except SandboxUnavailable as failure:
            return Retry(reason=str(failure), error_type=type(failure).__name__)
        return await self._answer(envelope, body)

    async def _run(self, envelope: MessageEnvelope, invoke: ScriptInvoke, cancel: asyncio.Event) -> ScriptResult:
        left = None
        if envelope.deadline_ms is not None:
            left = (envelope.deadline_ms - self._clock.now_ms()) / 1000
            if left <= 0:
                return ScriptResult(status="timeout", message=_EXPIRED)
        if self._call_log is not None:
            await asyncio.to_thread(_append, self._call_log, envelope.message_id, invoke.language)
        return await self._runner.run(invoke, cancel=cancel, time_left=left)

    async def _answer(self, envelope: MessageEnvelope, body: bytes) -> Verdict:
        address = envelope.return_address
        topic = address.topic if address is not None else envelope.reply_to or ""
        answer = envelope.caused(
            "answer",
            topic=address.topic if address is not None else envelope.topic,
            type=ScriptResult.type_name,
            body=body,
            source=self._source,
            timestamp_ms=self._clock.now_ms(),
            return_address=address,
            deadline_ms=None,
        )
        try:
            if address is not None:
                await self._bus.publisher.publish(answer)
            else:
                await self._bus.publisher.send(answer, address=topic)
        except Unroutable as failure:
            if address is None:
                logger.warning("nobody waits for a script's result any more: %s", failure)
                return Ack()
            return Retry(reason=f"the result cannot be delivered: {failure}", error_type="Unroutable")
        except (BodyTooLarge, HeadersTooLarge) as failure:
            return DeadLetter(reason=f"the result cannot be sent: {failure}", error_type=type(failure).__name__)
        except MessagingError as failure:
            return Retry(reason=f"the result was not sent: {failure}", error_type=type(failure).__name__)
        return Ack()


def _await_upgrade(envelope: MessageEnvelope, now_ms: int) -> Verdict:
    reason = f"schema version {envelope.schema_version} is newer than this release reads ({SCHEMA_VERSION + 1})"
    if failing_for(envelope, now_ms) >= _UPGRADE_WINDOW:
        reason = f"{reason}; no service could handle it for {_UPGRADE_WINDOW // 60} minutes"
        return DeadLetter(reason=reason, error_type="NewerRelease")
    return Retry(reason=reason, counted=False)


def _append(path: Path, call_id: str, language: str) -> None:
    """Add one line to the call log, in one write, so that processes may share the file."""
    line = json.dumps({"call_id": call_id, "language": language}) + "\n"
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)
