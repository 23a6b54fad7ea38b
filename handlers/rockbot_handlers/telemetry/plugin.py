"""Contributes the link that measures, outermost; nothing where nothing is counted."""

from __future__ import annotations

from rockbot.chain import Order
from rockbot.plugins import Contribution, Link, Services
from rockbot_handlers.telemetry.link import TelemetryLink

__all__ = ["plugin"]


def plugin(services: Services) -> Contribution:
    """Durations of handling."""
    if services.settings.telemetry.metrics == "off":
        return Contribution()
    return Contribution(links=(Link(Order.TELEMETRY, "telemetry", TelemetryLink(services.measures)),))
