"""Contributes the link that makes model calls, and one work subscription per provider in use and lane.

The lanes of a provider share the process's slots for it: what a person waits for goes before what a schedule began.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

from rockbot import topics
from rockbot.agents.roster import AgentSet
from rockbot.catalogue.prices import PriceTable
from rockbot.catalogue.spending import Spending
from rockbot.chain import Order
from rockbot.errors import ConfigError
from rockbot.events import LlmRequest, LlmResponse, Message, TextPart
from rockbot.llm import LlmClient
from rockbot.machines.transcript import Transcripts
from rockbot.plugins import Contribution, Link, Services
from rockbot.settings_delivery import SubscriptionSettings
from rockbot_handlers.llm.admission import Backends
from rockbot_handlers.llm.deferred import DeferredClients
from rockbot_handlers.llm.handler import LlmHandler
from rockbot_handlers.llm.measuring import MeasuredCalls
from rockbot_handlers.llm.providers import open_clients
from rockbot_handlers.llm.streaming import Streaming
from rockbot_messaging.retries import RetryPolicy
from rockbot_messaging.subscriptions import Lane, WorkSubscription

__all__ = ["contribution", "plugin"]

#: Returns of a call that waits for its backend, some seconds each: its deadline ends it long before, or the age of a week.
_MOST_LOOKS = 100_000
#: What a model is given to say that it is there; some think before they say anything.
_PROBE_TOKENS = 256
_PROBE_SECONDS = 60.0


def plugin(services: Services) -> Contribution:
    """Model calls of the configured agents.

    Raises:
        ConfigError: an agent's model, or its provider's settings, are wrong.
    """
    deferred = DeferredClients()
    clients = open_clients(services.settings, services.agents.current.catalogue, deferred)
    return replace(contribution(services, clients), warm_up=deferred.warm_up)


def contribution(services: Services, clients: Mapping[str, LlmClient]) -> Contribution:
    """Model calls with these clients, by provider.

    Raises:
        ConfigError: their subscriptions are to remember messages.
    """
    settings = services.settings

    def at_once(backend: str) -> int:
        its = settings.backends.get(backend)
        slots = its.slots if its is not None else None
        return settings.host.llm_concurrency if slots is None else min(slots, settings.host.llm_concurrency)

    subscriptions = tuple(
        WorkSubscription(
            name=f"llm.{backend}.{lane}",
            patterns=(topics.llm_request(backend, lane),),
            prefetch=at_once(backend),  # a call waiting behind others here could run on another replica
            concurrency=at_once(backend),
            lane=Lane(group=f"llm.{backend}", rank=rank, slots=at_once(backend)),
            retry=RetryPolicy(max_handbacks=_MOST_LOOKS),
        )
        for backend in clients
        for rank, lane in enumerate(topics.LANES)
    )

    for each in subscriptions:
        _check_remembers_nothing(each.name, settings.subscriptions)

    def check(new: AgentSet) -> None:
        if unknown := [backend for backend in new.catalogue.backends if backend not in clients]:
            raise ConfigError(
                f"a model of the provider {unknown[0]!r} needs a restart: no agent used that one at the start"
            )

    services.agents.check(check)

    async def close() -> None:
        await asyncio.gather(*(client.close() for client in clients.values()), streaming.close())

    async def probe(model: str) -> LlmResponse:
        request = LlmRequest(
            model=model,
            messages=(Message(role="user", parts=(TextPart(text="Reply with the word ok."),)),),
            max_output_tokens=_PROBE_TOKENS,
        )
        return await clients[model.partition("/")[0]].complete(
            request, call_id=services.ids.new_id(), deadline=_PROBE_SECONDS
        )

    streaming = Streaming(settings.streaming, state=services.state, signal=services.signal)
    handler = LlmHandler(
        clients,
        services.ledger,
        Transcripts(services.state),
        owner=services.owner,
        claim_seconds=settings.host.claim_seconds,
        running=services.running,
        backends=Backends(settings.backends, store=services.state, clock=services.clock),
        prices=PriceTable.load(settings.prices),
        spending=Spending(services.state),
        streaming=streaming,
        measured=MeasuredCalls(services.measures, services.tracing),
    )
    return Contribution(
        links=(Link(Order.WORK, "llm", handler),), subscriptions=subscriptions, model_probe=probe, close=close
    )


def _check_remembers_nothing(subscription: str, settings: Mapping[str, SubscriptionSettings]) -> None:
    section = settings.get(subscription)
    if section is not None and section.remember_seconds:
        raise ConfigError(
            f"setting 'subscriptions.\"{subscription}\".remember_seconds' cannot be set for model calls: one that goes on to"
            " another model of its chain keeps its id, and would be taken for a copy of itself; copies of finished calls are"
            " answered from the ledger without it"
        )
