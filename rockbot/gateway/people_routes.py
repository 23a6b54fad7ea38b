"""The gateway's way to what turns ask people, and to their cancelling."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from rockbot.events import ApprovalDecision, ApprovalRequest
from rockbot.gateway.people_api import CancelRequest, DecisionRequest
from rockbot.operator import Operator
from rockbot.operators.models import PublishedMessage
from rockbot.operators.people import ApprovalPage
from rockbot_messaging.identity import DEFAULT_TENANT

__all__ = ["people_routes"]


def people_routes(operator: Operator) -> APIRouter:
    """The routes below ``/approvals`` and ``/turns``."""
    routes = APIRouter()

    @routes.get("/approvals")
    async def approvals(
        tenant: str = DEFAULT_TENANT,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        after: str | None = None,
    ) -> ApprovalPage:
        """What people are asked at present."""
        return await operator.approvals(tenant=tenant, limit=limit, after=after)

    @routes.get("/approvals/{approval_id}")
    async def approval(approval_id: str, tenant: str = DEFAULT_TENANT) -> ApprovalRequest:
        """One of them."""
        return await operator.approval(approval_id, tenant=tenant)

    @routes.post("/approvals/{approval_id}/decision", status_code=202)
    async def decide(approval_id: str, request: DecisionRequest) -> PublishedMessage:
        """Decide."""
        fields = request.model_dump(exclude={"tenant"})
        return await operator.decide(ApprovalDecision(approval_id=approval_id, **fields), tenant=request.tenant)

    @routes.post("/turns/{task_id:path}/cancel", status_code=202)
    async def cancel(task_id: str, request: CancelRequest) -> PublishedMessage:
        """Cancel a task and what it delegated."""
        return await operator.cancel(task_id, tenant=request.tenant, reason=request.reason, by=request.by)

    return routes
