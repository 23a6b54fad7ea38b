"""Contributes the deduplication link."""

from __future__ import annotations

from rockbot.chain import Order
from rockbot.plugins import Contribution, Link, Services
from rockbot_handlers.deduplication.link import DeduplicationLink

__all__ = ["plugin"]


def plugin(services: Services) -> Contribution:
    """Exactly-once effects for every subscription that remembers its messages."""
    link = DeduplicationLink(
        services.state, measures=services.measures, body_limit=services.settings.host.max_body_bytes
    )
    return Contribution(links=(Link(Order.DEDUPLICATION, "deduplication", link),))
