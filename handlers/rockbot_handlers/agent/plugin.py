"""Contributes the links and subscriptions of agents: one queue each, and the broadcast that has them read again."""

from __future__ import annotations

from rockbot.agents.snapshots import SWEEP_SECONDS, Snapshots
from rockbot.chain import Order
from rockbot.plugins import Contribution, Link, Loop, Services
from rockbot_handlers.agent.handler import AgentHandler
from rockbot_handlers.agent.open_turns import LOOK_SECONDS, OpenTurns
from rockbot_handlers.agent.reloading import RELOADS, ReloadHandler
from rockbot_handlers.agent.subscriptions import AgentSubscriptions, subscriptions

__all__ = ["plugin"]


def plugin(services: Services) -> Contribution:
    """Agents as they are configured now; which of them are received follows the configuration."""
    settings, roster = services.settings, services.agents
    snapshots = Snapshots(services.state, services.clock, owner=services.owner)
    handler = AgentHandler(
        settings,
        roster,
        services.state,
        services.tools,
        snapshots,
        services.ledger,
        services.measures,
        services.tracing,
    )
    first = subscriptions(roster.current, settings)
    loops = [Loop("snapshots of agents", snapshots.sweep, SWEEP_SECONDS)]
    if settings.telemetry.metrics != "off":
        loops.append(Loop("turns under way", OpenTurns(services.state, services.measures).look, LOOK_SECONDS))
    if settings.agent_files.poll_seconds:
        loops.append(Loop("files of agents", roster.poll, settings.agent_files.poll_seconds))
    return Contribution(
        links=(Link(Order.WORK, "agent", handler), Link(Order.WORK, "agents reload", ReloadHandler(roster))),
        subscriptions=(*first.work, RELOADS),
        addressed=first.addressed,
        live=AgentSubscriptions(roster, snapshots, settings),
        loops=tuple(loops),
    )
