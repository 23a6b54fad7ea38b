"""The one port through which a person or a program operates a host.

The command line and the gateway know nothing else of a host, so that an embedded one behind a socket and a fleet behind a
broker are operated by the same commands with the same answers.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Protocol

from rockbot.events.approvals import ApprovalDecision, ApprovalRequest
from rockbot.events.tasks import AgentResponse, AgentStatus
from rockbot.history import TaskFilter, TaskPage, TaskView
from rockbot.letters.desk import LetterDesk
from rockbot.operators.models import Diagnosis, Pipeline, PublishedMessage, ReplyPiece
from rockbot.operators.people import ApprovalPage
from rockbot.turns.desk import TurnDesk
from rockbot_messaging.envelope import HeaderValue
from rockbot_messaging.identity import DEFAULT_TENANT

__all__ = ["AskEvent", "Operator"]

AskEvent = AgentStatus | AgentResponse | ReplyPiece


class Operator(Protocol):
    """Operates one host or one broker's hosts. Every method may also raise `HostUnreachable` or `BrokerUnreachable`."""

    @property
    def dead_letters(self) -> LetterDesk:
        """Where dead letters are worked.

        Raises:
            StateUnavailable: the store of their index could not be opened. OperatorError: it was not asked for.
        """
        ...

    async def tasks(self, which: TaskFilter, *, limit: int = 50, after: str | None = None) -> TaskPage:
        """A page of the tasks that fit, the latest first; `after` is a former page's `next`.

        Raises:
            StateUnavailable: the store cannot be read. OperatorError: it was not asked for.
        """
        ...

    async def task(self, task_id: str, *, tenant: str = DEFAULT_TENANT) -> TaskView:
        """One task, with what was asked and answered.

        Raises:
            TaskNotFound: none has this id. StateUnavailable, OperatorError: as `tasks`.
        """
        ...

    @property
    def turns(self) -> TurnDesk:
        """Where turns are looked at, forked and resumed.

        Raises:
            StateUnavailable: the state store could not be opened. OperatorError: it was not asked for.
        """
        ...

    async def approvals(
        self, *, tenant: str = DEFAULT_TENANT, limit: int = 100, after: str | None = None
    ) -> ApprovalPage:
        """What people are asked at present; `after` is a former page's `next`.

        Raises:
            StateUnavailable: the store cannot be read. OperatorError: it was not asked for.
        """
        ...

    async def approval(self, approval_id: str, *, tenant: str = DEFAULT_TENANT) -> ApprovalRequest:
        """One open approval or question. Raises ApprovalNotFound, and as `approvals`."""
        ...

    async def decide(self, decision: ApprovalDecision, *, tenant: str = DEFAULT_TENANT) -> PublishedMessage:
        """Approve, deny or answer. Without an argument hash the decision is about the arguments as they are listed.

        Raises:
            ApprovalNotFound, InvalidRequest: nothing was sent. Unroutable: no host runs the agent. As `approvals`.
        """
        ...

    async def cancel(
        self, task_id: str, *, tenant: str = DEFAULT_TENANT, reason: str = "", by: str = ""
    ) -> PublishedMessage:
        """Cancel a task, wherever it is, and what was delegated on its behalf; returns when that is on its way.

        Raises:
            TaskNotFound: no process is there to hear it, and the task is not known. As `approvals`.
        """
        ...

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
        """Publish one message; returns when it is stored. `type` empty leaves it to the topic.

        Raises:
            Unroutable: nobody receives the topic; the text says under which id the message was kept.
            InvalidTopic, InvalidRequest, BodyTooLarge: nothing was sent.
        """
        ...

    def ask(
        self,
        agent: str,
        text: str,
        *,
        conversation_id: str | None = None,
        timeout: float | None = None,
        stream: bool = False,
    ) -> AsyncIterator[AskEvent]:
        """Give an agent a task and follow it: its statuses as they happen, its response last.

        `timeout` (seconds, None: no limit) bounds the waiting, not the task: a task goes on when nobody waits for it.
        Statuses may be lost, the response is not. `stream` adds what its model says while it says it; pieces may be lost, too.
        Close the iterator when you stop early.

        Raises:
            TimedOut: no response in time; the text says what to look at.
            Unroutable: no host runs this agent.
            InvalidTopic, InvalidRequest: nothing was sent.
        """
        ...

    async def pipeline(self) -> Pipeline:
        """How messages are handled."""
        ...

    async def doctor(self) -> Diagnosis:
        """Look for what is wrong. A check that fails is a result, not an error."""
        ...

    async def close(self) -> None:
        """Let go of the connection; idempotent."""
        ...
