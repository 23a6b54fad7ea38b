"""Topics: dot-separated words that say what a message is and for whom.

The grammar is narrower than AMQP's so that a key can be bound, logged and used as a queue name without escaping:
words of ``[A-Za-z0-9_-]``, 1 to 64 characters, the whole key under 255 bytes. Patterns add the wildcards of a topic
exchange (AMQP 0-9-1, section 3.1.3.3): ``*`` stands for exactly one word, ``#`` for any number of words, also none.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, final

from rockbot_messaging.errors import InvalidTopic

__all__ = ["MAX_TOPIC_BYTES", "TopicPattern", "check_pattern", "check_topic", "check_word", "escape_word"]

#: AMQP short strings carry at most 255 bytes; the key stays below that.
MAX_TOPIC_BYTES: Final = 254

_WORD: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_GRAMMAR: Final = "words of A-Z a-z 0-9 _ - (1 to 64 characters) separated by dots, under 255 bytes"


def check_word(word: str) -> str:
    """Return `word` unchanged if it may stand in a topic.

    Raises:
        InvalidTopic: it is empty, too long, or has other characters.
    """
    if not _WORD.fullmatch(word):
        raise InvalidTopic(f"{word!r} is not a legal topic word: use 1 to 64 of A-Z a-z 0-9 _ -")
    return word


@lru_cache(maxsize=4096)
def check_topic(topic: str) -> str:
    """Return `topic` unchanged if it is legal.

    Raises:
        InvalidTopic: it breaks the grammar of this module.
    """
    if len(topic) > MAX_TOPIC_BYTES or not all(_WORD.fullmatch(word) for word in topic.split(".")):
        raise InvalidTopic(f"{topic!r} is not a legal topic: use {_GRAMMAR}")
    return topic


@lru_cache(maxsize=1024)
def check_pattern(pattern: str) -> str:
    """Return `pattern` unchanged if it is legal: a topic whose words may also be ``*`` or ``#``.

    Raises:
        InvalidTopic: it breaks the grammar of this module.
    """
    words = pattern.split(".")
    if len(pattern) > MAX_TOPIC_BYTES or not all(word in ("*", "#") or _WORD.fullmatch(word) for word in words):
        raise InvalidTopic(f"{pattern!r} is not a legal topic pattern: use {_GRAMMAR}, or the wildcards * and #")
    return pattern


def escape_word(text: str) -> str:
    """A legal topic word for any text, the same one every time, different for different texts.

    Characters outside ``[A-Za-z0-9-]`` become ``_xx`` per UTF-8 byte; a result over 64 characters keeps its head and
    ends in a digest.
    """
    import hashlib

    escaped = "".join(
        char
        if (char.isascii() and char.isalnum()) or char == "-"
        else "".join(f"_{byte:02x}" for byte in char.encode())
        for char in text
    )
    if not escaped:
        return "_"
    if len(escaped) > 64:
        escaped = f"{escaped[:31]}_-{hashlib.sha256(text.encode()).hexdigest()[:31]}"
    return escaped


@final
class TopicPattern:
    """A compiled pattern."""

    __slots__ = ("_words", "text")

    def __init__(self, pattern: str) -> None:
        self.text = check_pattern(pattern)
        self._words = tuple(pattern.split("."))

    def matches(self, topic: str) -> bool:
        """Whether a topic exchange would route `topic` to a queue bound with this pattern."""
        if self.text == topic or self.text == "#":
            return True
        return _match(self._words, tuple(topic.split(".")))

    def __repr__(self) -> str:
        return f"TopicPattern({self.text!r})"


def _match(pattern: tuple[str, ...], words: tuple[str, ...]) -> bool:
    # `reachable` holds the positions in `words` that some reading of the pattern so far has consumed up to,
    # so several '#' cost no more than pattern length times topic length.
    reachable = {0}
    for part in pattern:
        if part == "#":
            reachable = set(range(min(reachable), len(words) + 1))
        else:
            reachable = {at + 1 for at in reachable if at < len(words) and part in ("*", words[at])}
        if not reachable:
            return False
    return len(words) in reachable
