"""Keys: nothing that comes from outside reaches into another tenant, space or id."""

from __future__ import annotations

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from rockbot.state.keys import key, key_parts, prefix

# Half of the parts are made of the characters that escaping is about.
PART = st.text("a/%2Fb.~:@ ", min_size=1, max_size=6) | st.text(
    st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20
)
PARTS = st.lists(PART, min_size=3, max_size=5).map(tuple)


@given(PARTS)
@example(("a", "b", "/"))
@example(("a", "b", ".."))
@example(("%2F", "%", "\0"))
def test_the_parts_of_a_key_come_back(parts):
    assert key_parts(key(*parts)) == parts


@given(PARTS, PARTS)
@example(("a", "b", "c/d"), ("a", "b", "c", "d"))
@example(("a/b", "c", "d"), ("a", "b", "c/d"))
@example(("a", "b", "%2F"), ("a", "b", "/"))
def test_different_parts_make_different_keys(one, other):
    assume(one != other)
    assert key(*one) != key(*other)


@given(PARTS, PARTS, st.integers(2, 4))
@example(("t", "s", "ab"), ("t", "s", "a"), 3)
@example(("t", "s", "a", "b"), ("t", "s", "a"), 3)
@example(("t/s", "a", "b"), ("t", "s"), 2)
def test_a_prefix_begins_exactly_the_keys_under_it(parts, under, length):
    under = under[:length]
    assert key(*parts).startswith(prefix(*under)) is (len(parts) > len(under) and parts[: len(under)] == under)


@given(PARTS, st.integers(2, 4))
def test_a_prefix_of_a_keys_own_parts_begins_it(parts, length):
    assume(length < len(parts))
    assert key(*parts).startswith(prefix(*parts[:length]))


@given(PARTS)
def test_keys_are_plain_printable_text_without_spaces(parts):
    text = key(*parts)
    assert text.isascii()
    assert text.isprintable()
    assert " " not in text


@pytest.mark.parametrize("parts", [("", "s", "i"), ("t", "", "i"), ("t", "s", ""), ("t", "s", "i", ""), ("t", "s")])
def test_an_empty_part_is_refused(parts):
    with pytest.raises(ValueError, match="empty"):
        key(*parts)
