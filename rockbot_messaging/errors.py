"""What can go wrong between a publisher and a subscriber.

Every provider translates its client library's exceptions into these, once, at its edge; the text is written for
the person who has to act on it and never carries credentials.
"""

from __future__ import annotations

__all__ = [
    "BodyTooLarge",
    "BrokerUnreachable",
    "Closed",
    "HeadersTooLarge",
    "InvalidTopic",
    "LetterNotFound",
    "LettersBusy",
    "MessagingError",
    "NotConfirmed",
    "TimedOut",
    "TopologyMismatch",
    "Undecodable",
    "Unroutable",
]


class MessagingError(Exception):
    """Root of everything this package raises."""


class InvalidTopic(MessagingError, ValueError):
    """A topic or pattern breaks the grammar; nothing was sent."""


class BrokerUnreachable(MessagingError, ConnectionError):
    """The broker cannot be reached, or refuses these credentials or this virtual host."""


class NotConfirmed(MessagingError):
    """The broker did not confirm a publish: it may or may not be stored. Publish again with the same id."""


class Unroutable(MessagingError):
    """No queue receives this topic. A message of ours was kept in the unrouted queue before this was raised."""

    def __init__(self, topic: str, message: str | None = None) -> None:
        super().__init__(message or f"nobody receives topic {topic!r}: no queue is bound to it")
        self.topic = topic


class Undecodable(MessagingError):
    """A delivery's properties cannot be read as an envelope; it is dead-lettered at once."""


class BodyTooLarge(MessagingError, ValueError):
    """A body exceeds the configured limit; nothing was sent."""


class HeadersTooLarge(MessagingError, ValueError):
    """The headers of a message exceed the configured limit; nothing was sent."""


class TopologyMismatch(MessagingError):
    """A queue or exchange exists with other arguments than the ones needed; nothing was changed."""


class LetterNotFound(MessagingError, LookupError):
    """No dead letter with this id lies in this queue."""


class LettersBusy(MessagingError):
    """Another process is at work on the same dead-letter queue and did not end in time; nothing was changed."""


class TimedOut(MessagingError, TimeoutError):
    """No reply came in time; the text says what to look at. The request may still be under way, or have been handled."""


class Closed(MessagingError):
    """The publisher or subscriber was closed and takes nothing more."""
