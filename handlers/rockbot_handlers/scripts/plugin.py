"""Contributes the tools, the link that serves them, and the queues of the script service that it sends to."""

from __future__ import annotations

from rockbot import topics
from rockbot.chain import Order
from rockbot.plugins import Contribution, Link, Services
from rockbot.tools.admission import Admission
from rockbot_handlers.scripts.events import ScriptInvoke, ScriptResult
from rockbot_handlers.scripts.handler import RESULT_TOPIC, ScriptsHandler
from rockbot_handlers.scripts.specs import TOOLS, TOOLSET
from rockbot_messaging.subscriptions import WorkSubscription
from rockbot_scripts.contract import LANGUAGES, invoke_topic

__all__ = ["plugin"]


def plugin(services: Services) -> Contribution:
    """The toolset `scripts`."""
    host = services.settings.host
    handler = ScriptsHandler(Admission(services.policy_of), services.artifacts, services.measures, services.tracing)
    return Contribution(
        links=(Link(Order.WORK, "scripts", handler),),
        subscriptions=(
            WorkSubscription(
                name=f"tool.{TOOLSET}",
                patterns=(topics.tool_invoke(TOOLSET), RESULT_TOPIC),
                prefetch=host.prefetch,
                concurrency=host.concurrency,
            ),
        ),
        addressed=tuple(
            WorkSubscription(name=f"scripts.{language}", patterns=(invoke_topic(language),)) for language in LANGUAGES
        ),
        events=(ScriptInvoke, ScriptResult),
        tools=TOOLS,
    )
