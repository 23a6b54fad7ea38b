"""What is known of one key: its line, as data, and whose line a message belongs to. Pure."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from typing import Final, final

from rockbot.state.keys import Key, Prefix, key, key_parts, prefix
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.subscriptions import Ordered

__all__ = ["BlockedKey", "Line", "LineId", "lines_of", "order_key"]

#: Whose keys these are: inboxes belong to hosts, as the leases of timers do. The tenant of a message is a part of the key.
_HOST: Final = "host"
_LINES: Final = "inbox"
#: A longer order key is replaced by its digest, so that state keys stay short.
_LONGEST_KEY: Final = 200


@final
@dataclass(frozen=True, slots=True)
class LineId:
    """The messages of one tenant and order key in one subscription."""

    subscription: str
    tenant: str
    key: str

    @property
    def line(self) -> Key:
        """Where the line is kept."""
        return key(_HOST, _LINES, self.subscription, self.tenant, self.key)

    def entry(self, number: int) -> Key:
        """Where its message of that number is kept."""
        return key(_HOST, "inbox-message", self.subscription, self.tenant, self.key, f"{number:016d}")

    def arrival(self, message_id: str) -> Key:
        """Where it is kept that a message of this id is in the line, or was handled."""
        return key(_HOST, "inbox-id", self.subscription, self.tenant, message_id)

    @staticmethod
    def of(line: Key) -> LineId:
        """The id of the line kept there."""
        return LineId(*key_parts(line)[2:])


def lines_of(subscription: str) -> Prefix:
    """Where the lines of a subscription are kept."""
    return prefix(_HOST, _LINES, subscription)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line: the numbers from `head` up to (not including) `next` are waiting.

    `owner` works it until the store's clock says `until_ms`; `token` grows with every grant, and what an older one wants to
    write is refused. `deaths` is how many owners vanished while the present head was theirs. The head is not begun before
    `due_ms`. `blocked` is the id of the dead letter that holds up the line since `since_ms`, because of `reason`.
    """

    head: int = 0
    next: int = 0
    owner: str = ""
    until_ms: int = 0
    token: int = 0
    deaths: int = 0
    due_ms: int = 0
    blocked: str = ""
    since_ms: int = 0
    reason: str = ""

    @property
    def waiting(self) -> int:
        """Messages in it, the one under way included, a dead one not."""
        return self.next - self.head

    def may_begin(self, owner: str, now_ms: int) -> bool:
        """Whether `owner` may work its head now."""
        held = self.owner not in ("", owner) and self.until_ms > now_ms
        return self.waiting > 0 and not self.blocked and not held and self.due_ms <= now_ms

    def due_in(self, now_ms: int) -> float:
        """Seconds until its head may be begun because of its instant alone; `inf` when that is not what it waits for."""
        if self.waiting and not self.blocked and self.due_ms > now_ms:
            return (self.due_ms - now_ms) / 1000
        return math.inf

    def advanced(self) -> Line:
        """Without its head."""
        return dataclasses.replace(self, head=self.head + 1, due_ms=0, deaths=0)

    def released(self) -> Line:
        """Without an owner."""
        return dataclasses.replace(self, owner="", until_ms=0)

    def opened(self) -> Line:
        """No longer held up."""
        return dataclasses.replace(self, blocked="", since_ms=0, reason="", due_ms=0, deaths=0)

    def dump(self) -> bytes:
        """As a value."""
        fields = {
            field.name: value
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) != field.default
        }
        return json.dumps(fields, separators=(",", ":")).encode()

    @staticmethod
    def load(value: bytes) -> Line:
        """From a value; fields of a newer release are ignored."""
        known = {field.name for field in dataclasses.fields(Line)}
        return Line(**{name: given for name, given in json.loads(value).items() if name in known})


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class BlockedKey:
    """A key that a dead letter holds up: `message_id` is the letter, `waiting` how many messages wait behind it."""

    subscription: str
    tenant: str
    key: str
    message_id: str
    since_ms: int
    reason: str
    waiting: int


def order_key(envelope: MessageEnvelope, ordered: Ordered) -> str | None:
    """The key of a message, None when it has none and may be handled at any time."""
    kind, _, header = ordered.by.partition(":")
    match kind:
        case "conversation":
            found: object = envelope.conversation_id
        case "correlation":
            found = envelope.correlation_id
        case "topic":
            found = envelope.topic
        case _:
            found = envelope.headers.get(header)
    if found is None or found == "":
        return None
    text = str(found)
    if len(text) > _LONGEST_KEY:
        return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
    try:
        text.encode()
    except UnicodeEncodeError:
        return None  # its message is refused by whoever handles it
    return text
