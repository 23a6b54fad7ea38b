"""What is done with a delivery, decided from data.

Pure: the verdict, the message's counters, the policy and the instant give one outcome, the same in every provider. A
provider carries it out in the safe order: store the new copy first, then forget the old one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, final

from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.letters import Failure, Letter, append_history
from rockbot_messaging.retries import RetryPolicy, next_step
from rockbot_messaging.verdicts import Ack, DeadLetter, Retry, Verdict

__all__ = ["LONGEST_DELAY", "Bury", "Delay", "Forget", "Outcome", "decide", "sent_on", "still_waiting"]


#: Seconds (ten years) that a delay is cut at: an instant beyond what a broker's integers carry could never be stored.
LONGEST_DELAY: Final = 10 * 365 * 86_400


@final
@dataclass(frozen=True, slots=True)
class Forget:
    """Acknowledge; nothing is left."""


@final
@dataclass(frozen=True, slots=True)
class Delay:
    """Store `envelope` in the delay queue of `step` seconds, then acknowledge."""

    step: int
    envelope: MessageEnvelope


@final
@dataclass(frozen=True, slots=True)
class Bury:
    """Store `envelope` in the dead-letter queue together with `failure`, then acknowledge."""

    envelope: MessageEnvelope
    failure: Failure


Outcome = Forget | Delay | Bury

_FORGET = Forget()


def still_waiting(envelope: MessageEnvelope, now_ms: int) -> Delay | None:
    """The next part of a delay that is not over yet, or None when the message may be handled."""
    if envelope.due_ms is None or envelope.due_ms <= now_ms:
        return None
    return Delay(next_step((envelope.due_ms - now_ms) / 1000), envelope)


def decide(envelope: MessageEnvelope, verdict: Verdict, policy: RetryPolicy, *, queue: str, now_ms: int) -> Outcome:
    """The outcome of `verdict` on a delivery of `envelope` from `queue`."""
    match verdict:
        case Ack():
            return _FORGET
        case DeadLetter():
            return _bury(envelope, verdict, queue, now_ms)
        case Retry(counted=False):
            if envelope.handbacks >= policy.max_handbacks:
                reason = f"handed back {envelope.handbacks} times without being handled: {verdict.reason}"
                return _bury(envelope, _give_up(verdict, reason), queue, now_ms)
            wait = policy.delays[0] if verdict.after is None else verdict.after
            return _delay(envelope.replace(handbacks=envelope.handbacks + 1), wait, now_ms)
        case Retry():
            history = append_history(envelope.history, history_line(envelope.attempt, verdict, now_ms))
            if envelope.attempt >= policy.max_attempts:
                reason = f"gave up after {envelope.attempt} attempts: {verdict.reason or verdict.error_type}"
                return _bury(envelope.replace(history=history), _give_up(verdict, reason), queue, now_ms)
            wait = policy.delay_after(envelope.attempt) if verdict.after is None else verdict.after
            return _delay(envelope.replace(attempt=envelope.attempt + 1, history=history), wait, now_ms)


def sent_on(letter: Letter, *, now_ms: int, body: bytes | None = None) -> MessageEnvelope:
    """The message of a dead letter as it starts anew: same id, first attempt, no history, mended if a body is given.

    A deadline moves by the time the letter lay dead: who sends it on wants it handled, not answered as expired.
    """
    envelope = letter.envelope
    deadline = envelope.deadline_ms
    return envelope.replace(
        body=envelope.body if body is None else body,
        attempt=1,
        handbacks=0,
        due_ms=None,
        history=(),
        redelivered=False,
        deadline_ms=None if deadline is None else deadline + max(0, now_ms - letter.failure.at_ms),
    )


def history_line(attempt: int, verdict: Retry, now_ms: int) -> str:
    """One failed attempt in one line of at most 300 characters."""
    at = datetime.fromtimestamp(now_ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    what = ": ".join(part for part in (verdict.error_type, " ".join(verdict.reason.split())) if part)
    return f"{at} attempt {attempt} {what}"[:300]


def _give_up(verdict: Retry, reason: str) -> DeadLetter:
    return DeadLetter(reason=reason, error_type=verdict.error_type, traceback=verdict.traceback)


def _delay(envelope: MessageEnvelope, wait: float, now_ms: int) -> Delay:
    wait = min(wait, LONGEST_DELAY) if math.isfinite(wait) else wait
    return Delay(next_step(wait), envelope.replace(due_ms=now_ms + math.ceil(wait * 1000)))


def _bury(envelope: MessageEnvelope, verdict: DeadLetter, queue: str, now_ms: int) -> Bury:
    failure = Failure(
        reason=verdict.reason,
        queue=queue,
        topic=envelope.topic,
        at_ms=now_ms,
        attempt=envelope.attempt,
        error_type=verdict.error_type,
        traceback=verdict.traceback,
        history=envelope.history,
    )
    return Bury(envelope, failure)
