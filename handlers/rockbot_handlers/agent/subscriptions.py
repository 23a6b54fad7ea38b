"""The work subscriptions of agents: one each, for those in force and for removed ones that open tasks still belong to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, final

from rockbot import topics
from rockbot.agents.roster import AgentSet, Roster
from rockbot.agents.snapshots import Snapshots
from rockbot.consuming import Wanted
from rockbot.settings import Settings
from rockbot_messaging.subscriptions import WorkSubscription

__all__ = ["SUBSCRIPTION_PREFIX", "AgentSubscriptions", "subscriptions"]

#: Work subscriptions of agents begin with this word.
SUBSCRIPTION_PREFIX: Final = "agent."
#: Of how many questions what is wanted one looks through all open tasks, though nothing changed.
_LOOK_EVERY: Final = 10


def subscriptions(agents: AgentSet, settings: Settings) -> Wanted:
    """What agents receive by, and the queues of the models that they call."""
    return Wanted(
        tuple(_subscription(name, settings, agent.settings.channels) for name, agent in agents.agents.items()),
        tuple(
            WorkSubscription(name=f"llm.{backend}.{lane}", patterns=(topics.llm_request(backend, lane),))
            for backend in agents.catalogue.backends
            for lane in topics.LANES
        ),
    )


@final
class AgentSubscriptions:
    """What is wanted at present. A removed agent's queue is worked until no task of it is open."""

    def __init__(self, roster: Roster, snapshots: Snapshots, settings: Settings) -> None:
        self._roster = roster
        self._snapshots = snapshots
        self._settings = settings
        self._seen: AgentSet | None = None
        self._retired: set[str] = set()
        self._looks = 0

    async def wanted(self) -> Wanted:
        """See `LiveSubscriptions`. Raises StateUnavailable."""
        agents = self._roster.current
        # Looking through all open tasks is not for every time: other replicas may begin turns of an agent that is gone here
        # only until they have reloaded, too.
        if self._retired or self._looks % _LOOK_EVERY == 0 or agents is not self._seen:
            self._retired = await self._snapshots.users() - agents.agents.keys()
        self._looks += 1
        self._seen = agents
        present = subscriptions(agents, self._settings)
        retired = sorted(self._retired)
        return Wanted((*present.work, *(_subscription(name, self._settings) for name in retired)), present.addressed)

    def on_change(self, listener: Callable[[], None]) -> None:
        """See `LiveSubscriptions`."""
        self._roster.on_change(listener)


def _subscription(name: str, settings: Settings, channels: Iterable[str] = ()) -> WorkSubscription:
    """An agent's tasks, the answers to its commands, its timers and what people write and decide come by one queue."""
    patterns = [topics.task(name), topics.step(name), topics.timer_due(name), topics.approval_decision(name)]
    if name == settings.default_agent:
        patterns.append("agent.task")
    patterns += map(topics.user_messages, dict.fromkeys(channels))
    return WorkSubscription(
        name=f"{SUBSCRIPTION_PREFIX}{name}",
        patterns=tuple(patterns),
        prefetch=settings.host.prefetch,
        concurrency=settings.host.concurrency,
    )
