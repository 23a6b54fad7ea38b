"""Contributes one link and one work subscription per configured agent."""

from __future__ import annotations

from rockbot import topics
from rockbot.agents.snapshots import SWEEP_SECONDS, Snapshots
from rockbot.chain import Order
from rockbot.plugins import Contribution, Link, Loop, Services
from rockbot_handlers.agent.handler import SUBSCRIPTION_PREFIX, AgentHandler
from rockbot_messaging.subscriptions import WorkSubscription

__all__ = ["plugin"]


def plugin(services: Services) -> Contribution:
    """An agent's tasks, the answers to its commands and its timers come by one queue, ``agent.<name>``."""
    settings = services.settings
    subscriptions = []
    addressed: list[WorkSubscription] = []
    for name in services.agents.current.agents:
        patterns = [topics.task(name), topics.step(name), topics.timer_due(name)]
        if name == settings.default_agent:
            patterns.append("agent.task")
        subscriptions.append(
            WorkSubscription(
                name=f"{SUBSCRIPTION_PREFIX}{name}",
                patterns=tuple(patterns),
                prefetch=settings.host.prefetch,
                concurrency=settings.host.concurrency,
            )
        )
    addressed.extend(
        WorkSubscription(name=f"llm.{backend}.{lane}", patterns=(topics.llm_request(backend, lane),))
        for backend in services.agents.current.catalogue.backends
        for lane in topics.LANES
    )
    snapshots = Snapshots(services.state, services.clock, owner=services.owner)
    handler = AgentHandler(settings, services.agents, services.state, services.tools, snapshots)
    return Contribution(
        links=(Link(Order.WORK, "agent", handler),),
        subscriptions=tuple(subscriptions),
        addressed=tuple(addressed),
        loops=(Loop("snapshots of agents", snapshots.sweep, SWEEP_SECONDS),),
    )
