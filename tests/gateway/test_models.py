"""Results as data: any body can be told as text and comes back as it was."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rockbot.gateway.api import PublishRequest, request_limit
from rockbot.operators.faults import InvalidRequest
from rockbot.operators.models import Check, Diagnosis, LetterDetail, Pipeline, body_bytes, body_text
from rockbot_messaging import Failure, Letter, MessageEnvelope, WatchSubscription, WorkSubscription


@given(st.binary())
def test_a_body_told_as_text_comes_back_as_it_was(body: bytes) -> None:
    assert body_bytes(*body_text(body)) == body


@given(st.binary(max_size=2000))
def test_a_letter_keeps_its_body_over_json(body: bytes) -> None:
    letter = Letter(
        id="i",
        queue="q",
        envelope=MessageEnvelope(topic="a.b", body=body, message_id="i", type=""),
        failure=Failure(reason="r", queue="q", topic="a.b", at_ms=1),
    )
    told = LetterDetail.of(letter, "q")
    assert LetterDetail.model_validate_json(told.model_dump_json()).body_bytes == body


@given(st.integers(min_value=0, max_value=10**6))
def test_a_message_of_the_largest_size_fits_into_a_request(size: int) -> None:
    assert request_limit(size) >= 4 * -(-size // 3) + 1000


def test_what_is_no_base64_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="base64"):
        _ = PublishRequest(topic="a", body="*", body_encoding="base64").bytes


def test_a_pipeline_tells_what_is_consumed_and_what_is_only_addressed() -> None:
    work = WorkSubscription(name="a", patterns=("a.*",), prefetch=10, concurrency=3)
    other = WorkSubscription(name="b", patterns=("b",))
    watch = WatchSubscription(name="c", patterns=("c.#",))
    found = Pipeline.describe(
        chain=[], failures=[], subscriptions=[work, watch], addressed=[other, other, work], namespace="ns"
    )
    told = [(item.name, item.kind, item.consumed, item.dead_letters) for item in found.subscriptions]
    assert told == [("a", "work", True, "ns.a.dlq"), ("c", "watch", True, ""), ("b", "work", False, "ns.b.dlq")]
    assert found.subscriptions[0].concurrency == 3


def test_a_diagnosis_is_as_bad_as_its_worst_check() -> None:
    checks = [Check(name=status, status=status, detail="") for status in ("ok", "warn", "fail")]
    assert [Diagnosis(checks=tuple(checks[:count])).worst for count in range(4)] == ["ok", "ok", "warn", "fail"]
