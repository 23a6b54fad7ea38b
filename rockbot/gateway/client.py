"""The operator over the socket of a running host."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final, final

from pydantic import TypeAdapter, ValidationError

from rockbot.events.approvals import ApprovalDecision, ApprovalRequest
from rockbot.gateway.api import AskLine, AskRequest, PieceLine, PublishRequest, ResponseLine
from rockbot.gateway.calls import Calls, segment
from rockbot.gateway.desk import SocketDesk
from rockbot.gateway.people_api import CancelRequest, DecisionRequest
from rockbot.gateway.turns import SocketTurns
from rockbot.history import TaskFilter, TaskPage, TaskView
from rockbot.letters.desk import LetterDesk
from rockbot.operator import AskEvent
from rockbot.operators.faults import InvalidRequest
from rockbot.operators.models import Diagnosis, Pipeline, PublishedMessage
from rockbot.operators.people import ApprovalPage
from rockbot.turns.desk import TurnDesk
from rockbot_messaging.envelope import HeaderValue
from rockbot_messaging.identity import DEFAULT_TENANT

__all__ = ["SocketOperator"]

_LINES: Final[TypeAdapter[Any]] = TypeAdapter(AskLine)

#: Seconds that the host gets beyond the time it was given itself, so that its own explanation arrives.
_MARGIN: Final = 5.0


@final
class SocketOperator:
    """Implements `rockbot.operator.Operator` by calling the gateway of the host that listens on `socket_path`."""

    def __init__(self, socket_path: Path) -> None:
        self._calls = Calls(socket_path)
        self._desk = SocketDesk(self._calls)
        self._turns = SocketTurns(self._calls)

    @property
    def dead_letters(self) -> LetterDesk:
        return self._desk

    async def tasks(self, which: TaskFilter, *, limit: int = 50, after: str | None = None) -> TaskPage:
        query = which.model_dump(exclude_none=True) | {"limit": limit, **({"after": after} if after else {})}
        return TaskPage.model_validate_json(await self._calls.get("/tasks", query))

    async def task(self, task_id: str, *, tenant: str = DEFAULT_TENANT) -> TaskView:
        return TaskView.model_validate_json(await self._calls.get(f"/tasks/{segment(task_id)}", {"tenant": tenant}))

    @property
    def turns(self) -> TurnDesk:
        return self._turns

    async def approvals(
        self, *, tenant: str = DEFAULT_TENANT, limit: int = 100, after: str | None = None
    ) -> ApprovalPage:
        query = {"tenant": tenant, "limit": limit, **({"after": after} if after else {})}
        return ApprovalPage.model_validate_json(await self._calls.get("/approvals", query))

    async def approval(self, approval_id: str, *, tenant: str = DEFAULT_TENANT) -> ApprovalRequest:
        body = await self._calls.get(f"/approvals/{segment(approval_id)}", {"tenant": tenant})
        return ApprovalRequest.model_validate_json(body)

    async def decide(self, decision: ApprovalDecision, *, tenant: str = DEFAULT_TENANT) -> PublishedMessage:
        request = DecisionRequest(**decision.model_dump(exclude={"approval_id"}), tenant=tenant)
        body = await self._calls.post(f"/approvals/{segment(decision.approval_id)}/decision", request)
        return PublishedMessage.model_validate_json(body)

    async def cancel(
        self, task_id: str, *, tenant: str = DEFAULT_TENANT, reason: str = "", by: str = ""
    ) -> PublishedMessage:
        request = CancelRequest(reason=reason, by=by, tenant=tenant)
        return PublishedMessage.model_validate_json(
            await self._calls.post(f"/turns/{segment(task_id)}/cancel", request)
        )

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
        request = PublishRequest(
            topic=topic,
            body=base64.b64encode(body).decode(),
            body_encoding="base64",
            type=type,
            correlation_id=correlation_id,
            conversation_id=conversation_id,
            headers=dict(headers or {}),
        )
        return PublishedMessage.model_validate_json(await self._calls.post("/messages", request))

    async def ask(
        self,
        agent: str,
        text: str,
        *,
        conversation_id: str | None = None,
        timeout: float | None = None,
        stream: bool = False,
    ) -> AsyncIterator[AskEvent]:
        try:
            request = AskRequest(text=text, conversation_id=conversation_id, timeout=timeout, stream=stream)
        except ValidationError as exc:
            error = exc.errors(include_url=False)[0]
            raise InvalidRequest(f"this is no task: {error['loc'][-1]}: {error['msg']}") from None
        read = None if timeout is None else timeout + _MARGIN
        lines: Any = self._calls.lines(f"/agents/{segment(agent)}/ask", _LINES, request=request, read=read)
        async with aclosing(lines):
            async for line in lines:
                if isinstance(line, ResponseLine):
                    yield line.response
                    return
                yield line.piece if isinstance(line, PieceLine) else line.status

    async def pipeline(self) -> Pipeline:
        return Pipeline.model_validate_json(await self._calls.get("/pipeline"))

    async def doctor(self) -> Diagnosis:
        return Diagnosis.model_validate_json(await self._calls.get("/doctor"))

    async def close(self) -> None:
        await self._calls.close()
