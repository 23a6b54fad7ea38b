"""Regulation: how much of a subscription is handled at once, how often, in which order, and what not to try again.

Wrappers from `MessageHandler` to `MessageHandler` that any service can put around its own; `Regulation` puts them together.
"""

from __future__ import annotations

from rockbot_messaging.regulation.outages import OutageStatus
from rockbot_messaging.regulation.poison import StartMarks
from rockbot_messaging.regulation.regulating import Regulation

__all__ = ["OutageStatus", "Regulation", "StartMarks"]
