"""Which letters a filter means. Pure, and on rows as they are stored: a letter that does not fit costs next to nothing.

Rows are flat objects of JSON without spaces, so the bytes of a name with its value are found in exactly those rows that have
them; most filters never decode a row.
"""

from __future__ import annotations

import json
from typing import Final, final

from rockbot.letters.index import id_of, instant_of
from rockbot.letters.models import LetterFilter
from rockbot.letters.rows import Fields, decode, foreign_id_of, topic_of
from rockbot.operators.faults import InvalidRequest
from rockbot.state.ports import Entry
from rockbot_messaging.errors import InvalidTopic
from rockbot_messaging.topics import TopicPattern

__all__ = ["SHORTEST_PREFIX", "Match"]

#: Characters of an id that are enough to mean it.
SHORTEST_PREFIX: Final = 6
_TOPICS_KEPT: Final = 1000
#: Fields of a row that `text` is looked for in.
_TEXTS: Final = ("reason", "topic", "type", "source", "excerpt", "foreign", "corr")


@final
class Match:
    """A filter, compiled. The queue is not its business: rows lie by queue. `whole` takes ids as they are, not as beginnings.

    Raises:
        InvalidRequest: the filter makes no sense.
    """

    def __init__(self, which: LetterFilter, *, whole: bool = False) -> None:
        try:
            self._topic = TopicPattern(which.topic) if which.topic else None
        except InvalidTopic as exc:
            raise InvalidRequest(str(exc)) from None
        since, before = which.since_ms, which.before_ms
        if since is not None and before is not None and since >= before:
            raise InvalidRequest(f"no letter died at or after {since} and before {before}: swap the two instants")
        if not all(which.ids):
            raise InvalidRequest("an id is empty: give a whole id, or at least its first six characters")
        self._since_ms = since
        self._before_ms = before
        self._whole = frozenset(which.ids)
        self._foreign = frozenset() if whole else self._whole
        self._begun = () if whole else tuple(each for each in which.ids if len(each) >= SHORTEST_PREFIX)
        self._text = which.text.casefold() if which.text else ""
        asked = {
            "type": which.type,
            "error": which.error,
            "handler": which.handler,
            "conv": which.conversation,
            "task": which.task,
            "group": which.group,
        }
        self._exact = tuple((name, value) for name, value in asked.items() if value is not None)
        self._needles = tuple(
            json.dumps({name: value}, separators=(",", ":"))[1:-1].encode() for name, value in self._exact if value
        )
        if which.topic:
            self._needles += (b'"topic":"' + which.topic.partition("*")[0].partition("#")[0].rstrip(".").encode(),)
        self._topics: dict[str, bool] = {}
        self._absent = any(not value for _, value in self._exact)
        self._hint = _lowered(self._text)

    @property
    def everything(self) -> bool:
        """Whether the instant of death is all that this filter asks about."""
        return not (self._topic or self._whole or self._text or self._exact)

    @property
    def everything_ever(self) -> bool:
        """Whether this filter asks about nothing."""
        return self.everything and self._since_ms is None and self._before_ms is None

    def takes(self, entry: Entry) -> bool:
        """Whether the letter of a stored row fits."""
        if not self.in_time(instant_of(entry.key)):
            return False
        value = entry.value
        for needle in self._needles:
            if needle not in value:
                return False
        if self._whole and not self._names(id_of(entry.key)) and not self._names_foreign(foreign_id_of(value)):
            return False
        if self._hint and self._hint not in value.lower() and b"\\u" not in value:
            return False
        if self._topic is not None and not self._travels(self._topic, topic_of(value)):
            return False
        return not (self._text or self._absent) or self.fits(decode(value))

    def in_time(self, at_ms: int) -> bool:
        """Whether a letter that died at this instant may fit."""
        if self._since_ms is not None and at_ms < self._since_ms:
            return False
        return self._before_ms is None or at_ms < self._before_ms

    def fits(self, row: Fields) -> bool:
        """Whether the row fits."""
        if not self.in_time(row.get("at", 0)):
            return False
        if any(row.get(name, "") != value for name, value in self._exact):
            return False
        if self._whole and not self._names(row.get("id", "")) and not self._names_foreign(row.get("foreign", "")):
            return False
        if self._topic is not None and not self._travels(self._topic, row.get("topic", "")):
            return False
        return not self._text or self._tells(row)

    def _travels(self, pattern: TopicPattern, topic: str) -> bool:
        """Whether the pattern matches; of a hundred thousand letters' topics few are different."""
        known = self._topics.get(topic)
        if known is None:
            if len(self._topics) >= _TOPICS_KEPT:
                self._topics.clear()
            known = self._topics[topic] = pattern.matches(topic)
        return known

    def _names(self, id: str) -> bool:
        return id in self._whole or (bool(self._begun) and id.startswith(self._begun))

    def _names_foreign(self, id: str) -> bool:
        return id in self._foreign

    def _tells(self, row: Fields) -> bool:
        texts = (row.get(name, "") for name in _TEXTS)
        return any(self._text in str(text).casefold() for text in texts)


def _lowered(text: str) -> bytes:
    """What the bytes of a row, in lower case, must have for `text` to be found in it; empty when that cannot be said.

    A row with other letters than ASCII's is always decoded: what they are when case is ignored may be ASCII.
    """
    plain = text.isascii() and text.isprintable() and '"' not in text and "\\" not in text
    return text.encode() if plain else b""
