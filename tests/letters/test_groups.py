"""Reasons normalised, and what makes a group."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rockbot.letters.groups import group_id, normalise
from rockbot.letters.rows import row_of
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.letters import Failure, Letter


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("order 17 has 3 items, 2.50 each", "order <n> has <n> items, <n> each"),
        ("customer 6fa459ea-ee8a-3ca4-894e-db77e160355e is unknown", "customer <id> is unknown"),
        ("no answer from https://api.example/v1/x?y=1 in 30 s", "no answer from <url> in <n> s"),
        ("'add' and \"sub\" and `mul` are gone", "<text> and <text> and <text> are gone"),
        ("cannot open /var/lib/shop/7.json: denied", "cannot open <path>: denied"),
        (r"cannot open C:\shop\7.json", "cannot open <path>"),
        ("since 2026-11-21T09:30:00.5Z nothing came", "since <time> nothing came"),
        ("object at 0x7f3a2b, commit deadbeef01", "object at <id>, commit <id>"),
        ("it's read and/or written by Bob's host", "it's read and/or written by Bob's host"),
        ("first line\n  second\tline", "first line second line"),
        ("", ""),
    ],
)
def test_what_differs_each_time_becomes_a_placeholder(reason: str, expected: str) -> None:
    assert normalise(reason) == expected


_TEXTS = st.text() | st.text(alphabet="'\"`/\\:.-~<>0123456789abcdefxTZ \n\t", max_size=60)


@given(_TEXTS)
def test_any_text_is_normalised_and_stays_so(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once


@given(
    st.uuids(), st.integers(min_value=0), st.text(alphabet="abc xyz", max_size=20), st.uuids(), st.integers(min_value=0)
)
def test_letters_that_differ_in_ids_and_numbers_only_are_of_one_group(
    first: uuid.UUID, number: int, text: str, second: uuid.UUID, other: int
) -> None:
    reasons = (f"order {first} failed {number} times at '{text}'", f"order {second} failed {other} times at 'x'")
    assert len({normalise(reason) for reason in reasons}) == 1


@given(st.text(max_size=300))
def test_a_row_is_made_of_any_reason(reason: str) -> None:
    envelope = MessageEnvelope(topic="t", body=reason.encode("utf-8", "replace"), message_id="m", type="t")
    letter = Letter(id="m", queue="q", envelope=envelope, failure=Failure(reason=reason, queue="q", topic="t", at_ms=1))
    row = row_of(letter, "q")
    assert len(row.get("excerpt", "")) <= 300
    assert row == row_of(letter, "q")


def test_a_group_is_told_apart_by_queue_error_handler_and_type() -> None:
    same = ("orders", "ValueError", "no items", "shop", "shop.order")
    others = [
        ("bills", *same[1:]),
        (same[0], "KeyError", *same[2:]),
        (*same[:3], "till", same[4]),
        (*same[:4], "shop.bill"),
    ]
    assert len({group_id(*each) for each in [same, *others]}) == 5


def test_a_group_keeps_its_id_from_release_to_release() -> None:
    assert group_id("orders", "ValueError", "no items", "shop", "shop.order") == "6733f377a13d"
