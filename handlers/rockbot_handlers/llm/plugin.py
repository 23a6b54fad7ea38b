"""Contributes the link that makes model calls, and one work subscription per provider in use and lane.

The lanes of a provider share the process's slots for it: what a person waits for goes before what a schedule began.
"""

from __future__ import annotations

import asyncio

from rockbot import topics
from rockbot.agents.roster import AgentSet
from rockbot.chain import Order
from rockbot.errors import ConfigError
from rockbot.machines.transcript import Transcripts
from rockbot.plugins import Contribution, Link, Services
from rockbot_handlers.llm.handler import LlmHandler
from rockbot_handlers.llm.providers import open_clients
from rockbot_handlers.llm.streaming import Streaming
from rockbot_messaging.subscriptions import Lane, WorkSubscription

__all__ = ["plugin"]


def plugin(services: Services) -> Contribution:
    """Model calls of the configured agents.

    Raises:
        ConfigError: an agent's model, or its provider's settings, are wrong.
    """
    settings = services.settings
    clients = open_clients(settings, services.agents.current.catalogue)
    concurrency = settings.host.llm_concurrency
    subscriptions = tuple(
        WorkSubscription(
            name=f"llm.{backend}.{lane}",
            patterns=(topics.llm_request(backend, lane),),
            prefetch=concurrency,  # a call waiting behind others here could run on another replica
            concurrency=concurrency,
            lane=Lane(group=f"llm.{backend}", rank=rank, slots=concurrency),
        )
        for backend in clients
        for rank, lane in enumerate(topics.LANES)
    )

    def check(new: AgentSet) -> None:
        if unknown := [backend for backend in new.catalogue.backends if backend not in clients]:
            raise ConfigError(
                f"a model of the provider {unknown[0]!r} needs a restart: no agent used that one at the start"
            )

    services.agents.check(check)

    async def close() -> None:
        await asyncio.gather(*(client.close() for client in clients.values()))

    handler = LlmHandler(
        clients,
        services.ledger,
        Transcripts(services.state),
        owner=services.owner,
        claim_seconds=settings.host.claim_seconds,
        running=services.running,
        streaming=Streaming(settings.streaming, state=services.state, signal=services.signal),
    )
    return Contribution(links=(Link(Order.WORK, "llm", handler),), subscriptions=subscriptions, close=close)
