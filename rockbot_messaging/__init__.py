"""Messaging with disciplined failure handling: envelopes, topics, verdicts and the ports every provider implements.

Importing this package loads the standard library only. Asking for replies is `rockbot_messaging.requests`, publishing from code
without asyncio `rockbot_messaging.sync`; providers live in `rockbot_messaging.memory` and
`rockbot_messaging.rabbitmq`, the conformance suite in `rockbot_messaging.testing`.
"""

from __future__ import annotations

from rockbot_messaging.composing import outgoing
from rockbot_messaging.connecting import connect
from rockbot_messaging.envelope import MessageEnvelope, ReturnAddress
from rockbot_messaging.errors import (
    BodyTooLarge,
    BrokerUnreachable,
    Closed,
    HeadersTooLarge,
    InvalidTopic,
    MessagingError,
    NotConfirmed,
    TimedOut,
    Unroutable,
)
from rockbot_messaging.letters import DeadLetterQueue, Failure, Letter
from rockbot_messaging.ports import (
    Consumption,
    DeadLetters,
    Door,
    MessageBus,
    MessageHandler,
    MessagePublisher,
    MessageSubscriber,
)
from rockbot_messaging.retries import RetryPolicy
from rockbot_messaging.subscriptions import Subscription, WatchSubscription, WorkSubscription
from rockbot_messaging.verdicts import Ack, DeadLetter, Retry, Verdict

__all__ = [
    "Ack",
    "BodyTooLarge",
    "BrokerUnreachable",
    "Closed",
    "Consumption",
    "DeadLetter",
    "DeadLetterQueue",
    "DeadLetters",
    "Door",
    "Failure",
    "HeadersTooLarge",
    "InvalidTopic",
    "Letter",
    "MessageBus",
    "MessageEnvelope",
    "MessageHandler",
    "MessagePublisher",
    "MessageSubscriber",
    "MessagingError",
    "NotConfirmed",
    "Retry",
    "RetryPolicy",
    "ReturnAddress",
    "Subscription",
    "TimedOut",
    "Unroutable",
    "Verdict",
    "WatchSubscription",
    "WorkSubscription",
    "connect",
    "outgoing",
]
