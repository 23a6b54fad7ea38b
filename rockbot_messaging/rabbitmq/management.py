"""RabbitMQ's management interface (an HTTP API), as far as the topology tool needs it.

The home of the HTTP client in this provider, imported when it is first used. Errors are one line, name the address without
its credentials, and say what to do.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Self, final
from urllib.parse import quote, unquote, urlsplit

from rockbot_messaging.errors import BrokerUnreachable, MessagingError
from rockbot_messaging.rabbitmq.definitions import policy_body
from rockbot_messaging.rabbitmq.found import Found, FoundExchange, FoundQueue
from rockbot_messaging.rabbitmq.policies import Policy
from rockbot_messaging.rabbitmq.topology import Binding

if TYPE_CHECKING:
    import httpx2

__all__ = ["Management", "ManagementRefused"]

_TIMEOUT: Final = 30.0
_CONNECT_TIMEOUT: Final = 5.0
_PORTS: Final = {"http": 15672, "https": 15671}
_COLUMNS: Final = "name,arguments,durable,auto_delete,exclusive,messages,consumers,policy,owner_pid_details"


class ManagementRefused(MessagingError):
    """The management interface answers, and refuses: wrong credentials, no right, or no such thing."""


@final
class Management:
    """One virtual host through the management interface; an async context manager.

    Args:
        url: ``http://user:password@host:15672`` (or https); never shown.
        vhost: the virtual host that is looked at.
        user, password: used when the URL names none.
        context: for https; None for the system's authorities.

    Raises:
        ValueError: the URL is none.
    """

    def __init__(
        self, url: str, *, vhost: str, user: str = "", password: str = "", context: ssl.SSLContext | None = None
    ) -> None:
        try:
            parts = urlsplit(url)
            good = parts.scheme in _PORTS and bool(parts.hostname) and (parts.port is None or parts.port > 0)
        except ValueError:
            parts, good = urlsplit(""), False
        if not good:
            raise ValueError("the management URL must read http://user:password@host:15672 (or https://)")
        host = parts.hostname or ""
        self.address = f"{f'[{host}]' if ':' in host else host}:{parts.port or _PORTS[parts.scheme]}"
        self._base = f"{parts.scheme}://{self.address}{parts.path.rstrip('/').removesuffix('/api')}/api/"
        self._auth = (unquote(parts.username or user), unquote(parts.password or "") if parts.username else password)
        self._vhost = quote(vhost, safe="")
        self._context = context
        self._client: httpx2.AsyncClient | None = None

    @property
    def user(self) -> str:
        """Who asks."""
        return self._auth[0]

    async def __aenter__(self) -> Self:
        import httpx2

        self._client = httpx2.AsyncClient(
            base_url=self._base,
            auth=self._auth,
            timeout=httpx2.Timeout(_TIMEOUT, connect=_CONNECT_TIMEOUT),
            verify=self._context if self._context is not None else True,
            trust_env=False,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    # -- looking ------------------------------------------------------------------------------------------------------

    async def look(self) -> Found:
        """Everything in the virtual host.

        Raises:
            BrokerUnreachable: nobody answers there, or something that is no management interface.
            ManagementRefused: it does not let this user look.
        """
        version = await self.version()
        queues = [_queue(row) for row in await self._rows(f"queues/{self._vhost}?columns={_COLUMNS}")]
        exchanges = [_exchange(row) for row in await self._rows(f"exchanges/{self._vhost}")]
        bindings = frozenset(
            Binding(row["destination"], row["source"], row["routing_key"])
            for row in await self._rows(f"bindings/{self._vhost}")
            if row.get("destination_type") == "queue" and row["source"]
        )
        policies = tuple(_policy(row) for row in await self._rows(f"policies/{self._vhost}"))
        try:
            operator_policies = tuple(_policy(row) for row in await self._rows(f"operator-policies/{self._vhost}"))
        except ManagementRefused:
            operator_policies = ()
        return Found(
            version=version,
            queues={queue.name: queue for queue in queues},
            exchanges={exchange.name: exchange for exchange in exchanges},
            bindings=bindings,
            policies=policies,
            operator_policies=operator_policies,
            whole=True,
        )

    async def version(self) -> str:
        """The broker's release; raises as `look`."""
        overview = await self._call("GET", "overview")
        text = overview.get("rabbitmq_version") if isinstance(overview, Mapping) else None
        if not isinstance(text, str):
            raise BrokerUnreachable(f"{self._where} is no RabbitMQ management interface: check broker.management_url")
        return text

    async def queue(self, name: str) -> FoundQueue | None:
        """One queue, None when there is none; raises as `look`."""
        try:
            return _queue(await self._call("GET", f"queues/{self._vhost}/{quote(name, safe='')}"))
        except _NotFound:
            return None

    async def alarms(self) -> list[str]:
        """Resource alarms in force (``memory``, ``disk``), empty for none; raises as `look`."""
        try:
            answer = await self._call("GET", "health/checks/alarms")
        except _Unhealthy as exc:
            rows = exc.body.get("alarms", ())
            return sorted(
                {str(row.get("resource", row)) if isinstance(row, Mapping) else str(row) for row in rows}
            ) or ["unknown"]
        return [] if isinstance(answer, Mapping) and answer.get("status") == "ok" else ["unknown"]

    # -- changing -----------------------------------------------------------------------------------------------------

    async def set_policy(self, policy: Policy) -> None:
        """Create or replace a policy of this name; raises as `look`."""
        await self._call("PUT", f"policies/{self._vhost}/{quote(policy.name, safe='')}", dict(policy_body(policy)))

    async def delete_exchange(self, name: str) -> None:
        """Delete an exchange that nothing is bound to; the broker refuses one that is in use."""
        await self._call("DELETE", f"exchanges/{self._vhost}/{quote(name, safe='')}?if-unused=true")

    async def _rows(self, path: str) -> list[dict[str, Any]]:
        rows = await self._call("GET", path)
        if not isinstance(rows, list):
            raise BrokerUnreachable(
                f"{self._where} answered {path.partition('?')[0]!r} with something else than a list"
            )
        return rows

    @property
    def _where(self) -> str:
        return f"the management interface at {self.address}"

    async def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        import httpx2

        assert self._client is not None, "used outside of its block"
        try:
            answer = await self._client.request(method, path, json=body)
        except httpx2.TimeoutException:
            raise BrokerUnreachable(f"{self._where} did not answer in time") from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as exc:
            raise BrokerUnreachable(f"{self._where} cannot be used: {_reason(exc)}") from None
        if answer.is_success:
            return _decoded(answer.content)
        said = _decoded(answer.content)
        reason = str(said.get("reason", "")) if isinstance(said, Mapping) else ""
        reason = " ".join(reason.split())[:500] or f"HTTP status {answer.status_code}"
        if answer.status_code == 404:
            raise _NotFound(f"{self._where} has no {path.partition('?')[0]!r} (is the virtual host right?)")
        if answer.status_code == 503 and isinstance(said, Mapping):
            raise _Unhealthy(reason, said)
        if answer.status_code in (401, 403):
            raise ManagementRefused(
                f"{self._where} refuses user {self.user!r}: {reason}. It needs its right password, permissions in the "
                "virtual host and the tag `management` (`policymaker` to set policies)"
            )
        raise ManagementRefused(f"{self._where} refuses {method} {path.partition('?')[0]!r}: {reason}")


class _NotFound(ManagementRefused):
    pass


class _Unhealthy(ManagementRefused):
    def __init__(self, text: str, body: Mapping[str, Any]) -> None:
        super().__init__(text)
        self.body = body


def _decoded(content: bytes) -> Any:
    import json

    try:
        return json.loads(content) if content else {}
    except ValueError:
        return None


def _reason(exc: Exception) -> str:
    """The innermost cause: the client wraps the system's errors, and only those say something."""
    cause: BaseException = exc
    while cause.__cause__ is not None or cause.__context__ is not None:
        inner = cause.__cause__ or cause.__context__
        assert inner is not None
        cause = inner
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {cause.verify_message}"
    return str(cause) or type(cause).__name__


def _queue(row: Mapping[str, Any]) -> FoundQueue:
    return FoundQueue(
        name=str(row["name"]),
        arguments=dict(row.get("arguments") or {}),
        durable=bool(row.get("durable", True)),
        transient=bool(row.get("exclusive") or row.get("owner_pid_details")),
        messages=int(row.get("messages") or 0),
        counts_unacked="messages" in row,
        consumers=int(row.get("consumers") or 0),
        policy=str(row.get("policy") or ""),
    )


def _exchange(row: Mapping[str, Any]) -> FoundExchange:
    return FoundExchange(
        name=str(row["name"]),
        kind=str(row["type"]),
        arguments=dict(row.get("arguments") or {}),
        durable=bool(row.get("durable", True)),
    )


def _policy(row: Mapping[str, Any]) -> Policy:
    return Policy(
        name=str(row["name"]),
        pattern=str(row["pattern"]),
        definition=dict(row["definition"]),
        priority=int(row.get("priority", 0)),
        apply_to=str(row.get("apply-to", "all")),
    )
