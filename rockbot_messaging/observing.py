"""Tells an observer of the bus what was carried out; whatever it does, the delivery is settled and the next one comes."""

from __future__ import annotations

import logging

from rockbot_messaging.ports import BusObserver
from rockbot_messaging.settlement import Bury, Delay

__all__ = ["tell"]

_log = logging.getLogger(__name__)


def tell(observer: BusObserver, subscription: str, outcome: Delay | Bury) -> None:
    """Tell it; what it raises is logged."""
    try:
        observer.carried_out(subscription, outcome)
    except Exception:
        _log.exception(
            "an observer of %s failed over message %s; the message is settled as decided",
            subscription,
            outcome.envelope.message_id,
        )
