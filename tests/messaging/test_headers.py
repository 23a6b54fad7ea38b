"""The limit of headers: measured alike by all providers, and what is left of a message that is over it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rockbot_messaging.envelope import MessageEnvelope, ReturnAddress
from rockbot_messaging.headers import header_bytes, may_be_large, refusal, shrunk
from rockbot_messaging.rabbitmq.fields import Properties, encode_properties, header_sizes
from rockbot_messaging.rabbitmq.wire import ContentIds, Delivery, decode, to_properties, written_by_sender

_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=60)
_NAME = st.text("abcdefgh-ü", min_size=1, max_size=20)
_VALUE = st.one_of(_TEXT, st.integers(-(2**62), 2**62), st.booleans(), st.none(), st.floats(allow_nan=False))
_ENVELOPE = st.builds(
    MessageEnvelope,
    topic=st.just("job.one"),
    body=st.just(b""),
    message_id=_TEXT,
    type=st.text("abc", max_size=20),
    timestamp_ms=st.integers(1, 2**40),
    tenant=_TEXT,
    correlation_id=st.none() | _TEXT,
    reply_to=st.none() | _TEXT,
    conversation_id=st.none() | _TEXT,
    root_task_id=st.none() | _TEXT,
    claim=st.none() | _TEXT,
    deadline_ms=st.none() | st.integers(0, 2**40),
    return_address=st.none() | st.builds(ReturnAddress, st.just("home"), _TEXT),
    headers=st.dictionaries(_NAME, _VALUE, max_size=8),
)


def _delivery(envelope: MessageEnvelope) -> Delivery:
    raw = encode_properties(to_properties(envelope, user="guest"))
    return Delivery(1, "ns", envelope.topic, raw, envelope.body, redelivered=False)


@given(_ENVELOPE)
def test_what_is_measured_is_what_goes_over_the_wire(envelope: MessageEnvelope) -> None:
    assert abs(header_bytes(envelope) - len(_delivery(envelope).properties)) < 500


@given(_ENVELOPE)
def test_every_byte_of_a_header_table_belongs_to_one_header(envelope: MessageEnvelope) -> None:
    properties = to_properties(envelope, user="guest")
    bare = encode_properties(properties._replace(headers=None))
    sizes = header_sizes(encode_properties(properties))
    assert set(sizes) == set(properties.headers or {})
    assert len(bare) + 4 + sum(sizes.values()) == len(encode_properties(properties))
    assert header_sizes(bare) == {}


@given(_ENVELOPE, st.lists(st.text(max_size=300), max_size=25).map(tuple))
def test_what_retries_add_is_not_held_against_the_sender(envelope: MessageEnvelope, lines: tuple[str, ...]) -> None:
    plain, _ = written_by_sender(_delivery(envelope), envelope)
    lines = tuple(" ".join(line.split()).encode()[:300].decode("utf-8", "ignore") for line in lines)
    passed = envelope.replace(
        attempt=9, handbacks=7, due_ms=2**40, first_failed_ms=2**40, history=tuple(filter(None, lines))
    )
    raw = encode_properties(
        to_properties(passed, user="guest", by_queue=True, passed_on=True, extra={"x-death": "d" * 5000})
    )
    delivery = Delivery(1, "", "q", raw, b"", redelivered=True)
    assert written_by_sender(delivery, passed)[0] == plain


def test_headers_that_no_envelope_carries_count_and_are_named() -> None:
    raw = encode_properties(Properties(message_id="m", headers={"bytes": b"\xff" * 70_000, "kept": "k" * 2000}))
    delivery = Delivery(1, "ns", "job", raw, b"", redelivered=False)
    envelope = decode(delivery, ContentIds(delivery), own_user=None)
    size, unread = written_by_sender(delivery, envelope)
    assert size == len(raw)
    assert len(unread) == 1 and unread[0].startswith("bytes (70")


_WIDE = st.dictionaries(_NAME, st.text("xü", max_size=3000), min_size=1, max_size=12)


@given(_WIDE, st.integers(4096, 9000))
def test_what_is_left_fits_and_the_largest_go_first(headers: dict[str, str], limit: int) -> None:
    envelope = MessageEnvelope(topic="job", body=b"b", message_id="m", type="t", headers=headers)
    left, cut = shrunk(envelope, limit)
    assert header_bytes(left) <= limit
    assert (left.message_id, left.body) == ("m", b"b")
    changed = [name for name in headers if left.headers.get(name) != headers[name]]
    assert len(cut) == len(changed)
    sizes = {name: len((name + value).encode()) for name, value in headers.items()}
    assert all(sizes[one] >= sizes[other] for one in changed for other in headers if other not in changed)
    assert bool(cut) == (header_bytes(envelope) > limit)


@pytest.mark.parametrize(
    "fields",
    [
        {"conversation_id": "c" * 70_000},
        {"return_address": ReturnAddress("home", "t" * 70_000)},
        {"headers": {f"h{number}": number for number in range(9000)}},
        {"tracestate": "s" * 70_000, "headers": {"small": "s"}},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_whatever_is_too_large_is_left_out_and_named(fields: dict[str, Any]) -> None:
    envelope = MessageEnvelope(topic="job", body=b"b", message_id="m", type="t", **fields)
    assert may_be_large(envelope)
    left, cut = shrunk(envelope, 65_536)
    assert header_bytes(left) <= 65_536
    text = refusal(header_bytes(envelope), 65_536, cut).reason
    assert f"have {header_bytes(envelope)} bytes, this receiver takes at most 65536" in text
    assert cut[0] in text
    assert len(text) < 1000
