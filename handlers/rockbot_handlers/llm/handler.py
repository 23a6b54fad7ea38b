"""One model call per message: made once, written down, then answered.

The delivery is held for exactly that one call, so a killed worker's call is delivered again; a finished one is answered
from the ledger. A model call whose end is unknown is made again: that costs tokens and changes nothing. What its backend does
not take at the moment waits in the broker, or goes on to the next model of its chain.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Mapping
from functools import partial
from typing import Never, final

from rockbot.catalogue.prices import PriceTable
from rockbot.catalogue.spending import Spending, SpentCall
from rockbot.context import Context
from rockbot.errors import PermanentFailure, TemporaryFailure
from rockbot.events import Event, LlmRequest, LlmResponse
from rockbot.handler import CallNext
from rockbot.llm import LlmClient, LlmPermanent, LlmThrottled, LlmTransient, LlmUnknownOutcome
from rockbot.machines.transcript import TranscriptDamaged, Transcripts
from rockbot.state.ports import StateUnavailable
from rockbot.tokens import estimate_request
from rockbot_handlers.llm.admission import Asking, Backends, NotNow, Permit
from rockbot_handlers.llm.counting import refused_for_length
from rockbot_handlers.llm.falling import DoesNotFit, go_on
from rockbot_handlers.llm.measuring import MeasuredCalls
from rockbot_handlers.llm.streaming import Streaming, WholeCall
from rockbot_handlers.llm.structured import StructuredCalls
from rockbot_messaging.calls import CLAIM_SECONDS, CallBusy, CallRefused, LedgeredCalls
from rockbot_messaging.canceling import RunningCalls
from rockbot_messaging.ledger import ResultLedger

__all__ = ["LlmHandler"]

logger = logging.getLogger(__name__)

#: Errors after which it is certain that no call was made, or none that anybody paid for.
_HARMLESS = (
    CallBusy,
    LlmTransient,
    LlmThrottled,
    LlmPermanent,
    NotNow,
    DoesNotFit,
    TranscriptDamaged,
    StateUnavailable,
)
_FAILED = (*_HARMLESS[1:], LlmUnknownOutcome)


@final
class LlmHandler:
    """Answers model requests with the clients it is given, by provider."""

    def __init__(
        self,
        clients: Mapping[str, LlmClient],
        ledger: ResultLedger,
        transcripts: Transcripts,
        *,
        owner: str,
        streaming: Streaming,
        backends: Backends,
        prices: PriceTable,
        spending: Spending,
        claim_seconds: float = CLAIM_SECONDS,
        running: RunningCalls | None = None,
        measured: MeasuredCalls | None = None,
    ) -> None:
        self._clients = dict(clients)
        self._transcripts = transcripts
        self._streaming = streaming
        self._backends = backends
        self._prices = prices
        self._spending = spending
        self._measured = measured or MeasuredCalls()
        self._calls = LedgeredCalls(
            ledger, owner=owner, harmless=_HARMLESS, claim_seconds=claim_seconds, running=running
        )
        self._structured = StructuredCalls(self._calls)

    @property
    def handles(self) -> tuple[type[Event], ...]:
        return (LlmRequest,)

    async def handle(self, event: LlmRequest, context: Context, call_next: CallNext) -> None:  # noqa: ARG002
        envelope = context.envelope
        if envelope.return_address is None:
            raise PermanentFailure("a model request without a return address cannot be answered, so no call was made")
        call = _Call(self, event, context, self._client(event))
        try:
            body = await self._calls.run(
                envelope.message_id, tenant=envelope.tenant, work=call.make, under=(envelope.root_task_id,)
            )
        except CallRefused as exc:
            logger.info("model call not made", extra={"call_id": envelope.message_id, "reason": str(exc)})
            return
        except _FAILED as exc:
            if go_on(event, context, exc):
                return
            _give_up(exc, counted=not call.probing)
        response = LlmResponse.model_validate_json(body)
        await self._spending.note(
            SpentCall(
                call_id=envelope.message_id,
                tenant=envelope.tenant,
                agent=event.agent,
                model=response.model or event.model,
                day=_day(context),
                response=response,
            )
        )
        context.answer(response)

    def _client(self, event: LlmRequest) -> LlmClient:
        provider = event.model.partition("/")[0]
        client = self._clients.get(provider)
        if client is None:
            known = ", ".join(sorted(self._clients))
            raise PermanentFailure(
                f"no agent of this host uses provider {provider!r} of {event.model!r} (used: {known})"
            )
        return client

    async def attempt(self, event: LlmRequest, context: Context, client: LlmClient, permit: Permit) -> LlmResponse:
        """Make the call that was permitted, and say what it took."""
        envelope = context.envelope
        request = await self._transcripts.whole(event, tenant=envelope.tenant, conversation_id=envelope.conversation_id)
        # Nobody watches what a model says to itself.
        way = self._streaming.of(context) if request.role == "main" else WholeCall(context)
        try:
            response = await refused_for_length(client, request)
            if response is None:
                make = partial(self._measured.make, partial(way.make, client), context)
                response = await self._structured.make(make, request, of=envelope)
        except (LlmTransient, LlmThrottled, LlmPermanent, LlmUnknownOutcome) as exc:
            await permit.failed(exc)
            raise
        await permit.succeeded(response.usage)
        if response.stop_reason == "context_window" and "context_window" in event.fall_on and event.fallbacks:
            raise DoesNotFit(f"the input is too long for {event.model}")
        model = response.model or event.model
        day = _day(context)
        cost = self._prices.cost(model, response.usage, day)
        if cost is None:
            cost = self._prices.cost(event.model, response.usage, day)
        self._measured.paid(event, cost)
        return response.model_copy(update={"model": model, "cost": cost})

    async def admitted(self, event: LlmRequest, context: Context) -> Permit:
        """Leave to make the call. Raises NotNow."""
        envelope = context.envelope
        backend = self._backends[event.model.partition("/")[0]]
        asking = Asking(
            call_id=envelope.message_id,
            tenant=envelope.tenant,
            lane=event.lane,
            since_ms=envelope.timestamp_ms,
            looks=envelope.handbacks,
            tokens=estimate_request(event) + event.max_output_tokens if backend.counts_tokens else 0,
        )
        return await backend.admit(asking)


@final
class _Call:
    """The work of one call, for the ledger. `probing`: others wait for what comes of it, and it costs no attempt."""

    def __init__(self, handler: LlmHandler, event: LlmRequest, context: Context, client: LlmClient) -> None:
        self._handler = handler
        self._event = event
        self._context = context
        self._client = client
        self.probing = False

    async def make(self, starts: int) -> bytes:
        """Make it, if it may be made now."""
        if starts > 1:
            logger.info(
                "model call repeated: an earlier one ended unknown",
                extra={"call_id": self._context.envelope.message_id},
            )
        permit = await self._handler.admitted(self._event, self._context)
        self.probing = permit.probing
        try:
            response = await self._handler.attempt(self._event, self._context, self._client, permit)
        finally:
            await permit.release()
        return response.to_body()


def _give_up(exc: Exception, *, counted: bool) -> Never:
    """Raise what becomes of the message of a call that failed like this."""
    match exc:
        case NotNow() | LlmThrottled():
            raise TemporaryFailure(str(exc), after=exc.after, counted=False) from exc
        case LlmTransient():
            raise TemporaryFailure(str(exc), after=exc.after, counted=counted) from exc
        case LlmUnknownOutcome():
            raise TemporaryFailure(str(exc), counted=counted) from exc
        case StateUnavailable():
            raise exc
        case _:
            raise PermanentFailure(str(exc)) from exc


def _day(context: Context) -> datetime.date:
    return datetime.datetime.fromtimestamp(context.clock.now_ms() / 1000, datetime.UTC).date()
