"""From settings to the topology of a broker: what is wanted there, how it is looked at, who may do what.

Built from the same composition as a host, so the tool cannot know other queues than the processes it is for.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final, Self, final

from rockbot.buses import is_embedded
from rockbot.errors import ConfigError, MissingExtra
from rockbot.logs import quiet_libraries
from rockbot.settings import Settings
from rockbot_messaging.retries import DELAY_STEPS
from rockbot_messaging.subscriptions import WorkSubscription

if TYPE_CHECKING:
    from rockbot_messaging.rabbitmq.applying import Done
    from rockbot_messaging.rabbitmq.connection import Session
    from rockbot_messaging.rabbitmq.found import Found
    from rockbot_messaging.rabbitmq.management import Management
    from rockbot_messaging.rabbitmq.planning import Plan, Step
    from rockbot_messaging.rabbitmq.policies import Limits, Policy
    from rockbot_messaging.rabbitmq.roles import Role
    from rockbot_messaging.rabbitmq.settings import RabbitSettings
    from rockbot_messaging.rabbitmq.topology import Names, Topology

__all__ = ["PUBLISHER_TOPICS", "BrokerAccess", "Work", "handler_seconds", "work_of"]

#: What a service of somebody else may send unless it is told otherwise: tasks.
PUBLISHER_TOPICS: Final = ("agent.task", "agent.task.*")
#: Topics that services answer to: the return addresses of agents and of toolsets.
_ANSWERS: Final = ("agent.step.*", "tool.result.*")
#: Broadcasts that every process may hear.
_BROADCASTS: Final = ("control.#",)

#: Seconds that a person waits for a broker that does not answer.
_PATIENCE: Final = 5.0
#: Seconds that a handler of ours takes at most where no setting says otherwise.
_HANDLER_SECONDS: Final = 600.0


@final
class Work:
    """The work subscriptions of a configuration: `consumed` by its handlers, by its `services`, or only `addressed`.

    `missing` names services that are configured and not installed here, with the reason.
    """

    def __init__(
        self,
        consumed: Iterable[WorkSubscription],
        services: Iterable[WorkSubscription],
        addressed: Iterable[WorkSubscription],
        missing: Iterable[str] = (),
    ) -> None:
        self.consumed = tuple(consumed)
        self.services = tuple(services)
        self.addressed = tuple(addressed)
        self.missing = tuple(missing)

    @property
    def all(self) -> tuple[WorkSubscription, ...]:
        """Each once, by name; one who consumes knows best."""
        return tuple({item.name: item for item in (*self.addressed, *self.services, *self.consumed)}.values())


def work_of(settings: Settings) -> Work:
    """What every configured handler and service consumes and addresses; nothing is opened.

    Raises:
        ConfigError, MissingExtra: the host could not be composed.
    """
    from importlib.metadata import entry_points

    from rockbot.processes import compose_host
    from rockbot.service_process import build_service
    from rockbot.services import ENTRY_POINTS
    from rockbot_messaging.memory import MemoryBus

    # What is composed is asked for its subscriptions and never runs, so any bus will do.
    container = compose_host(settings, bus=MemoryBus(namespace=settings.namespace))
    contributions = container.contributions()
    consumed = [item for item in contributions.subscriptions if isinstance(item, WorkSubscription)]
    services: list[WorkSubscription] = []
    missing: list[str] = []
    for name in sorted(point.name for point in entry_points(group=ENTRY_POINTS)):
        if name not in settings.handlers:
            continue
        try:
            service = build_service(name, settings, bus=container.bus(), ledger=container.ledger())
        except MissingExtra as exc:
            missing.append(f"service {name} ({exc})")
        else:
            services += service.subscriptions
    return Work(consumed, services, contributions.addressed, missing)


def handler_seconds(settings: Settings) -> float:
    """The longest time (seconds) that a configured handler or service may hold one delivery."""
    script = settings.scripts.get("max_wall_seconds", 0)
    script = script if isinstance(script, int | float) else 0
    models = (settings.anthropic.timeout_seconds, *(each.timeout_seconds for each in settings.providers.values()))
    return max(_HANDLER_SECONDS, *models, float(script))


@final
class BrokerAccess:
    """One broker and what these settings want there; an async context manager that connects as late as it can.

    Raises:
        ConfigError: there is no broker, or an address or file is wrong. MissingExtra: the packages are not installed.
    """

    def __init__(self, settings: Settings, *, work: Work | None = None) -> None:
        if is_embedded(settings):
            raise ConfigError(
                "an embedded host has no broker whose topology could differ: set --broker amqp://... (ROCKBOT_BROKER_URL)"
            )
        try:
            from rockbot_messaging.rabbitmq.policies import Limits
            from rockbot_messaging.rabbitmq.settings import RabbitSettings
            from rockbot_messaging.rabbitmq.topology import Names
        except ModuleNotFoundError as exc:
            raise MissingExtra("a RabbitMQ broker", "rabbitmq") from exc
        quiet_libraries()
        broker = settings.broker
        cafile, certfile, keyfile = (
            str(path) if path else None for path in (broker.cafile, broker.certfile, broker.keyfile)
        )
        try:
            self.rabbit: RabbitSettings = RabbitSettings(
                url=settings.broker_url.get_secret_value(),
                namespace=settings.namespace,
                connect_timeout=_PATIENCE,
                cafile=cafile,
                certfile=certfile,
                keyfile=keyfile,
            )
        except ValueError as exc:
            raise ConfigError(f"setting 'broker_url': {exc}") from None
        self.settings = settings
        self.work = work or work_of(settings)
        self.names: Names = Names(settings.namespace)
        self.limits: Limits = Limits(
            max_messages=broker.max_queue_messages,
            max_bytes=broker.max_queue_bytes,
            max_unrouted=broker.max_unrouted_messages,
            handler_seconds=handler_seconds(settings),
        )
        self._stack = AsyncExitStack()
        self._session: Session | None = None
        self._management: Management | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    # -- what is wanted -----------------------------------------------------------------------------------------------

    @property
    def wanted(self) -> Topology:
        """Exchanges, queues and bindings, delay queues aside; the same for every release of the broker."""
        from rockbot_messaging.rabbitmq import topology

        table = topology.shared(self.names)
        for item in self.work.all:
            table += topology.work(self.names, item)
        return table

    def policies(self, version: str) -> tuple[Policy, ...]:
        """Limits and timeouts for this release of the broker."""
        from rockbot_messaging.rabbitmq.policies import version_of, wanted_policies

        return wanted_policies(self.names, self.limits, version=version_of(version))

    @property
    def queues(self) -> tuple[str, ...]:
        """The names of all work queues."""
        return tuple(self.names.queue(item.name) for item in self.work.all)

    def roles(self, *, publisher_topics: Iterable[str] = PUBLISHER_TOPICS) -> list[tuple[str, Role]]:
        """Each broker user and its role: those of the setting `trust.users`, else one user per role."""
        from rockbot_messaging.rabbitmq import roles

        consumed = {item.name for item in self.work.consumed}
        served = self.work.services or tuple(item for item in self.work.addressed if item.name not in consumed)
        listed = list(self.settings.trust.users.items()) or [
            (f"{self.settings.namespace}-{role}", role) for role in ("host", "worker", "publisher", "operator")
        ]
        found = []
        for user, role in listed:
            match role:
                case "host":
                    found.append((user, roles.host(self.names)))
                case "worker":
                    found.append((user, roles.worker(self.names, served, answers=_ANSWERS, watches=_BROADCASTS)))
                case "publisher":
                    found.append((user, roles.publisher(self.names, user=user, topics=publisher_topics)))
                case _:
                    found.append((user, roles.operator(self.names)))
        return found

    # -- the broker ---------------------------------------------------------------------------------------------------

    async def session(self) -> Session:
        """The AMQP connection, opened at the first call.

        Raises:
            BrokerUnreachable: there is none.
        """
        if self._session is None:
            from rockbot_messaging.rabbitmq.connection import Link

            link = Link(self.rabbit, "topology")
            self._stack.push_async_callback(link.close)
            await link.open()
            self._session = await link.session(_PATIENCE)
        return self._session

    async def management(self) -> Management | None:
        """The management interface, None when no address of it is set.

        Raises:
            ConfigError: the address is wrong.
        """
        address = self.settings.broker.management_url
        if address is None:
            return None
        if self._management is None:
            self._management = await self._stack.enter_async_context(self._open_management(address.get_secret_value()))
        return self._management

    @asynccontextmanager
    async def _open_management(self, address: str) -> AsyncIterator[Management]:
        from rockbot_messaging.rabbitmq.management import Management

        try:
            opened = Management(
                address,
                vhost=self.rabbit.vhost,
                user=self.rabbit.user,
                password=self.rabbit.parts.password,
                context=self._context() if address.startswith("https") else None,
            )
            await opened.__aenter__()
        except ValueError as exc:
            raise ConfigError(f"setting 'broker.management_url': {exc}") from None
        except ModuleNotFoundError as exc:
            raise MissingExtra("the management interface of RabbitMQ", "rabbitmq") from exc
        try:
            yield opened
        finally:
            await opened.__aexit__()

    def _context(self) -> ssl.SSLContext:
        from rockbot_messaging.rabbitmq.settings import tls_context

        rabbit = self.rabbit
        try:
            return tls_context(rabbit.cafile, rabbit.certfile, rabbit.keyfile)
        except (OSError, ValueError) as exc:
            raise ConfigError(
                f"a file of the settings broker.cafile, certfile, keyfile cannot be used: {exc}"
            ) from None

    async def version(self) -> str:
        """The broker's release; raises BrokerUnreachable."""
        management = await self.management()
        return await management.version() if management is not None else (await self.session()).server_version

    async def look(self) -> Found:
        """What the broker has: all of it over the management interface, else what AMQP tells.

        Raises:
            BrokerUnreachable, ManagementRefused.
        """
        management = await self.management()
        if management is not None:
            return await management.look()
        return await self.probe()

    async def probe(self) -> Found:
        """What AMQP alone tells, with what this user may not declare; raises BrokerUnreachable."""
        from rockbot_messaging.errors import BrokerUnreachable
        from rockbot_messaging.rabbitmq.channel import ChannelLost
        from rockbot_messaging.rabbitmq.planning import possible_delays
        from rockbot_messaging.rabbitmq.probing import probe

        session = await self.session()
        try:
            return await probe(
                session,
                self.wanted,
                perhaps=possible_delays(self.names, self.queues, DELAY_STEPS),
            )
        except ChannelLost as exc:
            raise BrokerUnreachable(f"{self.rabbit} cannot be looked at: {exc}") from None

    async def plan(self) -> Plan:
        """The difference between the two; raises as `look`. Creates nothing."""
        return self.compare(await self.look())

    def compare(self, found: Found) -> Plan:
        """The difference between what is wanted and what was found."""
        from rockbot_messaging.rabbitmq.planning import plan

        return plan(
            self.names,
            self.wanted,
            self.policies(found.version),
            found,
            work=self.queues,
            vhost=self.rabbit.vhost,
        )

    async def apply(self, plan: Plan, *, remove_bindings: bool = False) -> AsyncIterator[Done]:
        """Carry out what can be; see `rockbot_messaging.rabbitmq.applying.apply`."""
        from rockbot_messaging.rabbitmq.applying import apply

        session, management = await self.session(), await self.management()
        async for done in apply(session, management, plan, self.wanted, remove_bindings=remove_bindings):
            yield done

    async def prune(self, steps: Iterable[Step], *, counting_round: float | None = None) -> AsyncIterator[Done]:
        """Delete surplus queues and exchanges that are empty and unused; see `applying.prune`."""
        from rockbot_messaging.rabbitmq.applying import COUNTING_ROUND, prune

        management = await self.management()
        assert management is not None, "surplus queues are seen over the management interface only"
        round_ = COUNTING_ROUND if counting_round is None else counting_round
        async for done in prune(await self.session(), management, list(steps), counting_round=round_):
            yield done
