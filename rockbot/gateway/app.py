"""The gateway: an operator as an HTTP API. Every error is ``{"error": {"code", "message"}}``."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Header, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException

from rockbot import __version__
from rockbot.events.tasks import AgentResponse
from rockbot.gateway.actions import Actions
from rockbot.gateway.api import (
    MEDIA_TYPE_EVENTS,
    MEDIA_TYPE_LINES,
    VERSION,
    AskRequest,
    ErrorBody,
    ErrorLine,
    Health,
    PieceLine,
    PublishRequest,
    ResponseLine,
    StatusLine,
    TaskQuery,
    request_limit,
)
from rockbot.gateway.letters_routes import letter_routes
from rockbot.gateway.limits import BodyLimit
from rockbot.gateway.people_routes import people_routes
from rockbot.gateway.turns_routes import turn_routes
from rockbot.history import TaskPage, TaskView
from rockbot.operator import AskEvent, Operator
from rockbot.operators.faults import FAULTS, Problem, fault_of, problem_of
from rockbot.operators.models import Diagnosis, Pipeline, PublishedMessage, ReplyPiece
from rockbot_messaging.identity import DEFAULT_TENANT

__all__ = ["create_app"]

logger = logging.getLogger(__name__)

_HTTP_CODES = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}


def create_app(operator: Operator, *, max_body_bytes: int = 16 << 20, actions: Actions | None = None) -> FastAPI:
    """The application. `max_body_bytes` bounds a message's body, `actions` are told what outlives a request; the operator
    stays the caller's to close."""
    app = FastAPI(
        title="RockBot gateway",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=f"/{VERSION}/openapi.json",
        responses={"default": {"model": ErrorBody}},
    )
    app.add_middleware(BodyLimit, limit=request_limit(max_body_bytes))
    app.include_router(_routes(operator), prefix=f"/{VERSION}")
    letters = letter_routes(operator, actions or Actions(), failed=_log_unforeseen)
    app.include_router(letters, prefix=f"/{VERSION}")
    app.include_router(people_routes(operator), prefix=f"/{VERSION}")
    app.include_router(turn_routes(operator), prefix=f"/{VERSION}")
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    for error in {fault.error for fault in FAULTS}:
        if issubclass(error, Exception):
            app.add_exception_handler(error, _fault)
    app.add_exception_handler(Exception, _fault)
    return app


def _routes(operator: Operator) -> APIRouter:
    routes = APIRouter()

    @routes.get("/health")
    async def health() -> Health:
        """Whether the gateway answers; what stands behind it is `doctor`'s to say."""
        return Health(version=__version__)

    @routes.post("/messages", status_code=202)
    async def publish(request: PublishRequest) -> PublishedMessage:
        """Publish one message."""
        return await operator.publish(
            request.topic,
            request.bytes,
            type=request.type,
            correlation_id=request.correlation_id,
            conversation_id=request.conversation_id,
            headers=request.headers,
        )

    @routes.post("/agents/{agent}/ask", response_class=StreamingResponse)
    async def ask(agent: str, request: AskRequest, accept: Annotated[str, Header()] = "") -> StreamingResponse:
        """Give an agent a task: a stream of JSON lines (or server-sent events, if accepted), the answer or an error last."""
        lines = _lines(operator, agent, request)
        if MEDIA_TYPE_EVENTS not in accept:
            return StreamingResponse((line + b"\n" async for _, line in lines), media_type=MEDIA_TYPE_LINES)
        events = (b"event: %s\ndata: %s\n\n" % (kind.encode(), line) async for kind, line in lines)
        return StreamingResponse(events, media_type=MEDIA_TYPE_EVENTS)

    @routes.get("/tasks")
    async def tasks(query: Annotated[TaskQuery, Query()]) -> TaskPage:
        """A page of the tasks that fit, the latest first."""
        return await operator.tasks(query.which, limit=query.limit, after=query.after)

    @routes.get("/tasks/{task_id:path}")
    async def task(task_id: str, tenant: str = DEFAULT_TENANT) -> TaskView:
        """One task, with what was asked and answered."""
        return await operator.task(task_id, tenant=tenant)

    @routes.get("/pipeline")
    async def pipeline() -> Pipeline:
        """How messages are handled."""
        return await operator.pipeline()

    @routes.get("/doctor")
    async def doctor() -> Diagnosis:
        """What is wrong."""
        return await operator.doctor()

    return routes


async def _lines(operator: Operator, agent: str, request: AskRequest) -> AsyncIterator[tuple[str, bytes]]:
    """The events of one task by kind; when the client goes away the server cancels this, and that ends the reply queue."""
    stream: Any = operator.ask(
        agent,
        request.text,
        conversation_id=request.conversation_id,
        timeout=request.timeout,
        stream=request.stream,
    )
    try:
        async with aclosing(stream):
            async for event in stream:
                line = _line(event)
                yield line.kind, line.model_dump_json(exclude_none=True).encode()
    except Exception as exc:
        _log_unforeseen(exc)
        yield "error", ErrorLine(error=problem_of(exc)).model_dump_json().encode()


def _line(event: AskEvent) -> StatusLine | PieceLine | ResponseLine:
    match event:
        case AgentResponse():
            return ResponseLine(response=event)
        case ReplyPiece():
            return PieceLine(piece=event)
        case _:
            return StatusLine(status=event)


def _answer(status: int, problem: Problem) -> JSONResponse:
    return JSONResponse(ErrorBody(error=problem).model_dump(), status_code=status)


def _log_unforeseen(exc: Exception) -> None:
    if fault_of(exc).code == "internal":
        logger.error("an operation failed unexpectedly", exc_info=exc)


async def _fault(_: Request, exc: Exception) -> JSONResponse:
    _log_unforeseen(exc)
    return _answer(fault_of(exc).status, problem_of(exc))


async def _http(_: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, HTTPException)
    return _answer(exc.status_code, Problem(code=_HTTP_CODES.get(exc.status_code, "failed"), message=exc.detail))


async def _invalid(_: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, RequestValidationError)
    parts = []
    for error in exc.errors()[:5]:
        where = ".".join(str(part) for part in error["loc"] if part != "body")
        parts.append(f"{where}: {error['msg']}" if where else str(error["msg"]))
    return _answer(422, Problem(code="invalid_request", message="; ".join(parts)))
