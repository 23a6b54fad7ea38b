"""The operator over an opened bus: RabbitMQ for a fleet, the in-memory bus inside the gateway of an embedded host."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, final

from rockbot.events.approvals import ApprovalDecision, ApprovalRequest
from rockbot.history import History, TaskFilter, TaskPage, TaskView
from rockbot.letters.desk import LetterDesk
from rockbot.operator import AskEvent
from rockbot.operators.asking import ask
from rockbot.operators.checks import Probe, bus_checks, letter_checks, run_probes
from rockbot.operators.faults import InvalidRequest, OperatorError, TaskNotFound
from rockbot.operators.models import Diagnosis, Pipeline, PublishedMessage
from rockbot.operators.people import ApprovalPage, PeopleDesk
from rockbot.state.ports import StateError
from rockbot.turns.desk import TurnDesk
from rockbot_messaging.clock import Clock, IdSource
from rockbot_messaging.envelope import HeaderValue, MessageEnvelope
from rockbot_messaging.errors import MessagingError, Unroutable
from rockbot_messaging.identity import DEFAULT_TENANT
from rockbot_messaging.letters import UNROUTED
from rockbot_messaging.ports import Door, MessageBus
from rockbot_messaging.topics import check_topic

__all__ = ["BusOperator"]

_RESERVED: Final = ("x-", "rockbot-")


@final
class BusOperator:
    """Implements `rockbot.operator.Operator`.

    Args:
        bus: opened by the caller; `close` closes it only through `on_close`.
        dead_letters: the desk over that bus, or why there is none; None when nobody will ask for it.
        history: what became of tasks, or why that cannot be read; None when nobody will ask for it.
        turns: the desk over the hosts' turns, or why there is none; None when nobody will ask for it.
        pipeline: how the host is composed; None when this process does not know.
        probes: further checks for `doctor`.
        on_close: awaited by `close`.
    """

    def __init__(
        self,
        bus: MessageBus,
        *,
        clock: Clock,
        ids: IdSource,
        source: str = "rockbot-cli",
        dead_letters: LetterDesk | StateError | None = None,
        history: History | StateError | None = None,
        turns: TurnDesk | StateError | None = None,
        pipeline: Pipeline | None = None,
        probes: Sequence[Probe] = (),
        on_close: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._bus = bus
        self._clock = clock
        self._ids = ids
        self._source = source
        self._dead_letters = dead_letters
        self._history = history
        self._turns = turns
        self._pipeline = pipeline
        self._probes = tuple(probes)
        self._on_close = on_close

    @property
    def dead_letters(self) -> LetterDesk:
        if self._dead_letters is None:
            raise OperatorError("this operator was opened without dead letters")
        if isinstance(self._dead_letters, StateError):
            raise self._dead_letters
        return self._dead_letters

    async def tasks(self, which: TaskFilter, *, limit: int = 50, after: str | None = None) -> TaskPage:
        return await self._past().find(which, limit=limit, after=after)

    async def task(self, task_id: str, *, tenant: str = DEFAULT_TENANT) -> TaskView:
        try:
            found = await self._past().task(tenant, task_id)
        except ValueError as exc:
            raise InvalidRequest(f"no task can have this id: {exc}") from None
        if found is None:
            raise TaskNotFound(f"no task {task_id!r} is known: rockbot tasks list")
        return found

    async def approvals(
        self, *, tenant: str = DEFAULT_TENANT, limit: int = 100, after: str | None = None
    ) -> ApprovalPage:
        return await self._people().open(tenant=tenant, limit=limit, after=after)

    async def approval(self, approval_id: str, *, tenant: str = DEFAULT_TENANT) -> ApprovalRequest:
        return await self._people().one(approval_id, tenant=tenant)

    async def decide(self, decision: ApprovalDecision, *, tenant: str = DEFAULT_TENANT) -> PublishedMessage:
        return await self._people().decide(decision, tenant=tenant)

    async def cancel(
        self, task_id: str, *, tenant: str = DEFAULT_TENANT, reason: str = "", by: str = ""
    ) -> PublishedMessage:
        return await self._people().cancel(task_id, tenant=tenant, reason=reason, by=by)

    def _people(self) -> PeopleDesk:
        store = self._past().store
        return PeopleDesk(store, self._bus.publisher, clock=self._clock, ids=self._ids, source=self._source)

    def _past(self) -> History:
        if self._history is None:
            raise OperatorError("this operator was opened without the state store")
        if isinstance(self._history, StateError):
            raise self._history
        return self._history

    @property
    def turns(self) -> TurnDesk:
        if self._turns is None:
            raise OperatorError("this operator was opened without the state store")
        if isinstance(self._turns, StateError):
            raise self._turns
        return self._turns

    async def publish(
        self,
        topic: str,
        body: bytes,
        *,
        type: str = "",
        correlation_id: str | None = None,
        conversation_id: str | None = None,
        headers: Mapping[str, HeaderValue] | None = None,
    ) -> PublishedMessage:
        check_topic(topic)
        for name in headers or {}:
            if not name or name.lower().startswith(_RESERVED):
                raise InvalidRequest(f"header {name!r} cannot be set: names beginning with x- or rockbot- are reserved")
        envelope = MessageEnvelope(
            topic=topic,
            body=body,
            message_id=self._ids.new_id(),
            type=type,
            source=self._source,
            timestamp_ms=self._clock.now_ms(),
            content_type=_content_type(body),
            correlation_id=correlation_id,
            conversation_id=conversation_id,
            headers=MappingProxyType(dict(headers or {})),
        )
        try:
            await self._bus.publisher.publish(envelope, door=Door.COMMANDS)
        except ValueError as exc:
            if isinstance(exc, MessagingError):
                raise
            raise InvalidRequest(f"the message cannot be sent: {_unsendable(exc)}") from None
        except Unroutable:
            raise Unroutable(
                topic,
                f"nobody receives topic {topic!r}. The message was kept: rockbot dlq show {UNROUTED} {envelope.message_id}",
            ) from None
        return PublishedMessage.of(envelope)

    def ask(
        self,
        agent: str,
        text: str,
        *,
        conversation_id: str | None = None,
        timeout: float | None = None,
        stream: bool = False,
    ) -> AsyncIterator[AskEvent]:
        return ask(
            self._bus,
            clock=self._clock,
            ids=self._ids,
            source=self._source,
            agent=agent,
            text=text,
            conversation_id=conversation_id,
            timeout=timeout,
            stream=stream,
        )

    async def pipeline(self) -> Pipeline:
        if self._pipeline is None:
            raise OperatorError("this process does not know how the host is composed")
        return self._pipeline

    async def doctor(self) -> Diagnosis:
        desk = None if isinstance(self._dead_letters, StateError) else self._dead_letters
        letters = await letter_checks(self._bus.dead_letters, desk)
        return Diagnosis(checks=(*bus_checks(self._bus), *letters, *await run_probes(self._probes)))

    async def close(self) -> None:
        if self._on_close is not None:
            act, self._on_close = self._on_close, None
            await act()


def _unsendable(exc: ValueError) -> str:
    return "a name or value is no text that UTF-8 can carry" if isinstance(exc, UnicodeError) else str(exc)


def _content_type(body: bytes) -> str:
    try:
        json.loads(body)
    except ValueError:
        pass
    else:
        return "application/json"
    try:
        body.decode()
    except UnicodeDecodeError:
        return "application/octet-stream"
    return "text/plain"
