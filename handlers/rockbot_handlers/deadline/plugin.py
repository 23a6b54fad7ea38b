"""Contributes the deadline link."""

from __future__ import annotations

from rockbot.chain import Order
from rockbot.plugins import Contribution, Link, Services
from rockbot_handlers.deadline.link import DeadlineLink

__all__ = ["plugin"]


def plugin(services: Services) -> Contribution:  # noqa: ARG001
    """Deadlines for every event of the host."""
    return Contribution(links=(Link(Order.DEADLINE, "deadline", DeadlineLink()),))
