"""Envelopes and AMQP property lists: there and back, and whatever strangers send."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands
from pamqp import decode as oracle_decode
from pamqp import encode as oracle_encode

from rockbot_messaging import Failure, MessageEnvelope, ReturnAddress
from rockbot_messaging.clock import RandomIds
from rockbot_messaging.errors import Undecodable
from rockbot_messaging.rabbitmq.cloudevents import read_structured
from rockbot_messaging.rabbitmq.failures import failure_headers, read_failure
from rockbot_messaging.rabbitmq.fields import (
    Properties,
    decode_properties,
    decode_table,
    encode_properties,
    encode_table,
)
from rockbot_messaging.rabbitmq.wire import ContentIds, Delivery, to_properties
from rockbot_messaging.rabbitmq.wire import decode as read

_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=30)
_SCALAR = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=50)
)
_FREE = st.dictionaries(
    _TEXT.filter(lambda name: not name.startswith(("x-", "rockbot-", "cloudEvents")) and name not in
                 ("CC", "BCC", "traceparent", "tracestate")), _SCALAR, max_size=5
)  # fmt: skip
_WORD = st.from_regex(r"[A-Za-z0-9_-]{1,20}", fullmatch=True)
_SOME = st.none() | _TEXT

_ENVELOPES = st.builds(
    MessageEnvelope,
    topic=_WORD,
    body=st.binary(max_size=200),
    message_id=_TEXT,
    type=st.text(max_size=30),
    source=st.text(max_size=30),
    timestamp_ms=st.integers(0, 4_000_000_000).map(lambda seconds: seconds * 1000),
    content_type=_TEXT,
    tenant=_TEXT,
    schema_version=st.integers(0, 100),
    correlation_id=_SOME,
    reply_to=_SOME,
    destination=_SOME,
    causation_id=_SOME,
    conversation_id=_SOME,
    root_task_id=_SOME,
    deadline_ms=st.none() | st.integers(0, 2**60),
    attempt=st.integers(1, 1000),
    handbacks=st.integers(0, 1000),
    due_ms=st.none() | st.integers(0, 2**60),
    return_address=st.none() | st.builds(ReturnAddress, topic=_WORD, token=st.text(max_size=50)),
    user_id=st.none(),
    traceparent=_SOME,
    tracestate=_SOME,
    durable=st.booleans(),
    history=st.lists(st.from_regex(r"[a-z :]{1,50}", fullmatch=True), max_size=4).map(tuple),
    headers=_FREE,
)


def _delivery(properties: bytes, body: bytes = b"", *, exchange: str = "ns", key: str = "job.one") -> Delivery:
    return Delivery(1, exchange, key, properties, body, redelivered=False)


@given(_ENVELOPES, st.booleans())
def test_an_envelope_comes_back_as_it_was_sent(envelope: MessageEnvelope, by_queue: bool) -> None:
    raw = encode_properties(to_properties(envelope, user=None, by_queue=by_queue))
    where = {"exchange": "", "key": "ns.work"} if by_queue else {"exchange": "ns", "key": envelope.topic}
    back = read(_delivery(raw, envelope.body, **where), RandomIds(), own_user=None)
    assert back == envelope.replace(headers=back.headers)
    assert dict(back.headers) == dict(envelope.headers)


@given(_ENVELOPES)
def test_the_client_library_reads_what_we_write(envelope: MessageEnvelope) -> None:
    raw = encode_properties(to_properties(envelope, user="someone"))
    theirs = commands.Basic.Properties()
    theirs.unmarshal(int.from_bytes(raw[:2], "big"), raw[2:])
    assert (theirs.message_id, theirs.user_id) == (envelope.message_id, "someone")
    assert theirs.headers is not None and theirs.headers["rockbot-tenant"] == envelope.tenant
    assert {name: theirs.headers[name] for name in envelope.headers} == dict(envelope.headers)


_VALUE: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, width=32)
    | st.text(max_size=20) | st.binary(max_size=20).map(bytearray)
    | st.integers(0, 4_000_000_000).map(lambda seconds: datetime.datetime.fromtimestamp(seconds, datetime.UTC)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, datetime.datetime):
        return int(value.timestamp())
    return bytes(value) if isinstance(value, bytearray) else value


@given(st.dictionaries(_TEXT, _VALUE, max_size=6))
def test_we_read_every_table_that_the_client_library_writes(table: dict[str, Any]) -> None:
    assert decode_table(oracle_encode.field_table(table)[4:]) == _plain(table)


@given(st.dictionaries(_TEXT, _SCALAR, max_size=6))
def test_the_client_library_reads_every_table_that_we_write(table: dict[str, Any]) -> None:
    raw = encode_table(table)
    assert oracle_decode.field_table(len(raw).to_bytes(4, "big") + raw)[1] == table


_OURS = ("schema", "tenant", "topic", "user", "destination", "causation-id", "conversation-id", "root-task-id", "deadline",
         "attempt", "handbacks", "due", "return-topic", "return-token", "history", "failure-reason")  # fmt: skip
_GARBAGE = st.dictionaries(
    st.sampled_from([*(f"rockbot-{name}" for name in _OURS), "traceparent", "tracestate", "x-death", "CC",
                     "cloudEvents_type", "cloudEvents:time", "cloudEvents_id"]), _VALUE
)  # fmt: skip


@given(_GARBAGE, st.binary(max_size=20), st.none() | _TEXT)
def test_headers_of_any_type_are_read_or_ignored(table: dict[str, Any], body: bytes, message_id: str | None) -> None:
    properties = commands.Basic.Properties(headers=table, message_id=message_id)
    raw = properties.marshal()
    envelope = read(_delivery(raw, body), RandomIds(), own_user="me")
    assert (envelope.topic, envelope.body) == ("job.one", body)
    assert envelope.attempt >= 1 and envelope.handbacks >= 0 and envelope.tenant and envelope.message_id
    for name in ("tenant", "topic", "type", "source", "content_type", "message_id"):
        assert isinstance(getattr(envelope, name), str)
    # Whatever was read can be passed on.
    encode_properties(to_properties(envelope, user="me", by_queue=True, passed_on=True))
    failure = read_failure(decode_properties(raw), queue="q", topic="job.one", timestamp_ms=0)
    assert isinstance(failure.reason, str)


@given(st.binary(max_size=60), st.binary(max_size=10))
def test_any_bytes_are_an_envelope_or_undecodable(raw: bytes, body: bytes) -> None:
    try:
        envelope = read(_delivery(raw, body), RandomIds(), own_user=None)
    except Undecodable:
        return
    encode_properties(to_properties(envelope, user=None, by_queue=True, passed_on=True))


@given(st.binary(max_size=80))
def test_any_cloud_event_body_is_an_event_or_undecodable(body: bytes) -> None:
    try:
        event = read_structured("application/cloudevents+json", body)
    except Undecodable:
        return
    assert event is not None


@pytest.mark.parametrize("name", ["id", "source", "type"])
def test_an_event_whose_ids_no_other_id_can_be_made_of_is_undecodable(name: str) -> None:
    with pytest.raises(Undecodable, match=name):
        read_structured("application/cloudevents+json", f'{{"{name}": "a\\ud800"}}'.encode())


def test_a_foreign_message_has_the_same_identity_every_time() -> None:
    def identity(**fields: Any) -> str:
        return read(_delivery(encode_properties(Properties(**fields)), b"body"), RandomIds(), own_user=None).message_id

    assert identity(message_id="7") == identity(message_id="7") != identity(message_id="8")
    assert identity(message_id="7", app_id="a") != identity(message_id="7", app_id="b")
    assert identity(message_id="7", user_id="a", app_id="x") == identity(message_id="7", user_id="a", app_id="y")
    assert identity(reply_to="q", correlation_id="1") == identity(reply_to="q", correlation_id="1")
    assert identity(reply_to="q", correlation_id="1") != identity(reply_to="q", correlation_id="2")
    assert identity() != identity()


def test_the_id_that_a_publisher_gave_stays_with_its_message() -> None:
    raw = encode_properties(Properties(message_id="order-7", headers={"rockbot-foreign-id": "a lie"}))
    came = read(_delivery(raw), RandomIds(), own_user=None)
    assert came.foreign_id == "order-7" != came.message_id
    kept = encode_properties(to_properties(came, user="me", by_queue=True, passed_on=True))
    again = read(_delivery(kept, exchange="", key="ns.work"), RandomIds(), own_user="me")
    assert (again.message_id, again.foreign_id) == (came.message_id, "order-7")
    anonymous = encode_properties(Properties(headers={"rockbot-foreign-id": "a lie"}))
    assert read(_delivery(anonymous), RandomIds(), own_user=None).foreign_id is None


def test_a_letter_without_identity_has_an_id_that_deliveries_do_not_change() -> None:
    first = encode_properties(Properties(content_type="a/b", headers={"h": 1}))
    again = encode_properties(Properties(content_type="a/b", headers={"h": 1, "x-delivery-count": 3}))
    assert ContentIds(_delivery(first, b"x")).new_id() == ContentIds(_delivery(again, b"x")).new_id()
    assert ContentIds(_delivery(first, b"x")).new_id() != ContentIds(_delivery(first, b"y")).new_id()


def test_the_identity_of_a_content_does_not_depend_on_the_order_of_its_headers() -> None:
    one, other = (
        encode_properties(Properties(headers=headers)) for headers in ({"b": 1, "a": "x"}, {"a": "x", "b": 1})
    )
    assert one != other
    assert ContentIds(_delivery(one)).new_id() == ContentIds(_delivery(other)).new_id()


@pytest.mark.parametrize("sent", [1_795_232_496, 1_795_232_496_000, 1_795_232_496_000_000, 1_795_232_496_000_000_000])
def test_a_timestamp_is_understood_by_its_size(sent: int) -> None:
    raw = encode_properties(Properties(timestamp=sent))
    assert read(_delivery(raw), RandomIds(), own_user=None).timestamp_ms == 1_795_232_496_000


def test_a_topic_header_counts_only_for_a_message_that_came_by_queue_name() -> None:
    raw = encode_properties(Properties(headers={"rockbot-origin-topic": "job.origin"}))
    assert read(_delivery(raw), RandomIds(), own_user=None).topic == "job.one"
    assert read(_delivery(raw, exchange="", key="ns.work"), RandomIds(), own_user=None).topic == "job.origin"


def test_nothing_of_an_earlier_delivery_is_written_again() -> None:
    envelope = MessageEnvelope(
        topic="t",
        body=b"",
        message_id="1",
        type="x",
        user_id="stranger",
        headers={"x-death": "1", "CC": "a", "kept": 1},
    )
    properties = to_properties(envelope, user="me", by_queue=True, passed_on=True)
    assert properties.expiration is None and properties.user_id == "me" and properties.delivery_mode == 2
    assert properties.headers is not None
    assert {name for name in properties.headers if not name.startswith("rockbot-")} == {"kept"}
    assert properties.headers["rockbot-user"] == "stranger"


@given(
    st.text(max_size=3000),
    st.text(max_size=60_000),
    st.lists(st.text(max_size=300), max_size=21),
    st.text(max_size=900),
)
def test_failure_headers_keep_to_their_budget(reason: str, trace: str, history: list[str], broker: str) -> None:
    failure = Failure(
        reason=reason, queue="q" * 255, topic="t" * 254, at_ms=1, traceback=trace, history=tuple(history), broker=broker
    )
    for budget in (4096, 32 * 1024):
        headers = failure_headers(failure, budget=budget, problem=reason)
        assert len(encode_table(headers)) <= budget


def test_a_short_failure_comes_back_as_it_was() -> None:
    failure = Failure(
        reason="käse", queue="ns.work", topic="job.one", at_ms=5, attempt=3, error_type="ValueError",
        traceback="a\nb", history=("one", "two"), broker="rejected in x",
    )  # fmt: skip
    raw = encode_properties(Properties(headers=failure_headers(failure, budget=32 * 1024)))
    assert read_failure(decode_properties(raw), queue="other", topic="other", timestamp_ms=0) == failure


def test_an_instant_beyond_64_bits_with_a_sign_is_as_if_it_were_not_there() -> None:
    name = b"rockbot-deadline"
    entry = bytes([len(name)]) + name + b"T" + b"\xff" * 8
    raw = b"\x20\x00" + len(entry).to_bytes(4, "big") + entry
    assert read(_delivery(raw), RandomIds(), own_user=None).deadline_ms is None


def test_a_trace_that_is_too_long_does_not_travel_on() -> None:
    headers = {"traceparent": "00-" + "a" * 32, "tracestate": "s" * 5000}
    envelope = read(_delivery(encode_properties(Properties(headers=headers))), RandomIds(), own_user=None)
    assert (envelope.traceparent, envelope.tracestate) == ("00-" + "a" * 32, None)


def test_a_foreign_message_may_say_its_version() -> None:
    raw = encode_properties(Properties(headers={"rockbot-schema-version": 99}))
    assert read(_delivery(raw), RandomIds(), own_user=None).schema_version == 99
