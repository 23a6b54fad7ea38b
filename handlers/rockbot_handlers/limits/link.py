"""Limits, kept where calls are made: what a call may take is reserved before it, and replaced after it by what it took.

A call that does not fit is not made, and its turn is told, so that it ends with what it has. Reservations are under the call's
id: a call that is delivered again takes nothing more, and what a killed worker had reserved is free again after a while.
"""

from __future__ import annotations

import datetime
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final

from rockbot import topics
from rockbot.catalogue.prices import PriceTable, most_tokens
from rockbot.context import Context
from rockbot.errors import PermanentFailure, TemporaryFailure
from rockbot.events import AgentStatus, Event, LlmRequest, LlmResponse, StepRefused, ToolInvoke, Usage
from rockbot.handler import CallNext
from rockbot.settings_models import LimitsSettings
from rockbot.state.keys import key
from rockbot.state.ports import StateStore, VersionConflict
from rockbot.tokens import estimate_request
from rockbot_handlers.limits.accounts import Allowance, Amounts, Counted, allowances
from rockbot_handlers.limits.measuring import LimitMeasures
from rockbot_messaging.ledger import Finished, ResultLedger

__all__ = ["RESERVED_SECONDS", "LimitsLink"]

logger = logging.getLogger(__name__)

#: Seconds after which a reservation that nobody settled is given back: longer than any call takes.
RESERVED_SECONDS: Final = 3600.0
#: Shares of a limit that watchers are told of, once a day.
_NOTICES: Final = (1.0, 0.8)
_TWO_DAYS: Final = 2 * 86_400.0


@final
@dataclass(frozen=True, slots=True)
class _Held:
    """What a call has reserved of one limit, and how much of it is taken with that."""

    allowance: Allowance
    id: str
    amount: float
    taken: float


@final
class LimitsLink:
    """Keeps the limits of model and tool calls; everything else passes."""

    def __init__(
        self,
        settings: LimitsSettings,
        store: StateStore,
        ledger: ResultLedger,
        prices: PriceTable,
        measures: LimitMeasures | None = None,
    ) -> None:
        self._settings = settings
        self._store = store
        self._ledger = ledger
        self._prices = prices
        self._measures = measures or LimitMeasures()

    @property
    def handles(self) -> tuple[type[Event], ...]:
        return (LlmRequest, ToolInvoke)

    async def handle(self, event: LlmRequest | ToolInvoke, context: Context, call_next: CallNext) -> None:
        tenant = context.envelope.tenant
        limits = allowances(self._settings, agent=event.agent, user=event.user, tenant=tenant)
        now_ms = await self._store.now_ms() if limits else 0
        day = datetime.datetime.fromtimestamp(now_ms / 1000, datetime.UTC).date()
        expected = self._expected(event, day) if limits else {}
        limits = [limit for limit in limits if limit.counted in expected]
        if not limits:
            await call_next(event, context)
            return
        held: list[_Held] = []
        for limit in limits:
            amount = expected[limit.counted]
            refusal = _no_price(event, limit) if amount is None else None
            if amount is not None:
                found = await self._store.reserve(
                    limit.key(day),
                    amount,
                    limit=limit.limit,
                    id=limit.reservation(context.envelope.message_id, tenant),
                    ttl=RESERVED_SECONDS,
                )
                self._measures.taken(limit, found.taken, day)
                if found.granted:
                    mine = limit.reservation(context.envelope.message_id, tenant)
                    held.append(_Held(limit, mine, amount, found.taken))
                    continue
                refusal = _no_room(limit, amount, found.taken)
            assert refusal is not None
            await self._give_back(held)
            if not await self._is_finished(context):
                await self._refuse(event, context, limit, refusal, day)
                return
            held.clear()
            break
        await self._call(event, context, call_next, held, day)

    async def _call(
        self, event: Event, context: Context, call_next: CallNext, held: list[_Held], day: datetime.date
    ) -> None:
        before = len(context.emissions)
        try:
            await call_next(event, context)
        except TemporaryFailure as exc:
            if not exc.counted:
                await self._give_back(held)  # it was not made, and may wait for long
            raise
        except PermanentFailure:
            if isinstance(event, LlmRequest):
                await self._give_back(held)
            raise
        answers = [
            emission.envelope
            for emission in context.emissions[before:]
            if emission.envelope.type == LlmResponse.type_name
        ]
        if isinstance(event, ToolInvoke):
            await self._settle(held, {"tool_calls": 1}, day)
        elif answers:
            response = LlmResponse.model_validate_json(answers[0].body)
            took: dict[Counted, float] = {"model_calls": 1, "tokens": most_tokens(response.usage)}
            if response.cost is not None:
                took["money"] = response.cost
            await self._settle(held, took, day)
        for each in held:
            await self._notice(event, context, each.allowance, each.taken, day)

    def _expected(self, event: LlmRequest | ToolInvoke, day: datetime.date) -> Mapping[Counted, float | None]:
        """The most that a call may take; money None when its price is not known."""
        if isinstance(event, ToolInvoke):
            return {"tool_calls": 1}
        given = estimate_request(event)
        # A chain may end at any of its models, and the reservation stays the one that was made first.
        usage = Usage(input_tokens=given, output_tokens=event.max_output_tokens)
        costs = [self._prices.cost(model, usage, day) for model in (event.model, *event.fallbacks)]
        known = [cost for cost in costs if cost is not None]
        money = max(known) if len(known) == len(costs) else None
        return {"model_calls": 1, "tokens": given + event.max_output_tokens, "money": money}

    async def _is_finished(self, context: Context) -> bool:
        """Whether the call was made before: then it is answered, whatever is left of the limits."""
        envelope = context.envelope
        found = await self._ledger.renew(envelope.message_id, tenant=envelope.tenant, owner="", claim_seconds=1)
        return isinstance(found, Finished)

    async def _give_back(self, held: list[_Held]) -> None:
        for each in held:
            await self._store.settle(each.id, 0)

    async def _settle(self, held: list[_Held], took: Amounts, day: datetime.date) -> None:
        for each in held:
            actual = took.get(each.allowance.counted, each.amount)
            if await self._store.settle(each.id, actual) or not actual:
                continue
            # A copy of the call that may not be made yet has given back what this one had reserved, too.
            await self._store.reserve(each.allowance.key(day), actual, limit=math.inf, id=each.id, ttl=RESERVED_SECONDS)
            await self._store.settle(each.id, actual)

    async def _refuse(
        self,
        event: LlmRequest | ToolInvoke,
        context: Context,
        limit: Allowance,
        refusal: StepRefused,
        day: datetime.date,
    ) -> None:
        self._measures.refused(limit)
        message_id = context.envelope.message_id
        if context.envelope.return_address is None:
            raise PermanentFailure(refusal.message)
        logger.warning(
            "a call was not made because of a limit",
            extra={"message_id": message_id, "limit": limit.setting, "agent": event.agent, "reason": refusal.message},
        )
        context.answer(refusal.model_copy(update={"message_id": message_id}), name="refused")
        if refusal.code == "limit" and not refusal.permanent:
            await self._notice(event, context, limit, limit.limit, day)

    async def _notice(self, event: Event, context: Context, limit: Allowance, taken: float, day: datetime.date) -> None:
        """Tell watchers that a share of a limit is taken, each share once a day."""
        agent = getattr(event, "agent", "")
        share = next((share for share in _NOTICES if limit.limit and taken >= share * limit.limit * (1 - 1e-9)), None)
        if share is None or not agent:
            return
        mark = key("host", "limit-notice", f"{limit.key(day)}:{share:g}")
        try:
            await self._store.put(mark, b"", expect=0, ttl=_TWO_DAYS)
        except VersionConflict:
            return
        text = f"{share:.0%} of the limit {limit.setting} ({limit.limit:g}) are used or reserved for {day}"
        envelope = context.envelope
        status = AgentStatus(
            task_id=envelope.root_task_id or "",
            conversation_id=envelope.conversation_id or "",
            agent=agent,
            kind="limit",
            text=text,
        )
        context.emit(status, topic=topics.status(agent), name=f"limit:{limit.setting}:{share:g}")


def _no_room(limit: Allowance, amount: float, taken: float) -> StepRefused:
    what = limit.counted.replace("_", " ")
    never = amount > limit.limit
    message = f"the limit of {limit.limit:g} {what} a day ({limit.setting}) does not allow this call"
    message += f", which may take {amount:g}" if never else f": {taken:g} are used or reserved, it may take {amount:g}"
    return StepRefused(message_id="", message=message, limit=limit.setting, permanent=never)


def _no_price(event: Event, limit: Allowance) -> StepRefused:
    models = ", ".join((event.model, *event.fallbacks)) if isinstance(event, LlmRequest) else ""
    message = f"the limit {limit.setting} cannot be kept: there is no price of {models}; set it under [prices.models]"
    return StepRefused(message_id="", code="unknown_price", message=message, limit=limit.setting)
