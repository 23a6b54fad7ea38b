"""Dead letters: messages that could not be handled, kept with what a person needs to know about why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

from rockbot_messaging.envelope import MessageEnvelope

__all__ = ["HISTORY_EDGE", "UNROUTED", "DeadLetterQueue", "Failure", "Letter", "append_history"]

#: Failed attempts kept at each end of a history; what lies between is counted in one line.
HISTORY_EDGE: Final = 10

#: Name (without namespace) of the queue that keeps messages nobody was bound to receive.
UNROUTED: Final = "unrouted"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a message became a dead letter.

    `queue` is the work queue it came from (empty for an unrouted message), `topic` the routing key it was first
    published with, `at_ms` the instant of death, `history` a line per failed attempt, `broker` what the broker itself
    noted when it was the one that gave up.
    """

    reason: str
    queue: str
    topic: str
    at_ms: int
    attempt: int = 1
    error_type: str = ""
    traceback: str = ""
    history: tuple[str, ...] = ()
    broker: str = ""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """One dead letter. `id` is the message id, `problem` says what of the envelope was unreadable."""

    id: str
    queue: str
    envelope: MessageEnvelope
    failure: Failure
    problem: str = ""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterQueue:
    """One dead-letter queue, the subscription whose failures it keeps, and how many letters wait in it."""

    name: str
    subscription: str
    depth: int


def append_history(history: tuple[str, ...], line: str) -> tuple[str, ...]:
    """`history` with one more line: the first and the last ten attempts are kept, and how many lie between."""
    lines = (*history, line)
    if len(lines) <= 2 * HISTORY_EDGE:
        return lines
    head, tail = lines[:HISTORY_EDGE], lines[HISTORY_EDGE:]
    omitted = 0
    if tail[0].startswith("... ") and tail[0].endswith(" more"):
        omitted, tail = int(tail[0].split()[1]), tail[1:]
    cut = max(0, len(tail) - HISTORY_EDGE)
    omitted += cut
    return (*head, f"... {omitted} more", *tail[cut:]) if omitted else lines
