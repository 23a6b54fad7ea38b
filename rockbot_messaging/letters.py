"""Dead letters: messages that could not be handled, kept with what a person needs to know about why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

from rockbot_messaging.envelope import MessageEnvelope

__all__ = [
    "DISCARDED",
    "DISCARDED_SECONDS",
    "HISTORY_EDGE",
    "UNROUTED",
    "DeadLetterQueue",
    "Discard",
    "Discarded",
    "Erase",
    "Failure",
    "Fate",
    "Keep",
    "Letter",
    "Restore",
    "SendOn",
    "Walked",
    "append_history",
]

#: Failed attempts kept at each end of a history; what lies between is counted in one line.
HISTORY_EDGE: Final = 10

#: Name (without namespace) of the queue that keeps messages nobody was bound to receive.
UNROUTED: Final = "unrouted"
#: Name (without namespace) of the queue that keeps discarded letters for a while.
DISCARDED: Final = "discarded"
#: Seconds that a discarded letter can be restored (a week).
DISCARDED_SECONDS: Final = 7 * 86_400


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a message became a dead letter.

    `queue` is the work queue it came from (empty for an unrouted message), `topic` the routing key it was first
    published with, `at_ms` the instant of death, `history` a line per failed attempt, `broker` what the broker itself
    noted when it was the one that gave up. `handler` is the link that failed, if known.
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
    handler: str = ""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Discarded:
    """Who put a letter away, when and why. `queue` is the dead-letter queue that it lay in."""

    queue: str
    at_ms: int
    reason: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """One dead letter. `id` is the message id, `problem` says what of the envelope was unreadable.

    `discarded` is set on what lies in the queue of discarded letters.
    """

    id: str
    queue: str
    envelope: MessageEnvelope
    failure: Failure
    problem: str = ""
    discarded: Discarded | None = None


@final
@dataclass(frozen=True, slots=True)
class Keep:
    """Fate of a letter on a walk: it stays where it is."""


@final
@dataclass(frozen=True, slots=True)
class SendOn:
    """Fate: `envelope` is stored in the work queue the letter came from (an unrouted letter: published to its topic), and
    the letter is removed once that is confirmed.

    With `keep_original` (a reason) the letter then moves to the queue of discarded letters, as by `Discard`, instead of
    being removed: `envelope` is a mended one, and nobody should lose what it was made of.
    """

    envelope: MessageEnvelope
    keep_original: str | None = None


@final
@dataclass(frozen=True, slots=True)
class Discard:
    """Fate: it moves to the queue of discarded letters, where it can be restored until its time is over."""

    reason: str


@final
@dataclass(frozen=True, slots=True)
class Restore:
    """Fate of a discarded letter: back into the dead-letter queue that it lay in, failure and all."""


@final
@dataclass(frozen=True, slots=True)
class Erase:
    """Fate: gone for good."""


Fate = Keep | SendOn | Discard | Restore | Erase


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Walked:
    """What came of a walk: how many letters were seen and what became of them.

    `refused` has id and cause of letters whose fate could not be carried out; they stayed (the first hundred are named,
    `refusals` counts them all).
    """

    seen: int = 0
    kept: int = 0
    sent: int = 0
    discarded: int = 0
    restored: int = 0
    erased: int = 0
    refusals: int = 0
    refused: tuple[tuple[str, str], ...] = ()


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
