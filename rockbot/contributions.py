"""What the plug-ins of a host contribute, put together, and what of it contradicts itself or the settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import final

from rockbot.agents.roster import AgentSet, Roster
from rockbot.chain import Order
from rockbot.consuming import LiveSubscriptions, Wanted
from rockbot.errors import ConfigError
from rockbot.events import HOST_EVENTS, AgentTask, ToolSpec
from rockbot.plugins import Contribution
from rockbot.settings import Settings
from rockbot.subscribing import adjusted, check_names
from rockbot_messaging.subscriptions import Subscription, WorkSubscription

__all__ = ["Contributions", "Toolbox"]


@final
class Toolbox:
    """Every tool that the plug-ins of a host contribute; filled once all of them were built."""

    def __init__(self) -> None:
        self.tools: tuple[ToolSpec, ...] = ()

    def __call__(self) -> tuple[ToolSpec, ...]:
        return self.tools


@final
class Contributions:
    """What the plug-ins of a host contributed, put together.

    Raises:
        ConfigError: two of them collide, or the settings name what none of them has.
    """

    def __init__(self, parts: Sequence[Contribution], toolbox: Toolbox, roster: Roster, settings: Settings) -> None:
        toolbox.tools = tuple(tool for part in parts for tool in part.tools)
        self.links = [(link.order, link.name, link.handler) for part in parts for link in part.links]
        self.events = [*HOST_EVENTS, *(event for part in parts for event in part.events)]
        self.subscriptions = [_adjusted(item, settings) for part in parts for item in part.subscriptions]
        self.addressed = [
            adjusted(item, settings.subscriptions, consumed=False) for part in parts for item in part.addressed
        ]
        self.live = [_Adjusted(part.live, settings) for part in parts if part.live is not None]
        self.loops = [loop for part in parts for loop in part.loops]
        self.model_probe = next((part.model_probe for part in parts if part.model_probe is not None), None)
        self.warm_ups = [part.warm_up for part in parts if part.warm_up is not None]
        self.closers = [part.close for part in parts if part.close is not None]
        self._check(toolbox.tools)
        # A process that only works tools need not know those that others offer to the agents.
        if any(AgentTask in link.handler.handles for part in parts for link in part.links):
            self._check_agents(roster.current, toolbox.tools)
            roster.check(lambda new: self._check_agents(new, toolbox.tools))
        check_names(settings.subscriptions, [*self.addressed, *self.subscriptions])
        self._check_remembering(settings)
        self._check_limits(settings)

    def _check(self, tools: tuple[ToolSpec, ...]) -> None:
        names = [tool.name for tool in tools]
        if double := {name for name in names if names.count(name) > 1}:
            raise ConfigError(f"two handlers offer a tool of the same name: {', '.join(sorted(double))}")
        subscriptions = [item.name for item in self.subscriptions]
        if double := {name for name in subscriptions if subscriptions.count(name) > 1}:
            raise ConfigError(f"two handlers consume the same subscription: {', '.join(sorted(double))}")

    def _check_agents(self, agents: AgentSet, tools: tuple[ToolSpec, ...]) -> None:
        names = {tool.name for tool in tools}
        for agent in agents.agents.values():
            if unknown := set(agent.settings.tools or ()) - names:
                where = agent.place.at("tools")
                raise ConfigError(
                    f"setting 'agents.{agent.name}.tools'{f' (from {where})' if where else ''} names"
                    f" {', '.join(sorted(unknown))}, which no handler offers (offered: {', '.join(sorted(names)) or 'none'})"
                )

    def _check_remembering(self, settings: Settings) -> None:
        remembering = [name for name, its in settings.subscriptions.items() if its.remember_seconds]
        if remembering and not any(order == Order.DEDUPLICATION for order, _, _ in self.links):
            raise ConfigError(
                f"setting 'subscriptions.\"{remembering[0]}\".remember_seconds' has no effect without the handler"
                " 'deduplication': add it to 'handlers'"
            )

    def _check_limits(self, settings: Settings) -> None:
        works = any(order == Order.WORK and name in ("llm", "tools") for order, name, _ in self.links)
        if settings.limits.given and works and not any(order == Order.LIMITS for order, _, _ in self.links):
            raise ConfigError("setting 'limits' has no effect without the handler 'limits': add it to 'handlers'")


@final
class _Adjusted:
    """A plug-in's live subscriptions, each as the settings want it."""

    def __init__(self, live: LiveSubscriptions, settings: Settings) -> None:
        self._live = live
        self._settings = settings.subscriptions

    async def wanted(self) -> Wanted:
        wanted = await self._live.wanted()
        return Wanted(
            tuple(adjusted(item, self._settings) for item in wanted.work),
            tuple(adjusted(item, self._settings, consumed=False) for item in wanted.addressed),
        )

    def on_change(self, listener: Callable[[], None]) -> None:
        self._live.on_change(listener)


def _adjusted(subscription: Subscription, settings: Settings) -> Subscription:
    if not isinstance(subscription, WorkSubscription):
        return subscription
    return adjusted(subscription, settings.subscriptions)
