"""The whole policy: what an error's class, its count and its age lead to, and that no policy and no verdict goes on for ever."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rockbot_messaging.envelope import MessageEnvelope, ReturnAddress
from rockbot_messaging.notices import stall_notice
from rockbot_messaging.retries import (
    Backoff,
    Exponential,
    Fixed,
    Immediate,
    NoRetry,
    RetryPolicy,
    RetryRule,
    Steps,
    next_step,
    span,
)
from rockbot_messaging.settlement import Bury, Delay, Outcome, decide, still_waiting
from rockbot_messaging.verdicts import Retry, failed_attempt

_MESSAGE = MessageEnvelope(topic="job.one", body=b"x", message_id="m-1", type="t")
_SECONDS = st.integers(0, 7_000_000).map(lambda ms: ms / 1000)
_BACKOFF: st.SearchStrategy[Backoff] = st.one_of(
    st.just(NoRetry()),
    st.just(Immediate()),
    st.builds(Fixed, _SECONDS),
    st.builds(Steps, st.lists(_SECONDS, min_size=1, max_size=4).map(tuple)),
    st.builds(Exponential, _SECONDS, st.floats(1, 100), _SECONDS, st.booleans()),
)
_CLASSES = ("ValueError", "KeyError", "LookupError", "Exception", "")
_AGE = st.none() | st.integers(1, 10_000).map(float)
_RULE = st.builds(
    RetryRule,
    errors=st.lists(st.sampled_from(_CLASSES[:4]), min_size=1, max_size=2).map(tuple),
    backoff=st.none() | _BACKOFF,
    max_attempts=st.none() | st.integers(1, 8),
    max_age=_AGE,
)
_POLICY = st.builds(
    RetryPolicy,
    max_attempts=st.integers(1, 8),
    delays=st.lists(_SECONDS, min_size=1, max_size=3).map(tuple),
    backoff=st.none() | _BACKOFF,
    max_age=_AGE,
    rules=st.lists(_RULE, max_size=3).map(tuple),
    max_handbacks=st.integers(0, 8),
    max_handback_age=st.integers(1, 100_000).map(float),
)
_VERDICT = st.builds(
    Retry,
    after=st.none() | _SECONDS,
    reason=st.just("because"),
    counted=st.booleans(),
    error_type=st.sampled_from(_CLASSES),
    error_bases=st.sampled_from([(), ("LookupError", "Exception"), ("Exception",)]),
)


def _decide(verdict: Retry, policy: RetryPolicy, *, now_ms: int = 0, **fields: Any) -> Outcome:
    return decide(_MESSAGE.replace(**fields), verdict, policy, queue="q", now_ms=now_ms)


def _wait(outcome: Outcome) -> float:
    """Seconds from instant 0 until the message may be handled again."""
    assert isinstance(outcome, Delay)
    return (outcome.envelope.due_ms or 0) / 1000


def _most_attempts(policy: RetryPolicy) -> int:
    return max(policy.max_attempts, *(rule.max_attempts or 0 for rule in policy.rules), 0)


@given(_POLICY, st.lists(st.tuples(_VERDICT, st.booleans()), min_size=1, max_size=20))
def test_whatever_fails_and_however_it_ends_in_a_bounded_number_of_deliveries(
    policy: RetryPolicy, story: list[tuple[Retry, bool]]
) -> None:
    envelope, now_ms, counted, returned = _MESSAGE, 1_000_000, 0, 0
    outcome: Outcome | None = None
    for number in range(100):
        verdict, redelivered = story[number % len(story)]
        # A delivery that ended unsettled comes again as it was: nothing of it may have counted.
        envelope = envelope.replace(redelivered=redelivered)
        assert still_waiting(envelope, now_ms) is None
        outcome = decide(envelope, verdict, policy, queue="q", now_ms=now_ms)
        counted += verdict.counted
        returned += not verdict.counted
        if isinstance(outcome, Bury):
            break
        assert isinstance(outcome, Delay)
        begun_ms, part = now_ms, outcome
        if verdict.after is not None:
            assert (outcome.envelope.due_ms or begun_ms) >= begun_ms + verdict.after * 1000
        if not verdict.counted:
            assert outcome.step >= 1
        for _ in range(50):
            assert part.step == 0 or part.envelope.due_ms is not None
            now_ms += part.step * 1000
            later = still_waiting(part.envelope, now_ms)
            if later is None:
                break
            part = later
        else:
            raise AssertionError("the delay does not end")
        due_ms = part.envelope.due_ms or begun_ms
        assert due_ms <= now_ms < due_ms + 1001
        envelope = part.envelope
        assert envelope.first_failed_ms is not None
        assert (envelope.attempt, envelope.handbacks) == (1 + counted, returned)
    assert isinstance(outcome, Bury)
    assert counted + returned <= _most_attempts(policy) + policy.max_handbacks
    assert counted <= _most_attempts(policy)
    assert returned <= policy.max_handbacks + 1
    assert outcome.failure.attempt <= _most_attempts(policy)
    assert "because" in outcome.failure.reason
    assert outcome.failure.reason.startswith(("gave up after", "handed back", "the policy retries no"))


@given(st.builds(Exponential, _SECONDS, st.floats(1, 100), _SECONDS), st.integers(1, 100), st.text(max_size=40))
def test_jitter_lies_between_nothing_and_the_wait_and_is_the_same_each_time(
    backoff: Exponential, attempt: int, seed: str
) -> None:
    full = Exponential(backoff.first, backoff.factor, backoff.longest, jitter=False).delay(attempt, seed)
    wait = backoff.delay(attempt, seed)
    assert full is not None and wait is not None
    assert 0 <= wait <= full <= backoff.longest
    assert backoff.delay(attempt, seed) == wait


def test_jitter_spreads_messages_that_failed_together() -> None:
    waits = [Exponential(100, 1, 100).delay(1, f"m-{number}") or 0 for number in range(1000)]
    assert 40 < sum(waits) / len(waits) < 60
    assert min(waits) < 5 and max(waits) > 95


def test_an_exponential_wait_grows_to_its_bound_whatever_the_numbers() -> None:
    backoff = Exponential(1, 2, 60, jitter=False)
    assert [backoff.delay(attempt, "") for attempt in range(1, 9)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert Exponential(1, 1e300, 60, jitter=False).delay(2**40, "") == 60


@pytest.mark.parametrize(
    ("backoff", "waits"),
    [
        (Immediate(), [0, 0, 0]),
        (Fixed(7), [7, 7, 7]),
        (Steps((1, 30)), [1, 30, 30]),
        (Exponential(2, 3, 10, jitter=False), [2, 6, 10]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_kind_of_backoff_says_how_long(backoff: Backoff, waits: list[float]) -> None:
    policy = RetryPolicy(max_attempts=9, backoff=backoff)
    assert [_wait(_decide(Retry(), policy, attempt=attempt)) for attempt in (1, 2, 3)] == waits


def test_an_immediate_retry_goes_straight_back_to_its_queue_until_its_attempts_are_used() -> None:
    policy = RetryPolicy(max_attempts=3, backoff=Immediate())
    outcome = _decide(Retry(), policy, now_ms=5)
    assert isinstance(outcome, Delay)
    assert (outcome.step, outcome.envelope.due_ms, outcome.envelope.attempt) == (0, None, 2)
    assert isinstance(_decide(Retry(), policy, attempt=3), Bury)


def test_no_retry_means_that_the_first_failure_is_the_last_whatever_wait_it_asks_for() -> None:
    outcome = _decide(Retry(after=5, error_type="ValueError", reason="no"), RetryPolicy(backoff=NoRetry()))
    assert isinstance(outcome, Bury)
    assert outcome.failure.reason == "the policy retries no ValueError: no"


_RULES = RetryPolicy(
    max_attempts=5,
    delays=(1,),
    rules=(
        RetryRule(errors=("KeyError",), backoff=NoRetry()),
        RetryRule(errors=("LookupError", "OSError"), backoff=Fixed(30), max_attempts=2),
        RetryRule(errors=("Exception",), max_age=60),
    ),
)


@pytest.mark.parametrize(
    ("error", "attempt", "waits"),
    [
        (KeyError("k"), 1, None),
        (IndexError("i"), 1, 30),
        (IndexError("i"), 2, None),
        (ConnectionResetError("r"), 1, 30),
        (ValueError("v"), 4, 1),
        (ValueError("v"), 5, None),
    ],
    ids=repr,
)
def test_the_first_rule_that_covers_the_error_or_a_base_of_it_decides(
    error: Exception, attempt: int, waits: float | None
) -> None:
    outcome = _decide(failed_attempt(error), _RULES, attempt=attempt)
    if waits is None:
        assert isinstance(outcome, Bury)
        assert (outcome.failure.error_type, bool(outcome.failure.traceback)) == (type(error).__name__, True)
    else:
        assert _wait(outcome) == waits


def test_what_a_rule_leaves_open_is_as_in_the_policy() -> None:
    policy = RetryPolicy(max_attempts=2, delays=(9,), max_age=50, rules=(RetryRule(errors=("E",), max_attempts=4),))
    assert _wait(_decide(Retry(error_type="E"), policy, attempt=3)) == 9
    assert isinstance(_decide(Retry(error_type="F"), policy, attempt=3), Bury)
    aged = {"attempt": 2, "first_failed_ms": 0, "now_ms": 50_000}
    assert isinstance(_decide(Retry(error_type="E"), policy, **aged), Bury)


def test_a_failure_after_the_age_of_the_policy_is_the_last_and_says_so() -> None:
    policy = RetryPolicy(max_attempts=100, max_age=3600)
    young = {"attempt": 7, "first_failed_ms": 1000, "now_ms": 3_600_999}
    assert isinstance(_decide(Retry(), policy, **young), Delay)
    outcome = _decide(Retry(reason="down"), policy, attempt=7, first_failed_ms=1000, now_ms=3_601_000)
    assert isinstance(outcome, Bury)
    assert outcome.failure.reason == "gave up after 7 attempts, 1 h after the first failure (limit 1 h): down"


def test_time_spent_in_hand_backs_does_not_make_a_first_failure_the_last() -> None:
    outcome = _decide(Retry(), RetryPolicy(max_age=60), handbacks=9, first_failed_ms=0, now_ms=10_000_000)
    assert isinstance(outcome, Delay)


def test_the_instant_of_the_first_failure_is_noted_once_and_never_lies_in_the_future() -> None:
    for verdict in (Retry(), Retry(counted=False)):
        first = _decide(verdict, RetryPolicy(), now_ms=7000)
        assert isinstance(first, Delay) and first.envelope.first_failed_ms == 7000
        second = _decide(verdict, RetryPolicy(), now_ms=9000, first_failed_ms=7000)
        assert isinstance(second, Delay) and second.envelope.first_failed_ms == 7000
        odd = _decide(verdict, RetryPolicy(), now_ms=9000, first_failed_ms=2**62)
        assert isinstance(odd, Delay) and odd.envelope.first_failed_ms == 9000


@pytest.mark.parametrize("after", [0, 0.5, -3])
@pytest.mark.parametrize("backoff", [None, Immediate(), NoRetry()])
def test_a_hand_back_waits_a_second_at_least(after: float, backoff: Backoff | None) -> None:
    policy = RetryPolicy(delays=(0,), backoff=backoff)
    assert _wait(_decide(Retry(after=after, counted=False), policy)) == 1
    waits = [_wait(_decide(Retry(counted=False), policy, handbacks=count)) for count in range(5)]
    assert waits == [1, 5, 30, 30, 30]


def test_hand_backs_are_bounded_by_count_and_by_age_and_say_which() -> None:
    policy = RetryPolicy(max_handbacks=3, max_handback_age=86_400)
    many = _decide(Retry(counted=False, reason="busy"), policy, handbacks=3, attempt=2)
    assert isinstance(many, Bury)
    assert many.failure.reason == "handed back 3 times without being handled: busy"
    assert (many.failure.attempt, many.failure.history) == (2, ())
    old = _decide(Retry(counted=False, reason="busy"), policy, handbacks=2, first_failed_ms=0, now_ms=86_400_000)
    assert isinstance(old, Bury)
    assert old.failure.reason == "handed back for 1 d without being handled (limit 1 d): busy"


@given(_SECONDS, _BACKOFF)
def test_an_explicit_wait_is_neither_shortened_nor_lengthened_by_a_backoff(after: float, backoff: Backoff) -> None:
    outcome = _decide(Retry(after=after), RetryPolicy(backoff=backoff))
    if not isinstance(backoff, NoRetry):
        assert after <= _wait(outcome) < after + 0.0011


@pytest.mark.parametrize("after", [float("inf"), float("nan"), float("-inf")])
@pytest.mark.parametrize("counted", [True, False])
def test_a_wait_that_is_no_number_of_seconds_is_a_failed_attempt(after: float, counted: bool) -> None:
    outcome = _decide(Retry(after=after, counted=counted), RetryPolicy())
    assert isinstance(outcome, Delay)
    assert outcome.envelope.attempt == 2
    assert "ValueError: the verdict asks to wait for" in outcome.envelope.history[0]


@given(_POLICY, _VERDICT, st.integers(1, 9), st.integers(0, 9), st.none() | st.integers(0, 10_000_000))
def test_who_waits_is_told_when_and_only_when_the_message_dies(
    policy: RetryPolicy, verdict: Retry, attempt: int, handbacks: int, first_ms: int | None
) -> None:
    envelope = _MESSAGE.replace(
        return_address=ReturnAddress("home", "t"), attempt=attempt, handbacks=handbacks, first_failed_ms=first_ms
    )
    outcome = decide(envelope, verdict, policy, queue="q", now_ms=20_000_000)
    notice = stall_notice(envelope, verdict, policy, subscription="q", source="s", now_ms=20_000_000)
    assert (notice is not None) == isinstance(outcome, Bury)


def test_an_error_is_told_with_its_bases_in_words_that_can_be_sent() -> None:
    class Odd(KeyError):
        def __str__(self) -> str:
            return "two\nlines \udcff"

    verdict = failed_attempt(Odd())
    assert verdict.error_bases == ("KeyError", "LookupError")
    assert (verdict.reason, verdict.error_type) == ("two lines \\udcff", "Odd")
    verdict.traceback.encode()

    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert failed_attempt(Mute()).error_type == "Mute"


def test_nothing_left_to_wait_is_no_step() -> None:
    assert (next_step(0), next_step(-1), next_step(0.001)) == (0, 0, 1)


def test_a_policy_describes_itself_as_a_table_and_in_one_line() -> None:
    plain = RetryPolicy(max_attempts=3, delays=(1, 2.5))
    assert plain.summary() == "3 attempts, after 1, 2.5 s; then a dead letter"
    assert plain.describe().splitlines() == [
        "errors | attempts | waits          | age",
        "any    | 3        | after 1, 2.5 s | no limit",
        "hand-backs: at most 1000, over at most 7 d",
    ]
    policy = RetryPolicy(
        backoff=Exponential(),
        max_age=7200,
        rules=(
            RetryRule(errors=("RateLimited", "Overloaded"), max_attempts=20),
            RetryRule(errors=("ValueError",), backoff=NoRetry()),
        ),
    )
    assert policy.describe().splitlines() == [
        "errors                  | attempts | waits                                             | age",
        "RateLimited, Overloaded | 20       | 1 s times 2 each time, at most 600 s, full jitter | 2 h",
        "ValueError              | 1        | -                                                 | 2 h",
        "any other               | 5        | 1 s times 2 each time, at most 600 s, full jitter | 2 h",
        "hand-backs: at most 1000, over at most 7 d",
    ]
    assert policy.summary() == (
        "5 attempts, 1 s times 2 each time, at most 600 s, full jitter, over at most 2 h; then a dead letter; "
        "2 rules for particular errors"
    )
    assert RetryPolicy(max_attempts=1).summary() == "1 attempt; then a dead letter"


def test_a_span_is_said_in_its_largest_unit() -> None:
    assert [span(seconds) for seconds in (0.5, 90, 120, 7200, 7 * 86_400)] == ["0.5 s", "90 s", "2 min", "2 h", "7 d"]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Fixed(-1),
        lambda: Steps(()),
        lambda: Exponential(factor=0.5),
        lambda: RetryRule(errors=()),
        lambda: RetryRule(errors=("E",), max_attempts=0),
        lambda: RetryPolicy(max_age=0),
        lambda: RetryPolicy(max_handback_age=float("inf")),
    ],
)
def test_a_backoff_or_a_rule_that_makes_no_sense_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"least|empty|above"):
        wrong()
