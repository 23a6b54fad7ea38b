"""The turn part of the gateway: one route for each method of the desk."""

from __future__ import annotations

from fastapi import APIRouter

from rockbot.gateway.turns import ForkRequest, ResumeRequest
from rockbot.letters.models import Progress
from rockbot.operator import Operator
from rockbot.turns.models import Fork, TurnStory
from rockbot_messaging.identity import DEFAULT_TENANT

__all__ = ["turn_routes"]


def turn_routes(operator: Operator) -> APIRouter:
    """The routes."""
    routes = APIRouter()

    @routes.get("/turns/{task_id}")
    async def story(task_id: str, tenant: str = DEFAULT_TENANT) -> TurnStory:
        """A task whole: state, timeline, and what it waits for."""
        return await operator.turns.story(task_id, tenant=tenant)

    @routes.post("/turns/{task_id}/resume")
    async def resume(task_id: str, request: ResumeRequest) -> Progress:
        """Send on the dead letters that a turn waits for."""
        return await operator.turns.resume(task_id, actor=request.actor, dry_run=request.dry_run, tenant=request.tenant)

    @routes.post("/conversations/{conversation_id}/fork", status_code=201)
    async def fork(conversation_id: str, request: ForkRequest) -> Fork:
        """Begin a new conversation as a copy of another one."""
        return await operator.turns.fork(conversation_id, at=request.at, name=request.name, tenant=request.tenant)

    return routes
