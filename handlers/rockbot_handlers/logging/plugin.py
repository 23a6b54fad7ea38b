"""Contributes the logging link, outermost."""

from __future__ import annotations

from rockbot.chain import Order
from rockbot.plugins import Contribution, Link, Services
from rockbot_handlers.logging.link import LoggingLink

__all__ = ["plugin"]


def plugin(services: Services) -> Contribution:  # noqa: ARG001
    """One record per message on the logger ``rockbot.messages``."""
    return Contribution(links=(Link(Order.LOGGING, "logging", LoggingLink()),))
