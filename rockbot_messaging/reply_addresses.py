"""Where answers may go: to a queue of whoever asked, and never into one of ours.

An answer is stored by queue name, past all exchanges, under our own user. A sender who may name one of our queues would have
us write there what he is not allowed to: into somebody's work, into the dead letters, into what waits.
"""

from __future__ import annotations

from typing import Final, final

from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.layers import Layer, Refusal
from rockbot_messaging.measures import NO_MEASURES, Measures, Names
from rockbot_messaging.subscriptions import Subscription
from rockbot_messaging.verdicts import DeadLetter

__all__ = ["ReplyAddresses", "is_ours"]

#: Second words of the transient queues that receive replies.
_TRANSIENT: Final = ("reply", "watch")


def is_ours(address: str, namespace: str) -> bool:
    """Whether `address` names a queue of this namespace that is not there for replies: work, delays, dead letters, unrouted."""
    first, _, rest = address.partition(".")
    if first != namespace:
        return False
    kind, _, name = rest.partition(".")
    return not (kind in _TRANSIENT and name)


@final
class ReplyAddresses(Layer):
    """The layer: a message whose reply-to names a queue of ours is a dead letter before anything is done for it.

    Nobody is told, because whom to tell is what is wrong with it. Somebody who reads the letter may send it on with another
    address.
    """

    def __init__(self, namespace: str, *, measures: Measures = NO_MEASURES) -> None:
        self._namespace = namespace
        self._measures = measures

    async def incoming(self, envelope: MessageEnvelope, subscription: Subscription) -> MessageEnvelope | Refusal:  # noqa: ARG002
        address = envelope.reply_to
        if address is None or not is_ours(address, self._namespace):
            return envelope
        self._measures.count(Names.UNTRUSTED, cause="reply_to")
        reason = (
            f"its reply-to {address[:255]!r} names a queue of this host, where answers do not go: name a queue of your own,"
            " or none to have the answer published"
        )
        return Refusal(DeadLetter(reason=reason, error_type="ForeignReplyTo"))
