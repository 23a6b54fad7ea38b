"""Rows: what was packed is unpacked, what was not is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rockbot_messaging.envelope import MessageEnvelope, ReturnAddress
from rockbot_messaging.errors import Undecodable
from rockbot_messaging.packing import pack, unpack

_TEXT = st.text(max_size=30)
_MAYBE = st.none() | _TEXT
_NUMBER = st.integers(-(2**63), 2**63 - 1)
_HEADER = st.none() | _TEXT | _NUMBER | st.booleans() | st.floats(allow_nan=False)

_ENVELOPES = st.builds(
    MessageEnvelope,
    topic=_TEXT,
    body=st.binary(max_size=200),
    message_id=_TEXT,
    type=_TEXT,
    source=_TEXT,
    timestamp_ms=_NUMBER,
    content_type=_TEXT,
    tenant=_TEXT,
    schema_version=_NUMBER,
    correlation_id=_MAYBE,
    reply_to=_MAYBE,
    destination=_MAYBE,
    causation_id=_MAYBE,
    conversation_id=_MAYBE,
    root_task_id=_MAYBE,
    deadline_ms=st.none() | _NUMBER,
    attempt=_NUMBER,
    handbacks=_NUMBER,
    due_ms=st.none() | _NUMBER,
    return_address=st.none() | st.builds(ReturnAddress, _TEXT, _TEXT),
    user_id=_MAYBE,
    traceparent=_MAYBE,
    tracestate=_MAYBE,
    durable=st.booleans(),
    redelivered=st.booleans(),
    history=st.lists(_TEXT, max_size=4).map(tuple),
    headers=st.dictionaries(_TEXT, _HEADER, max_size=4),
)


@given(_ENVELOPES)
def test_an_envelope_comes_back_as_it_went(envelope: MessageEnvelope) -> None:
    back = unpack(pack(envelope))
    assert back == envelope
    assert [type(value) for value in back.headers.values()] == [type(value) for value in envelope.headers.values()]


@pytest.mark.parametrize("row", [b"", b"{}", b"not json\nbody", b"[]\nbody", b"{}\nbody", b'{"topic":1}'], ids=repr)
def test_a_row_of_somebody_else_is_refused(row: bytes) -> None:
    with pytest.raises(Undecodable):
        unpack(row)


def test_fields_of_a_later_release_are_passed_over() -> None:
    row = pack(MessageEnvelope(topic="t", body=b"b", message_id="m", type="x"))
    assert unpack(row.replace(b"{", b'{"later":[1],', 1)) == unpack(row)
