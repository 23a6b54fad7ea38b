"""Contributes every tool that the settings offer, and a work subscription for each toolset that this process runs."""

from __future__ import annotations

from rockbot import topics
from rockbot.chain import Order
from rockbot.plugins import Contribution, Link, Services
from rockbot.tools.admission import Admission
from rockbot.tools.loading import load_toolsets
from rockbot_handlers.tools.handler import ToolsHandler
from rockbot_messaging.subscriptions import WorkSubscription

__all__ = ["plugin"]


def plugin(services: Services) -> Contribution:
    """Function tools; the toolsets that run elsewhere are only addressed.

    Raises:
        ConfigError: a toolset cannot be loaded.
    """
    settings = services.settings
    offered = load_toolsets(settings.tools)
    run = settings.tools.run
    here = {name: toolset for name, toolset in offered.items() if run is None or name in run}
    work = {
        name: WorkSubscription(
            name=f"tool.{name}",
            patterns=(topics.tool_invoke(name),),
            # A call that waits behind others here could run on another replica.
            prefetch=settings.host.concurrency,
            concurrency=settings.host.concurrency,
        )
        for name in offered
    }
    handler = ToolsHandler(here, Admission(services.policy_of), services)
    return Contribution(
        links=(Link(Order.WORK, "tools", handler),),
        subscriptions=tuple(work[name] for name in here),
        addressed=tuple(subscription for name, subscription in work.items() if name not in here),
        tools=tuple(tool.spec for toolset in offered.values() for tool in toolset),
    )
