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
from rockbot_messaging.retries import RetryPolicy, handback_wait, next_step, span
from rockbot_messaging.verdicts import Ack, DeadLetter, Retry, Verdict, failed_attempt

__all__ = ["LONGEST_DELAY", "Bury", "Delay", "Forget", "Outcome", "decide", "failing_for", "sent_on", "still_waiting"]


#: Seconds (ten years) that a delay is cut at: an instant beyond what a broker's integers carry could never be stored.
LONGEST_DELAY: Final = 10 * 365 * 86_400


@final
@dataclass(frozen=True, slots=True)
class Forget:
    """Acknowledge; nothing is left."""


@final
@dataclass(frozen=True, slots=True)
class Delay:
    """Store `envelope` in the delay queue of `step` seconds, then acknowledge.

    Step 0 is the end of its own work queue.
    """

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
        case Retry() if verdict.after is not None and not math.isfinite(verdict.after):
            wrong = ValueError(f"the verdict asks to wait for {verdict.after} seconds: {verdict.reason}")
            return _again(envelope, failed_attempt(wrong), policy, queue, now_ms)
        case Retry(counted=False):
            return _hand_back(envelope, verdict, policy, queue, now_ms)
        case Retry():
            return _again(envelope, verdict, policy, queue, now_ms)


def _again(envelope: MessageEnvelope, verdict: Retry, policy: RetryPolicy, queue: str, now_ms: int) -> Outcome:
    """A counted failure: attempts and age are bounded, how long it waits is the verdict's or else the policy's to say."""
    terms = policy.terms(verdict.error_type, verdict.error_bases)
    attempt = envelope.attempt
    # What a first failure finds on the clock is the age of hand-backs, which is not its own.
    age = failing_for(envelope, now_ms) if attempt > 1 else 0
    envelope = envelope.replace(
        first_failed_ms=_first_failure(envelope, now_ms),
        history=append_history(envelope.history, history_line(attempt, verdict, now_ms)),
    )
    wait = terms.backoff.delay(attempt, envelope.message_id)
    bound = ""
    if wait is None:
        bound = f"the policy retries no {verdict.error_type or 'failure'}"
    elif attempt >= terms.max_attempts:
        bound = f"gave up after {attempt} attempt{'s' * (attempt > 1)}"
    elif terms.max_age is not None and age >= terms.max_age:
        bound = f"gave up after {attempt} attempts, {span(round(age))} after the first failure (limit {span(terms.max_age)})"
    if wait is None or bound:
        return _bury(envelope, _give_up(verdict, f"{bound}: {verdict.reason or verdict.error_type}"), queue, now_ms)
    return _delay(envelope.replace(attempt=attempt + 1), wait if verdict.after is None else verdict.after, now_ms)


def _hand_back(envelope: MessageEnvelope, verdict: Retry, policy: RetryPolicy, queue: str, now_ms: int) -> Outcome:
    """A return that costs no attempt: bounded by its own count and age, and never at once."""
    handbacks, age = envelope.handbacks, failing_for(envelope, now_ms)
    bound = ""
    if handbacks >= policy.max_handbacks:
        bound = f"handed back {handbacks} times without being handled"
    elif age >= policy.max_handback_age:
        bound = f"handed back for {span(round(age))} without being handled (limit {span(policy.max_handback_age)})"
    envelope = envelope.replace(first_failed_ms=_first_failure(envelope, now_ms))
    if bound:
        return _bury(envelope, _give_up(verdict, f"{bound}: {verdict.reason or verdict.error_type}"), queue, now_ms)
    return _delay(envelope.replace(handbacks=handbacks + 1), handback_wait(verdict.after, handbacks), now_ms)


def failing_for(envelope: MessageEnvelope, now_ms: int) -> float:
    """Seconds since its first failure or hand-back; 0 before that. What is sent on starts anew."""
    return (now_ms - _first_failure(envelope, now_ms)) / 1000


def _first_failure(envelope: MessageEnvelope, now_ms: int) -> int:
    """When its failures began. An instant to come was noted by another clock, or by a sender who may write anything."""
    return now_ms if envelope.first_failed_ms is None else min(envelope.first_failed_ms, now_ms)


def sent_on(letter: Letter, *, now_ms: int, body: bytes | None = None) -> MessageEnvelope:
    """The message of a dead letter as it starts anew: same id, first attempt, no history, mended if a body is given.

    A deadline moves by the time the letter lay dead: who sends it on wants it handled, not answered as expired.
    """
    envelope = letter.envelope
    deadline = envelope.deadline_ms
    if body is not None:
        # Claim and signature speak of the body that it had.
        envelope = envelope.replace(body=body, claim=None, signature=None)
    return envelope.replace(
        attempt=1,
        handbacks=0,
        due_ms=None,
        first_failed_ms=None,
        history=(),
        redelivered=False,
        returns=0,
        deadline_ms=None if deadline is None else deadline + max(0, now_ms - letter.failure.at_ms),
    )


def history_line(attempt: int, verdict: Retry, now_ms: int) -> str:
    """One failed attempt in one line of at most 300 bytes."""
    at = datetime.fromtimestamp(now_ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    what = ": ".join(part for part in (verdict.error_type, " ".join(verdict.reason.split())) if part)
    line = f"{at} attempt {attempt} {what}".encode("utf-8", "backslashreplace")
    return line[:300].decode("utf-8", "ignore")


def _give_up(verdict: Retry, reason: str) -> DeadLetter:
    return DeadLetter(
        reason=reason, error_type=verdict.error_type, traceback=verdict.traceback, handler=verdict.handler
    )


def _delay(envelope: MessageEnvelope, wait: float, now_ms: int) -> Delay:
    wait = min(wait, LONGEST_DELAY)
    # What waits for nothing is due on whatever clock it comes to.
    due_ms = now_ms + math.ceil(wait * 1000) if wait > 0 else None
    return Delay(next_step(wait), envelope.replace(due_ms=due_ms))


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
        handler=verdict.handler,
    )
    return Bury(envelope, failure)
