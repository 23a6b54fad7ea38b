"""One model call per message: made once, written down, then answered.

The delivery is held for exactly that one call, so a killed worker's call is delivered again; a finished one is answered
from the ledger. A model call whose end is unknown is made again: that costs tokens and changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import final

from rockbot.context import Context
from rockbot.errors import PermanentFailure, TemporaryFailure
from rockbot.events import Event, LlmRequest, LlmResponse
from rockbot.handler import CallNext
from rockbot.llm import LlmClient, LlmPermanent, LlmThrottled, LlmTransient, LlmUnknownOutcome
from rockbot.machines.transcript import TranscriptDamaged, Transcripts
from rockbot.state.ports import StateUnavailable
from rockbot_handlers.llm.counting import refused_for_length
from rockbot_handlers.llm.streaming import Streaming, WholeCall
from rockbot_handlers.llm.structured import StructuredCalls
from rockbot_messaging.calls import CLAIM_SECONDS, CallBusy, CallRefused, LedgeredCalls
from rockbot_messaging.canceling import RunningCalls
from rockbot_messaging.ledger import ResultLedger

__all__ = ["LlmHandler"]

logger = logging.getLogger(__name__)


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
        claim_seconds: float = CLAIM_SECONDS,
        running: RunningCalls | None = None,
    ) -> None:
        self._clients = dict(clients)
        self._transcripts = transcripts
        self._streaming = streaming
        self._calls = LedgeredCalls(
            ledger,
            owner=owner,
            harmless=(CallBusy, LlmTransient, LlmThrottled, LlmPermanent, TranscriptDamaged, StateUnavailable),
            claim_seconds=claim_seconds,
            running=running,
        )
        self._structured = StructuredCalls(self._calls)

    @property
    def handles(self) -> tuple[type[Event], ...]:
        return (LlmRequest,)

    async def handle(self, event: LlmRequest, context: Context, call_next: CallNext) -> None:  # noqa: ARG002
        envelope = context.envelope
        if envelope.return_address is None:
            raise PermanentFailure("a model request without a return address cannot be answered, so no call was made")
        provider = event.model.partition("/")[0]
        client = self._clients.get(provider)
        if client is None:
            known = ", ".join(sorted(self._clients))
            raise PermanentFailure(
                f"no agent of this host uses provider {provider!r} of {event.model!r} (used: {known})"
            )

        async def call(starts: int) -> bytes:
            if starts > 1:
                logger.info("model call repeated: an earlier one ended unknown", extra={"call_id": envelope.message_id})
            request = await self._transcripts.whole(
                event, tenant=envelope.tenant, conversation_id=envelope.conversation_id
            )
            if refused := await refused_for_length(client, request):
                return refused.to_body()
            # Nobody watches what a model says to itself.
            way = self._streaming.of(context) if request.role == "main" else WholeCall(context)
            response = await self._structured.make(partial(way.make, client), request, of=envelope)
            return response.to_body()

        try:
            body = await self._calls.run(
                envelope.message_id, tenant=envelope.tenant, work=call, under=(envelope.root_task_id,)
            )
        except CallRefused as exc:
            logger.info("model call not made", extra={"call_id": envelope.message_id, "reason": str(exc)})
            return
        except LlmThrottled as exc:
            raise TemporaryFailure(str(exc), after=exc.after, counted=False) from exc
        except LlmTransient as exc:
            raise TemporaryFailure(str(exc), after=exc.after) from exc
        except LlmUnknownOutcome as exc:
            raise TemporaryFailure(str(exc)) from exc
        except (LlmPermanent, TranscriptDamaged) as exc:
            raise PermanentFailure(str(exc)) from exc
        context.answer(LlmResponse.model_validate_json(body))
