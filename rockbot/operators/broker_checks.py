"""What `doctor` looks at on a RabbitMQ broker: release, wire, user, queues, consumers, limits, alarms.

Independent of the bus, so that it can say why a bus cannot be opened; nothing is created or changed.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from rockbot.errors import ConfigError
from rockbot.operators.broker_access import BrokerAccess
from rockbot.operators.models import Check, CheckStatus
from rockbot.settings import Settings

if TYPE_CHECKING:
    from rockbot_messaging.rabbitmq.found import Found
    from rockbot_messaging.rabbitmq.planning import Plan, Step

__all__ = ["broker_checks", "timeout_checks", "wire_checks"]

_OLDEST: Final = (3, 10)
_NEWEST: Final = (4, 3)
#: The first release in which a policy can say how long a delivery may last.
_TIMEOUT_POLICY_SINCE: Final = (3, 12)
#: Names told in one check; more are counted.
_SHOWN: Final = 5
_APPLY: Final = "rockbot topology apply"
_PLAN: Final = "rockbot topology plan shows all of it"
_MANAGEMENT: Final = "set broker.management_url (RabbitMQ's HTTP API) to see and set them"


async def broker_checks(settings: Settings) -> list[Check]:
    """Everything that can be found out about the broker of these settings; empty when it cannot be reached at all.

    Raises:
        ConfigError, MissingExtra: the settings lead to no broker.
    """
    from rockbot_messaging.errors import BrokerUnreachable, MessagingError
    from rockbot_messaging.rabbitmq.channel import ChannelLost

    async with BrokerAccess(settings) as access:
        checks = wire_checks(access)
        try:
            session = await access.session()
            probed = await access.probe()
        except (BrokerUnreachable, ChannelLost):
            return checks  # whoever opens the bus says why
        checks += [_version(access, session.server_version), *_permissions(access, probed)]
        found, alarms = probed, ["blocked"] if session.blocked else []
        try:
            management = await access.management()
            if management is not None:
                found = await management.look()
                alarms += await management.alarms()
        except (MessagingError, ConfigError) as exc:
            advice = "check broker.management_url: address, user, password, the plug-in rabbitmq_management"
            checks.append(Check(name="broker management", status="warn", detail=str(exc), advice=advice))
        plan = access.compare(found)
        checks += [*_topology(plan), *_consumers(access, probed), *_limits(access, found, plan)]
        checks += [*timeout_checks(access, found), _alarms(alarms)]
    return checks


def wire_checks(access: BrokerAccess) -> list[Check]:
    """Who could read along, and as whom we log in."""
    parts = access.rabbit.parts
    near = all(_is_loopback(address.host) for address in parts.addresses)
    checks = []
    if parts.secure:
        checks.append(Check(name="broker wire", status="ok", detail=f"TLS to {access.rabbit.address}"))
    elif near:
        checks.append(Check(name="broker wire", status="ok", detail="without TLS, on this machine alone"))
    else:
        detail = f"plain AMQP to {access.rabbit.address}: password and messages can be read on the way"
        advice = "use amqps:// and, for an authority of your own, broker.cafile"
        checks.append(Check(name="broker wire", status="warn", detail=detail, advice=advice))
    address = access.settings.broker.management_url
    if address is not None:
        management = urlsplit(address.get_secret_value())
        if management.scheme == "http" and not _is_loopback(management.hostname or ""):
            detail = (
                f"plain HTTP to the management interface at {management.hostname}: its password can be read on the way"
            )
            checks.append(Check(name="broker wire", status="warn", detail=detail, advice="use https://"))
    if access.rabbit.user == "guest" and not near:
        advice = "make a user per role: rockbot topology roles; then delete guest"
        checks.append(Check(name="broker user", status="warn", detail="the default user `guest`", advice=advice))
    return checks


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _version(access: BrokerAccess, version: str) -> Check:
    from rockbot_messaging.rabbitmq.policies import version_of

    detail = f"RabbitMQ {version} at {access.rabbit.address}, virtual host {access.rabbit.vhost!r}"
    if _OLDEST <= version_of(version) <= _NEWEST:
        return Check(name="broker version", status="ok", detail=detail)
    advice = "releases 3.10 to 4.3 are supported; others may work and are not tested"
    return Check(name="broker version", status="warn", detail=detail, advice=advice)


def _permissions(access: BrokerAccess, probed: Found) -> list[Check]:
    """What the broker did not let this user declare."""
    from rockbot_messaging.rabbitmq import roles

    user = access.rabbit.user
    refused = [text.partition(" (this user")[0] for text in probed.blind if "(this user" in text]
    if not refused:
        return [Check(name="broker permissions", status="ok", detail=f"user {user!r} may declare what is needed")]
    known = {name: role.name for name, role in access.roles()}.get(user)
    detail = f"user {user!r} may not declare {_listed(text.rpartition(' ')[2] for text in refused)}"
    if known not in (None, "host"):
        return [Check(name="broker permissions", status="ok", detail=f"{detail}; as role {known!r} it need not")]
    role = roles.host(access.names)
    advice = (
        f"a host needs: rabbitmqctl set_permissions -p {access.rabbit.vhost} {user} "
        f"'{role.configure}' '{role.write}' '{role.read}'; an operator does not (rockbot topology roles)"
    )
    return [Check(name="broker permissions", status="warn", detail=detail, advice=advice)]


def _topology(plan: Plan) -> list[Check]:
    """Whether exchanges, queues and bindings are as wanted."""
    from rockbot_messaging.rabbitmq.planning import Mark

    things = ("queue", "exchange")
    wrong = [step for step in plan.marked(Mark.REFUSE) if step.kind in things]
    missing = [step for step in plan.marked(Mark.ADD) if step.kind in things]
    unbound = [step for step in plan.marked(Mark.ADD) if step.kind == "binding"]
    surplus = plan.marked(Mark.SURPLUS)
    held = [step for step in surplus if step.messages]
    checks = [
        Check(
            name=f"{step.kind} {step.name}",
            status="fail",
            detail=step.reason,
            advice=f"{_PLAN}, with the commands to move its messages",
        )
        for step in wrong
    ]
    if missing:
        detail = f"missing: {_names(missing)}"
        checks.append(_check("broker queues", "warn", detail, f"a host creates them when it starts, or: {_APPLY}"))
    elif unbound:
        detail = f"queues are not bound, so messages do not reach them: {_names(unbound)}"
        checks.append(_check("broker queues", "fail", detail, _APPLY))
    elif not wrong:
        checks.append(_check("broker queues", "ok", "exchanges, queues and bindings are as needed" if not plan.blind else (
            "exchanges and queues are as needed"
        )))  # fmt: skip
    if held:
        detail = f"messages wait where nobody takes them: {_listed(f'{s.name} ({s.messages})' for s in held)}"
        checks.append(_check("broker leftovers", "warn", detail, _PLAN))
    elif surplus:
        advice = "rockbot topology prune, and rockbot topology apply --remove-bindings"
        checks.append(_check("broker leftovers", "ok", f"not needed any more: {_names(surplus)}", advice))
    return checks


def _consumers(access: BrokerAccess, probed: Found) -> list[Check]:
    """Whether somebody consumes each work queue that is configured here; others are other people's business."""
    idle: list[tuple[str, int]] = []
    waiting: list[tuple[str, int]] = []
    listed = (*access.work.consumed, *access.work.services)
    for subscription in listed:
        there = probed.queues.get(access.names.queue(subscription.name))
        if there is not None and not there.consumers:
            (waiting if there.messages else idle).append((there.name, there.messages))
    advice = "start what consumes them: rockbot run, and rockbot scripts for scripts.*"
    checks = []
    if waiting:
        detail = f"messages wait and nobody consumes: {_listed(f'{name} ({count})' for name, count in waiting)}"
        checks.append(_check("broker consumers", "fail", detail, advice))
    if idle:
        detail = f"nobody consumes: {_listed(name for name, _ in idle)}"
        checks.append(_check("broker consumers", "warn", detail, advice))
    return checks or [_check("broker consumers", "ok", f"all {len(listed)} work queues are consumed")]


def _limits(access: BrokerAccess, found: Found, plan: Plan) -> list[Check]:
    """Whether the policies that bound queues are in force, and none of others endangers a queue."""
    from rockbot_messaging.rabbitmq.planning import Mark

    limits = access.limits
    wanted = f"{limits.max_messages} messages or {limits.max_bytes >> 20} MiB a queue, {limits.max_unrouted} unrouted"
    if found.policies is None:
        return [_check("broker limits", "ok", f"not seen; wanted: {wanted}", _MANAGEMENT)]
    checks = [
        _check(f"{step.kind} {step.name}", "fail", step.reason, "; ".join(step.way))
        for step in plan.marked(Mark.REFUSE)
        if step.kind in ("policy", "operator policy")
    ]
    absent = [step for step in plan.marked(Mark.ADD, Mark.ALTER) if step.kind == "policy"]
    if absent:
        checks.append(_check("broker limits", "warn", f"not in force: {_names(absent)} ({wanted})", _APPLY))
    return checks or [_check("broker limits", "ok", wanted)]


def timeout_checks(access: BrokerAccess, found: Found) -> list[Check]:
    """Whether a delivery may last as long as a handler may take, twice over."""
    from rockbot_messaging.rabbitmq.policies import DEFAULT_CONSUMER_TIMEOUT, effective, version_of

    longest = access.limits.handler_seconds
    allowed, whence = DEFAULT_CONSUMER_TIMEOUT, "RabbitMQ's default"
    if version_of(found.version) >= _TIMEOUT_POLICY_SINCE:
        values = [
            policy.definition["consumer-timeout"] / 1000
            for queue in access.queues
            if (policy := effective(found.policies or (), queue)) is not None
            and "consumer-timeout" in policy.definition
        ]
        if values:
            allowed, whence = min(values), "by policy"
        advice = f"{_APPLY} (with broker.management_url) sets {access.limits.consumer_timeout:g} s"
    else:
        milliseconds = int(access.limits.consumer_timeout * 1000)
        advice = f"set `consumer_timeout = {milliseconds}` in rabbitmq.conf; this release has no policy for it"
    detail = f"a handler may take {longest:g} s, a delivery may last {allowed:g} s ({whence})"
    if 2 * longest > allowed:
        return [_check("consumer timeout", "fail" if longest >= allowed else "warn", detail, advice)]
    return [_check("consumer timeout", "ok", detail)]


def _alarms(alarms: list[str]) -> Check:
    if not alarms:
        return _check("broker alarms", "ok", "none")
    detail = f"the broker takes no publishes: {', '.join(dict.fromkeys(alarms))}"
    return _check("broker alarms", "fail", detail, "free memory or disk on the broker; publishers go on by themselves")


def _check(name: str, status: CheckStatus, detail: str, advice: str = "") -> Check:
    return Check(name=name, status=status, detail=detail, advice=advice)


def _names(steps: Iterable[Step]) -> str:
    return _listed(step.name for step in steps)


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else ""
    return f"{', '.join(every[:_SHOWN])}{more}"
