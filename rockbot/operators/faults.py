"""One table of everything that can go wrong for an operator: code, HTTP status, exit code.

The gateway turns an error into its code, the client turns the code back into the same error, the command line turns it
into an exit code; so every way in fails alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, final

from pydantic import BaseModel, ConfigDict

from rockbot.errors import ConfigError, RockBotError
from rockbot.state.ports import StateError
from rockbot_messaging.errors import (
    BodyTooLarge,
    BrokerUnreachable,
    Closed,
    HeadersTooLarge,
    InvalidTopic,
    LetterNotFound,
    LettersBusy,
    MessagingError,
    NotConfirmed,
    TopologyMismatch,
    Unroutable,
)

__all__ = [
    "FAULTS",
    "ApprovalNotFound",
    "ConversationNotFound",
    "ExitCode",
    "Fault",
    "HostUnreachable",
    "InvalidRequest",
    "OperatorError",
    "Problem",
    "SocketTaken",
    "TaskNotFound",
    "TimedOut",
    "error_of",
    "fault_of",
    "problem_of",
]


class ExitCode(IntEnum):
    """How a command ends."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    CONFIG = 3
    UNREACHABLE = 4
    TIMED_OUT = 5
    PROBLEMS = 6
    INTERRUPTED = 130


class OperatorError(RockBotError):
    """An operation failed for a reason that has no class of its own."""


class InvalidRequest(RockBotError, ValueError):
    """An argument is wrong; nothing was done."""


class TaskNotFound(RockBotError, LookupError):
    """No task has this id."""


class ConversationNotFound(RockBotError, LookupError):
    """There is no such conversation, or it has no such record; the text says which."""


class ApprovalNotFound(RockBotError, LookupError):
    """Nothing is asked under this id, or not any more."""


class HostUnreachable(RockBotError, ConnectionError):
    """No host listens on the socket, or it went away before it answered."""


class TimedOut(RockBotError, TimeoutError):
    """No answer came in time; the text says what to look at."""


class SocketTaken(RockBotError, OSError):
    """The socket path cannot be used: another host listens on it, or something else lies there."""


class Problem(BaseModel):
    """An error as data: a stable code for programs, a sentence for people."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    code: str
    message: str


@final
@dataclass(frozen=True, slots=True)
class Fault:
    """One row: an error class and what stands for it. `make` builds the error again from its text."""

    code: str
    error: type[BaseException]
    status: int
    exit_code: ExitCode
    make: Callable[[str], Exception]


def _unroutable(text: str) -> Exception:
    return Unroutable("", text)


#: The first row whose class fits decides.
FAULTS: Final[tuple[Fault, ...]] = (
    Fault("invalid_topic", InvalidTopic, 400, ExitCode.USAGE, InvalidTopic),
    Fault("invalid_request", InvalidRequest, 422, ExitCode.USAGE, InvalidRequest),
    Fault("body_too_large", BodyTooLarge, 413, ExitCode.FAILURE, BodyTooLarge),
    Fault("headers_too_large", HeadersTooLarge, 413, ExitCode.FAILURE, HeadersTooLarge),
    Fault("unroutable", Unroutable, 409, ExitCode.FAILURE, _unroutable),
    Fault("letter_not_found", LetterNotFound, 404, ExitCode.FAILURE, LetterNotFound),
    Fault("task_not_found", TaskNotFound, 404, ExitCode.FAILURE, TaskNotFound),
    Fault("conversation_not_found", ConversationNotFound, 404, ExitCode.FAILURE, ConversationNotFound),
    Fault("approval_not_found", ApprovalNotFound, 404, ExitCode.FAILURE, ApprovalNotFound),
    Fault("letters_busy", LettersBusy, 409, ExitCode.FAILURE, LettersBusy),
    Fault("timed_out", TimedOut, 504, ExitCode.TIMED_OUT, TimedOut),
    Fault("host_unreachable", HostUnreachable, 503, ExitCode.UNREACHABLE, HostUnreachable),
    Fault("broker_unreachable", BrokerUnreachable, 503, ExitCode.UNREACHABLE, BrokerUnreachable),
    Fault("not_confirmed", NotConfirmed, 503, ExitCode.UNREACHABLE, NotConfirmed),
    Fault("closed", Closed, 503, ExitCode.UNREACHABLE, Closed),
    Fault("topology_mismatch", TopologyMismatch, 409, ExitCode.FAILURE, TopologyMismatch),
    Fault("config_invalid", ConfigError, 500, ExitCode.CONFIG, ConfigError),
    Fault("state_unavailable", StateError, 503, ExitCode.FAILURE, StateError),
    Fault("socket_taken", SocketTaken, 409, ExitCode.FAILURE, SocketTaken),
    Fault("failed", MessagingError, 500, ExitCode.FAILURE, MessagingError),
    Fault("failed", RockBotError, 500, ExitCode.FAILURE, OperatorError),
)

_INTERNAL: Final = Fault("internal", Exception, 500, ExitCode.FAILURE, OperatorError)


def fault_of(exc: BaseException) -> Fault:
    """The row for an error; ``internal`` for one that nobody foresaw."""
    return next((fault for fault in FAULTS if isinstance(exc, fault.error)), _INTERNAL)


def problem_of(exc: BaseException) -> Problem:
    """An error as data. What nobody foresaw is named by its class alone: its text may hold internals."""
    fault = fault_of(exc)
    if fault is _INTERNAL:
        return Problem(code=fault.code, message=f"unexpected {type(exc).__name__}; the host's log has the details")
    return Problem(code=fault.code, message=" ".join(str(exc).split()) or type(exc).__name__)


def error_of(problem: Problem) -> Exception:
    """The error that a problem was made from."""
    fault = next((fault for fault in FAULTS if fault.code == problem.code), _INTERNAL)
    return fault.make(problem.message)
