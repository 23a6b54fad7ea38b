"""Topics and patterns, against an oracle that follows the definition word by word."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rockbot_messaging.errors import InvalidTopic
from rockbot_messaging.topics import (
    MAX_TOPIC_BYTES,
    TopicPattern,
    check_pattern,
    check_topic,
    check_word,
    escape_word,
)

_FEW = st.sampled_from(["a", "b", "c"])
_TOPIC = st.lists(_FEW, min_size=1, max_size=7)
_PATTERN = st.lists(st.one_of(_FEW, st.sampled_from(["*", "#"])), min_size=1, max_size=6)


def _matches(pattern: list[str], words: list[str]) -> bool:
    if not pattern:
        return not words
    if pattern[0] == "#":
        return _matches(pattern[1:], words) or (bool(words) and _matches(pattern, words[1:]))
    return bool(words) and pattern[0] in ("*", words[0]) and _matches(pattern[1:], words[1:])


@given(_PATTERN, _TOPIC)
def test_a_pattern_matches_what_the_definition_says(pattern: list[str], words: list[str]) -> None:
    assert TopicPattern(".".join(pattern)).matches(".".join(words)) is _matches(pattern, words)


def test_many_hashes_cost_no_more_than_few() -> None:
    pattern = TopicPattern(".".join(["#", "a"] * 20))
    assert pattern.matches(".".join(["a"] * 100))
    assert not pattern.matches(".".join(["a"] * 100 + ["b"]))


@given(st.lists(st.text("abzAZ09_-", min_size=1, max_size=64), min_size=1, max_size=3))
def test_legal_words_make_a_legal_topic_and_pattern(words: list[str]) -> None:
    topic = ".".join(words)
    for word in words:
        assert check_word(word) == word
    assert check_topic(topic) == topic
    assert check_pattern(topic) == topic
    assert TopicPattern(topic).matches(topic)


@given(st.text(max_size=300))
def test_a_topic_is_legal_only_if_its_words_are(text: str) -> None:
    words = text.split(".")
    legal = len(text.encode()) <= MAX_TOPIC_BYTES and all(
        1 <= len(word) <= 64 and all(char.isascii() and (char.isalnum() or char in "_-") for char in word)
        for word in words
    )
    if legal:
        assert check_topic(text) == text
    else:
        with pytest.raises(InvalidTopic, match="not a legal topic"):
            check_topic(text)


@pytest.mark.parametrize("topic", ["a\n", "\n", "a.b\n", "٣", "a.#", "*", "a..b", ".", "\u212a", "a" * 65])
def test_what_only_looks_like_a_topic_is_refused(topic: str) -> None:
    with pytest.raises(InvalidTopic):
        check_topic(topic)


@pytest.mark.parametrize("pattern", ["a*", "##", "a.b#", "", "a..#", "#\n"])
def test_a_wildcard_is_a_whole_word(pattern: str) -> None:
    with pytest.raises(InvalidTopic):
        TopicPattern(pattern)


@given(st.text(max_size=120))
def test_any_text_becomes_a_legal_word(text: str) -> None:
    assert check_word(escape_word(text)) == escape_word(text)


@given(st.text(max_size=80), st.text(max_size=80))
def test_different_texts_become_different_words(one: str, other: str) -> None:
    assert (escape_word(one) == escape_word(other)) is (one == other)


@given(st.text("_-0aF", max_size=70), st.text("_-0aF", max_size=70))
def test_texts_that_look_escaped_become_different_words(one: str, other: str) -> None:
    assert (escape_word(one) == escape_word(other)) is (one == other)
