"""From settings to a bus: the provider that the URL names, and around it what is done to every message.

Providers are imported here, and only when their scheme is asked for. The layers stand in one order, outermost first:

* the claim check, so that a handler sees whole bodies;
* signatures: inside of it, so that a body that lies aside is signed by the digest it is known by, and a forged message is
  refused before anything is fetched for it;
* trust: because it costs less, and nothing else is worth doing for a stranger;
* reply addresses: innermost, over a broker that others publish to. None of our queues is anybody's reply queue.

All refusals happen before a message is decoded, remembered or put in an order: a link of the chain would come too late,
and would have the host tell the return address, which is the stranger's choice. Whoever takes messages from a bus made
here (hosts, services, operators) has all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rockbot import topics
from rockbot.errors import ConfigError, MissingExtra
from rockbot.logs import quiet_libraries
from rockbot.settings import Settings
from rockbot.state.artifacts import OwnStateArtifacts
from rockbot.state.open import open_store
from rockbot_messaging.artifacts import ArtifactStore
from rockbot_messaging.artifacts_folder import FolderArtifacts
from rockbot_messaging.broker_urls import BrokerUrl, scheme_of
from rockbot_messaging.claims import DEFAULT_THRESHOLD, ClaimCheck
from rockbot_messaging.clock import Clock, IdSource
from rockbot_messaging.layers import Layer, LayeredBus
from rockbot_messaging.measures import NO_MEASURES, Measures
from rockbot_messaging.ports import BusObserver, MessageBus
from rockbot_messaging.reply_addresses import ReplyAddresses
from rockbot_messaging.signing import Signer, Signing
from rockbot_messaging.subscriptions import WorkSubscription
from rockbot_messaging.trust import Roles, Trust

__all__ = ["check_role", "claim_threshold", "describe_layers", "is_embedded", "make_bus", "signer_of"]

#: Schemes of state that lives on one machine, or in one process.
_LOCAL_STATE: Final = ("sqlite", "memory")


def is_embedded(settings: Settings) -> bool:
    """Whether the broker is the in-process one."""
    return _scheme(settings) == "memory"


def _scheme(settings: Settings) -> str:
    url = settings.broker_url.get_secret_value()
    scheme = scheme_of(url)
    if scheme in ("amqp", "amqps"):
        try:
            BrokerUrl.parse(url)
        except ValueError as exc:
            raise ConfigError(f"setting 'broker_url' is no address: {exc}") from None
    return scheme


def claim_threshold(settings: Settings) -> int:
    """Bytes above which a body lies aside, 0 for never. See `rockbot.settings_delivery.ArtifactSettings`."""
    wanted = settings.artifacts.threshold_bytes
    if wanted is not None:
        return wanted
    local = settings.state_address.partition("://")[0] in _LOCAL_STATE
    shared = settings.artifacts.folder is not None or not local
    return DEFAULT_THRESHOLD if shared and not is_embedded(settings) else 0


def signer_of(settings: Settings) -> Signer | None:
    """What makes and checks signatures, None without keys.

    Raises:
        ConfigError: a key's id or secret cannot be used.
    """
    keys = {name: secret.get_secret_value() for name, secret in settings.signing.keys.items()}
    if not keys:
        return None
    try:
        return Signer(keys, settings.signing.key)
    except ValueError as exc:
        raise ConfigError(f"setting 'signing': {exc}") from None


def check_role(settings: Settings) -> None:
    """Where trust is enforced, whoever handles messages must be somebody whose messages are taken.

    Raises:
        ConfigError: the broker user of this process is neither host nor worker.
    """
    if not settings.trust.enforce or _scheme(settings) not in ("amqp", "amqps"):
        return
    user = BrokerUrl.parse(settings.broker_url.get_secret_value()).user
    role = Roles(settings.trust.users).role_of_user(user)
    if role not in ("host", "worker"):
        raise ConfigError(
            f"setting 'trust.enforce' is on, and the broker user {user!r} of this process has the role {role} in 'trust.users':"
            f' others would refuse what it sends; write {user} = "host" (or "worker") there, or connect as another user'
        )


def make_bus(
    settings: Settings,
    *,
    clock: Clock,
    ids: IdSource,
    work: Sequence[WorkSubscription] = (),
    durable: Path | None = None,
    patience: float = 10.0,
    artifacts: ArtifactStore | None = None,
    measures: Measures = NO_MEASURES,
    observer: BusObserver | None = None,
) -> MessageBus:
    """The bus that the setting `broker_url` names, with its layers, not opened.

    `artifacts` keeps large bodies when no folder is set; None is the state store of the settings, opened when first needed.
    `measures` counts what the layers do, `observer` is told what becomes of deliveries.

    `work` are the subscriptions whose dead letters this process may be asked about; `durable` is the SQLite file in which
    an embedded bus keeps its messages; `patience` is how long (seconds) a broker that does not answer is waited for.

    Raises:
        ConfigError: the address is malformed or its scheme unknown, or signing or trust cannot be as they are set.
        MissingExtra: the provider's package is not installed.
    """
    provider = _provider(
        settings, clock=clock, ids=ids, work=work, durable=durable, patience=patience, observer=observer
    )
    layers = _layers(settings, clock=clock, artifacts=artifacts, measures=measures)
    if not layers:
        return provider
    return LayeredBus(provider, layers, clock=clock, source=settings.source, measures=measures)


def describe_layers(settings: Settings) -> list[str]:
    """What a delivery meets before its handlers, in the order in which it does; secrets are not shown."""
    lines = []
    if not is_embedded(settings):
        lines.append("reply addresses: a reply-to that names a queue of ours is a dead letter")
    if settings.trust.enforce:
        lines.append("trust: messages of running work from hosts, workers and operators only")
    if settings.signing.keys:
        signs = f"signs with {settings.signing.key}" if settings.signing.key else "does not sign"
        lines.append(f"signatures: {signs}; required on {', '.join(settings.signing.require) or 'nothing'}")
    threshold = claim_threshold(settings)
    if threshold or not is_embedded(settings):
        where = settings.artifacts.folder or "the state store"
        what = f"bodies above {threshold} bytes lie in {where}" if threshold else f"read from {where}, none is stored"
        lines.append(f"large bodies: {what}")
    return lines


def _layers(settings: Settings, *, clock: Clock, artifacts: ArtifactStore | None, measures: Measures) -> list[Layer]:
    layers: list[Layer] = []
    threshold = claim_threshold(settings)
    if threshold or not is_embedded(settings):
        layers.append(_claim_check(settings, threshold, clock=clock, artifacts=artifacts, measures=measures))
    if (signer := signer_of(settings)) is not None:
        try:
            layers.append(
                Signing(
                    signer,
                    require=settings.signing.require,
                    is_inner=topics.is_inner_type,
                    inner=topics.INTERNAL,
                    measures=measures,
                )
            )
        except ValueError as exc:
            raise ConfigError(f"setting 'signing.require': {exc}") from None
    if settings.trust.enforce:
        if is_embedded(settings):
            raise ConfigError(
                "setting 'trust.enforce' needs a broker that validates its users: an embedded one knows nobody, and nobody"
                " but its own process publishes there; take the setting out, or set broker_url"
            )
        layers.append(
            Trust(Roles(settings.trust.users), topics.INTERNAL, is_inner=topics.is_inner_type, measures=measures)
        )
    if not is_embedded(settings):
        layers.append(ReplyAddresses(settings.namespace, measures=measures))
    return layers


def _claim_check(
    settings: Settings, threshold: int, *, clock: Clock, artifacts: ArtifactStore | None, measures: Measures
) -> ClaimCheck:
    close = None
    if settings.artifacts.folder is not None:
        artifacts = FolderArtifacts(settings.artifacts.folder)
    elif artifacts is None:
        artifacts = own = OwnStateArtifacts(
            open_store(settings.state_address, clock), keep_days=settings.artifacts.keep_days
        )
        close = own.close
    return ClaimCheck(
        artifacts,
        threshold=threshold,
        max_body_bytes=settings.host.max_body_bytes,
        measures=measures,
        on_close=close,
    )


def _provider(
    settings: Settings,
    *,
    clock: Clock,
    ids: IdSource,
    work: Sequence[WorkSubscription],
    durable: Path | None,
    patience: float,
    observer: BusObserver | None,
) -> MessageBus:
    url = settings.broker_url.get_secret_value()
    match _scheme(settings):
        case "memory":
            from rockbot_messaging.memory import MemoryBus, SqliteBusStorage

            storage = SqliteBusStorage(durable) if durable is not None else None
            return MemoryBus(
                namespace=settings.namespace,
                clock=clock,
                ids=ids,
                storage=storage,
                max_body_bytes=settings.host.max_body_bytes,
                max_header_bytes=settings.broker.max_header_bytes,
                letters_wait=settings.letters.wait_seconds,
                observer=observer,
            )
        case "amqp" | "amqps":
            try:
                from rockbot_messaging.rabbitmq import RabbitBus, RabbitSettings
            except ModuleNotFoundError as exc:
                raise MissingExtra("a RabbitMQ broker", "rabbitmq") from exc

            quiet_libraries()
            try:
                wanted = RabbitSettings(
                    url=url,
                    namespace=settings.namespace,
                    max_body_bytes=settings.host.max_body_bytes,
                    subscriptions=tuple(item.name for item in work),
                    connect_timeout=patience,
                    max_header_bytes=settings.broker.max_header_bytes,
                    letters_wait=settings.letters.wait_seconds,
                    cafile=_path(settings.broker.cafile),
                    certfile=_path(settings.broker.certfile),
                    keyfile=_path(settings.broker.keyfile),
                )
            except ValueError as exc:
                raise ConfigError(f"setting 'broker_url': {exc}") from None
            return RabbitBus(wanted, clock=clock, ids=ids, observer=observer)
        case scheme:
            raise ConfigError(
                f"setting 'broker_url' has the unknown scheme {scheme!r}: use memory://, amqp:// or amqps://"
            )


def _path(path: Path | None) -> str | None:
    return None if path is None else str(path)
