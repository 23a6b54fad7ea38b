"""Messages whose handling kills the process: found out by durable marks, and buried before they take their neighbours along.

A process that dies leaves no verdict, so nothing counts its attempts but the broker, which counts for everything that lay
prefetched beside the culprit too. So a delivery that comes back is handled alone (the provider sees to that) and under a
mark: who began it and never ended it three times is the culprit. What came back often and was never begun is sent back as
a fresh copy, before the broker's own count buries it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Final, Protocol, final

from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.measures import Measures, Names
from rockbot_messaging.ports import MessageHandler
from rockbot_messaging.verdicts import DeadLetter, Retry, Verdict

__all__ = ["MOST_STARTS", "Poison", "StartMarks"]

logger = logging.getLogger("rockbot_messaging.regulation")

#: Marked starts without an end that make a message poison.
MOST_STARTS: Final = 3
#: Returns after which a message that was never begun is sent back as a fresh copy. The broker's limit is 20; each start
#: of its own costs a message one more return, and one start is needed to tell the culprit from what lies before it.
_MANY_RETURNS: Final = 10
#: Seconds that a suspect waits for another one: it holds a slot, its subscription waits behind it, and the broker's consumer
#: timeout runs.
_SUSPECT_WAIT: Final = 60.0


class StartMarks(Protocol):
    """Durable marks that handling a message was begun and not ended. Any method may raise: then it is handed back."""

    async def begun(self, subscription: str, message_id: str, *, tenant: str) -> int:
        """How many starts have no end."""
        ...

    async def begin(self, subscription: str, message_id: str, *, tenant: str) -> int:
        """Mark a start; returns how many have no end, this one included. Durable when it returns."""
        ...

    async def end(self, subscription: str, message_id: str, *, tenant: str) -> None:
        """Forget the starts: handling came to an end, whatever it was."""
        ...


@final
class Poison:
    """Wraps the handlers of one process. First deliveries cost a comparison; only redelivered ones are marked.

    Of messages that were begun before without an end, one is handled at a time in the whole process, so that of two
    subscriptions the sound one's message is not marked for what the other one's did.
    """

    def __init__(self, marks: StartMarks, *, measures: Measures) -> None:
        self._marks = marks
        self._measures = measures
        self._suspect = asyncio.Lock()

    def around(self, name: str, handler: MessageHandler) -> MessageHandler:
        """`handler` of the subscription `name`, protected."""

        def handle(envelope: MessageEnvelope) -> Awaitable[Verdict]:
            return self._again(name, handler, envelope) if envelope.redelivered else handler(envelope)

        return handle

    async def _again(self, name: str, handler: MessageHandler, envelope: MessageEnvelope) -> Verdict:
        try:
            begun = await self._marks.begun(name, envelope.message_id, tenant=envelope.tenant)
        except ValueError:
            return await handler(envelope)  # an id that no store can hold: the handler says what it thinks of it
        except Exception as exc:
            return _unmarked(exc)
        if begun >= MOST_STARTS:
            return await self._bury(name, envelope, begun)
        if envelope.returns >= _MANY_RETURNS + 2 * begun:
            logger.info(
                "a message that came back often without being handled is sent back as a fresh copy",
                extra={"subscription": name, "message_id": envelope.message_id, "returns": envelope.returns},
            )
            reason = f"came back {envelope.returns} times because processes that held it died"
            return Retry(after=1.0, reason=reason, counted=False)
        if begun:
            try:
                async with asyncio.timeout(_SUSPECT_WAIT):
                    await self._suspect.acquire()
            except TimeoutError:
                reason = "another message that may have killed its process is being handled"
                return Retry(after=1.0, reason=reason, counted=False)
            try:
                return await self._marked(name, handler, envelope)
            finally:
                self._suspect.release()
        return await self._marked(name, handler, envelope)

    async def _marked(self, name: str, handler: MessageHandler, envelope: MessageEnvelope) -> Verdict:
        try:
            await self._marks.begin(name, envelope.message_id, tenant=envelope.tenant)
        except Exception as exc:
            return _unmarked(exc)
        try:
            return await handler(envelope)
        finally:
            await self._end(name, envelope)

    async def _bury(self, name: str, envelope: MessageEnvelope, begun: int) -> Verdict:
        self._measures.count(Names.POISONED, subscription=name)
        await self._end(name, envelope)  # whoever sends the letter on wants it tried
        return DeadLetter(
            reason=f"handling was begun {begun} times and every time the process died; it may be what kills them",
            error_type="Poison",
        )

    async def _end(self, name: str, envelope: MessageEnvelope) -> None:
        try:
            await self._marks.end(name, envelope.message_id, tenant=envelope.tenant)
        except Exception as exc:
            logger.warning(
                "a start mark could not be removed; it ends by itself",
                extra={
                    "subscription": name,
                    "message_id": envelope.message_id,
                    "error": f"{type(exc).__name__}: {exc}",
                },
            )


def _unmarked(exc: Exception) -> Retry:
    return Retry(
        reason=f"it came back, and its start could not be marked: {exc}", counted=False, error_type=type(exc).__name__
    )
