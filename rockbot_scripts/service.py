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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, final

from rockbot_messaging.clock import Clock
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.errors import BodyTooLarge, MessagingError, Unroutable
from rockbot_messaging.ledger import Begun, Busy, Finished, Refused, ResultLedger
from rockbot_messaging.ports import Consumption, MessageBus
from rockbot_messaging.subscriptions import WorkSubscription
from rockbot_messaging.verdicts import Ack, DeadLetter, Retry, Verdict
from rockbot_scripts.contract import LANGUAGES, ScriptInvoke, ScriptResult, invoke_topic
from rockbot_scripts.errors import SandboxUnavailable
from rockbot_scripts.ports import ScriptRunner
from rockbot_scripts.requests import InvalidRequest, read_request
from rockbot_scripts.settings import ScriptSettings

__all__ = ["ScriptService", "subscriptions"]

logger = logging.getLogger(__name__)

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


@final
class ScriptService:
    """Consumes, runs, answers. `prepare` then `start` on an open bus; `stop` drains.

    `owner` names this process in the ledger, `source` in the envelopes it sends.
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
    ) -> None:
        self._runner = runner
        self._bus = bus
        self._ledger = ledger
        self._clock = clock
        self._owner = owner
        self._source = source
        self._claim_seconds = settings.claim_seconds
        self._call_log: Path | None = settings.call_log
        self._subscriptions = subscriptions(settings)
        self._consumptions: list[Consumption] = []
        self._running: dict[tuple[str, str], tuple[str | None, asyncio.Event]] = {}
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
            self._consumptions.append(await self._bus.subscriber.subscribe(subscription, self.handle))

    async def stop(self, *, timeout: float) -> int:
        """Consume no more, let runs in hand end within `timeout` seconds, end the workers.

        Returns how many deliveries were handed back unfinished; another process will run them.
        """
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

    def cancel(self, root_task_id: str) -> int:
        """Stop the running scripts of one root task; each is answered as `cancelled`. Returns how many."""
        found = [event for root, event in self._running.values() if root == root_task_id]
        for event in found:
            event.set()
        return len(found)

    async def handle(self, envelope: MessageEnvelope) -> Verdict:
        """Handle one delivery; the answer is stored by the broker before the verdict is given."""
        try:
            invoke = read_request(envelope)
        except InvalidRequest as wrong:
            return DeadLetter(reason=str(wrong), error_type=type(wrong).__name__)
        key = (envelope.tenant, envelope.message_id)
        if key in self._running:
            # The ledger lets one owner claim again, so a second copy in this process is stopped here.
            return Retry(after=self._claim_seconds, reason="this script is being run right now", counted=False)
        cancel = asyncio.Event()
        self._running[key] = (envelope.root_task_id, cancel)
        try:
            match await self._begin(envelope):
                case Busy(seconds):
                    return Retry(after=seconds, reason="another worker is running this script", counted=False)
                case Refused(reason):
                    logger.info("script not run: %s", reason, extra={"call_id": envelope.message_id})
                    return Ack()
                case Finished(stored):
                    body = stored
                case _:
                    body = await self._execute(envelope, invoke, cancel)
        except SandboxUnavailable as failure:
            await self._release(envelope)
            return Retry(reason=str(failure), error_type=type(failure).__name__)
        finally:
            del self._running[key]
        return await self._answer(envelope, body)

    async def _begin(self, envelope: MessageEnvelope) -> Begun | Busy | Finished | Refused:
        return await self._ledger.begin(
            envelope.message_id, tenant=envelope.tenant, owner=self._owner, claim_seconds=self._claim_seconds
        )

    async def _release(self, envelope: MessageEnvelope) -> None:
        await self._ledger.release(envelope.message_id, tenant=envelope.tenant, owner=self._owner)

    async def _execute(self, envelope: MessageEnvelope, invoke: ScriptInvoke, cancel: asyncio.Event) -> bytes:
        """Run the script, its claim renewed meanwhile, and write down the result; returns the one that counts."""
        renewal = asyncio.create_task(self._renew(envelope, cancel), name=f"renew claim {envelope.message_id}")
        try:
            result = await self._run(envelope, invoke, cancel)
        except asyncio.CancelledError:
            # Draining: the guest was killed, and it had no effect outside of its sandbox.
            await self._release(envelope)
            raise
        finally:
            renewal.cancel()
            await asyncio.wait({renewal})
        body = result.model_dump_json().encode()
        return await self._ledger.finish(envelope.message_id, tenant=envelope.tenant, result=body)

    async def _run(self, envelope: MessageEnvelope, invoke: ScriptInvoke, cancel: asyncio.Event) -> ScriptResult:
        left = None
        if envelope.deadline_ms is not None:
            left = (envelope.deadline_ms - self._clock.now_ms()) / 1000
            if left <= 0:
                return ScriptResult(status="timeout", message=_EXPIRED)
        if self._call_log is not None:
            await asyncio.to_thread(_append, self._call_log, envelope.message_id, invoke.language)
        return await self._runner.run(invoke, cancel=cancel, time_left=left)

    async def _renew(self, envelope: MessageEnvelope, cancel: asyncio.Event) -> None:
        """Keep the claim while the script runs; when the call was refused meanwhile, stop the script."""
        while True:
            await asyncio.sleep(self._claim_seconds / 3)
            try:
                state = await self._ledger.renew(
                    envelope.message_id, tenant=envelope.tenant, owner=self._owner, claim_seconds=self._claim_seconds
                )
            except Exception as failure:
                # The claim only guards against running twice; the result is still written once.
                logger.warning("a claim could not be renewed: %s", failure, extra={"call_id": envelope.message_id})
                continue
            if isinstance(state, Refused):
                cancel.set()
                return

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
        except BodyTooLarge as failure:
            return DeadLetter(reason=f"the result cannot be sent: {failure}", error_type="BodyTooLarge")
        except MessagingError as failure:
            return Retry(reason=f"the result was not sent: {failure}", error_type=type(failure).__name__)
        return Ack()


def _append(path: Path, call_id: str, language: str) -> None:
    """Add one line to the call log, in one write, so that processes may share the file."""
    line = json.dumps({"call_id": call_id, "language": language}) + "\n"
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)
