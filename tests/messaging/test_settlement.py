"""Retry arithmetic and settlement: never early, never endless, never without a trace."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.letters import HISTORY_EDGE, append_history
from rockbot_messaging.retries import DELAY_STEPS, RetryPolicy, next_step
from rockbot_messaging.settlement import LONGEST_DELAY, Bury, Delay, Forget, decide, still_waiting
from rockbot_messaging.verdicts import Ack, DeadLetter, Retry, Verdict

_MESSAGE = MessageEnvelope(topic="job.one", body=b"x", message_id="m-1", type="t")
_WAIT = st.integers(0, 20_000_000).map(lambda ms: ms / 1000)
_POLICY = st.builds(
    RetryPolicy,
    max_attempts=st.integers(1, 12),
    delays=st.lists(_WAIT, min_size=1, max_size=4).map(tuple),
    max_handbacks=st.integers(0, 12),
)
_NOW = st.integers(0, 4_000_000_000_000)


@given(st.floats(0, 100_000))
def test_a_step_fits_into_what_is_left_or_is_the_smallest(remaining: float) -> None:
    step = next_step(remaining)
    assert step in (0, *DELAY_STEPS)
    assert (step == 0) == (remaining == 0)
    assert step <= remaining or step == DELAY_STEPS[0]
    assert not [larger for larger in DELAY_STEPS if step < larger <= remaining]


@given(_WAIT, _NOW)
def test_a_walked_delay_is_never_early_and_less_than_the_smallest_step_late(wait: float, now_ms: int) -> None:
    outcome = decide(_MESSAGE, Retry(after=wait), RetryPolicy(), queue="q", now_ms=now_ms)
    assert isinstance(outcome, Delay)
    assert outcome.envelope.attempt == 2
    at_ms, walks = now_ms, 0
    part: Delay | None = outcome
    while part is not None:
        at_ms += part.step * 1000
        walks += 1
        part = still_waiting(part.envelope, at_ms)
    assert at_ms - now_ms >= wait * 1000
    assert at_ms - now_ms < wait * 1000 + DELAY_STEPS[0] * 1000 + 1
    assert wait or at_ms == now_ms
    assert walks <= 5 + 4 + 5 + 3 + 5 + wait // 3600 + 1


def test_a_message_is_not_waiting_at_the_instant_it_is_due() -> None:
    assert still_waiting(_MESSAGE.replace(due_ms=1000), 1000) is None
    assert still_waiting(_MESSAGE.replace(due_ms=1000), 999) == Delay(1, _MESSAGE.replace(due_ms=1000))
    assert still_waiting(_MESSAGE, 0) is None


@given(_POLICY, st.lists(st.tuples(st.booleans(), st.none() | _WAIT), min_size=1, max_size=30))
def test_a_message_that_always_fails_is_dead_after_a_bounded_number_of_deliveries(
    policy: RetryPolicy, verdicts: list[tuple[bool, float | None]]
) -> None:
    envelope, now_ms, deliveries, counted_deliveries = _MESSAGE, 0, 0, 0
    while True:
        counted, after = verdicts[deliveries % len(verdicts)]
        deliveries += 1
        counted_deliveries += counted
        outcome = decide(envelope, Retry(after=after, counted=counted, reason="no"), policy, queue="q", now_ms=now_ms)
        if isinstance(outcome, Bury):
            break
        assert isinstance(outcome, Delay)
        envelope = outcome.envelope
        assert (envelope.due_ms or now_ms) >= now_ms
        assert counted or (envelope.due_ms or 0) >= now_ms + 1000
        now_ms = max(envelope.due_ms or 0, now_ms + outcome.step * 1000)
        assert (envelope.message_id, envelope.topic, envelope.body) == ("m-1", "job.one", b"x")
    assert deliveries <= policy.max_attempts + policy.max_handbacks
    assert counted_deliveries <= policy.max_attempts
    assert outcome.failure.topic == "job.one"
    assert outcome.failure.queue == "q"
    assert "no" in outcome.failure.reason
    assert len(outcome.failure.history) == min(counted_deliveries, 2 * HISTORY_EDGE + 1)


@given(_POLICY, st.integers(1, 12))
def test_without_an_explicit_wait_the_policy_says_how_long(policy: RetryPolicy, attempt: int) -> None:
    outcome = decide(_MESSAGE.replace(attempt=attempt), Retry(), policy, queue="q", now_ms=0)
    if attempt >= policy.max_attempts:
        assert isinstance(outcome, Bury)
    else:
        assert isinstance(outcome, Delay)
        expected = policy.delays[attempt - 1] if attempt <= len(policy.delays) else policy.delays[-1]
        assert expected * 1000 <= (outcome.envelope.due_ms or 0) <= expected * 1000 + 1


@given(_NOW)
def test_handing_back_changes_the_count_of_hand_backs_alone(now_ms: int) -> None:
    outcome = decide(_MESSAGE, Retry(counted=False, after=1), RetryPolicy(), queue="q", now_ms=now_ms)
    assert outcome == Delay(1, _MESSAGE.replace(handbacks=1, due_ms=now_ms + 1000, first_failed_ms=now_ms))


def test_an_acknowledged_message_leaves_nothing() -> None:
    assert decide(_MESSAGE, Ack(), RetryPolicy(), queue="q", now_ms=1) == Forget()


def test_a_dead_letter_carries_what_is_known() -> None:
    dead = _MESSAGE.replace(attempt=4, history=("a", "b"))
    verdict = DeadLetter(reason="why", error_type="E", traceback="t")
    outcome = decide(dead, verdict, RetryPolicy(), queue="q", now_ms=9)
    assert isinstance(outcome, Bury)
    assert outcome.envelope == dead
    failure = outcome.failure
    assert (failure.reason, failure.error_type, failure.traceback) == ("why", "E", "t")
    assert (failure.attempt, failure.history, failure.at_ms) == (4, ("a", "b"), 9)


@given(st.text(max_size=2000), st.text(max_size=40))
def test_a_history_line_is_one_line_of_bounded_size(reason: str, error_type: str) -> None:
    verdict: Verdict = Retry(reason=reason, error_type=error_type.replace("\n", ""))
    outcome = decide(_MESSAGE, verdict, RetryPolicy(), queue="q", now_ms=1_767_225_600_000)
    assert isinstance(outcome, Delay)
    (line,) = outcome.envelope.history
    assert len(line.encode()) <= 300
    assert "\n" not in line
    assert line.startswith("2026-01-01T00:00:00Z attempt 1")


@given(st.integers(0, 100))
def test_a_history_keeps_both_ends_and_counts_what_lies_between(count: int) -> None:
    history: tuple[str, ...] = ()
    lines = [f"line {number}" for number in range(count)]
    for line in lines:
        history = append_history(history, line)
    if count <= 2 * HISTORY_EDGE:
        assert list(history) == lines
    else:
        between = f"... {count - 2 * HISTORY_EDGE} more"
        assert list(history) == [*lines[:HISTORY_EDGE], between, *lines[-HISTORY_EDGE:]]


@pytest.mark.parametrize(
    "wrong", [{"max_attempts": 0}, {"delays": ()}, {"delays": (1, -1)}, {"max_handbacks": -1}], ids=str
)
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="retry policy"):
        RetryPolicy(**wrong)


def test_an_absurd_wait_is_cut_to_what_a_broker_can_store() -> None:
    outcome = decide(_MESSAGE, Retry(after=1e300), RetryPolicy(), queue="q", now_ms=0)
    assert isinstance(outcome, Delay)
    assert outcome.envelope.due_ms == LONGEST_DELAY * 1000
