"""One connection that comes back: whoever needs it asks for the session that stands now, or waits for the next one.

Nothing is restored behind anybody's back. When a session ends, every consumer and publisher notices, takes the next one
and sets itself up again from its own declarations; so there is one way to start and no second way to recover.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from typing import Final, final

from aiormq.exceptions import AMQPConnectionError, AuthenticationError
from yarl import URL

from rockbot_messaging.broker_urls import Address
from rockbot_messaging.errors import BrokerUnreachable, Closed
from rockbot_messaging.rabbitmq.members import Members
from rockbot_messaging.rabbitmq.pausing import Chance, Pauses
from rockbot_messaging.rabbitmq.session import OpenChannel, OwnConnection, Session, speaking
from rockbot_messaging.rabbitmq.settings import RabbitSettings
from rockbot_messaging.rabbitmq.tap import TappedTransport

__all__ = ["Link", "OpenChannel", "Session", "speaking"]

_log = logging.getLogger("rockbot_messaging.rabbitmq")


#: Seconds between two log records of one outage.
_SAY_AGAIN: Final = 60.0
#: Seconds that are enough for an attempt to learn why it fails.
_FAIR: Final = 1.0


@final
class Link:
    """Keeps one connection to a broker: to whichever of its members can be reached."""

    def __init__(self, settings: RabbitSettings, purpose: str, chance: Chance = random.random) -> None:
        self._settings = settings
        self._pauses = Pauses(settings.reconnect_interval, settings.reconnect_longest, chance)
        self._members = Members(settings.parts.addresses, chance)
        self._purpose = purpose
        self._context: ssl.SSLContext | None = None
        self._session: Session | None = None
        self._changed = asyncio.Condition()
        self._keeper: asyncio.Task[None] | None = None
        self._closed = False
        self._hopeless = False
        self._out_of_time = False
        self.trouble = "not opened"

    @property
    def session_now(self) -> Session | None:
        """The session that stands, if one does."""
        session = self._session
        return None if session is None or session.ended.is_set() else session

    async def open(self) -> None:
        """Connect, trying again until the time limit; a refusal that waiting does not cure is raised at once.

        Raises:
            BrokerUnreachable: it cannot be done.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.connect_timeout
        self._closed = False
        told: BrokerUnreachable | None = None
        while True:
            left = deadline - loop.time()
            try:
                self._session = await self._connect(left)
                break
            except BrokerUnreachable as exc:
                # An attempt that the limit cut short says less than the one before it.
                if told is None or left >= _FAIR or not self._out_of_time:
                    told = exc
                pause = self._pauses.next()
                if self._hopeless or loop.time() + pause >= deadline:
                    raise told from None
                await asyncio.sleep(pause)
        self._keeper = asyncio.create_task(self._keep(), name=f"rabbitmq {self._purpose} connection")

    async def session(self, timeout: float) -> Session:
        """The session that stands, or the next one within `timeout` seconds.

        Raises:
            BrokerUnreachable: there is none, and none came.
            Closed: the link was closed or never opened.
        """
        if (session := self.session_now) is not None:
            return session
        try:
            async with asyncio.timeout(timeout), self._changed:
                while True:
                    if self._closed or self._keeper is None:
                        raise Closed("the connection to the broker was closed, or never opened")
                    if (session := self.session_now) is not None:
                        return session
                    await self._changed.wait()
        except TimeoutError:
            raise BrokerUnreachable(self._explain(self.trouble)) from None

    async def close(self) -> None:
        """Disconnect for good."""
        self._closed = True
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._session is not None:
            await self._session.close()
            self._session = None
        async with self._changed:
            self._changed.notify_all()

    def kill(self) -> None:
        """Cut the connection and do not come back."""
        self._closed = True
        if self._keeper is not None:
            self._keeper.cancel()
        if self._session is not None:
            self._session.cut()

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            assert self._session is not None
            since = loop.time()
            await self._session.ended.wait()
            self.trouble = self._session.end_reason or "the connection was lost"
            if self._members.several:
                self.trouble = f"{self._session.member}: {self.trouble}"
            _log.warning("%s; connecting again", self._explain(self.trouble))
            # The library notices the end before its own tasks are done with it.
            await self._session.close()
            if loop.time() - since < self._settings.reconnect_interval:
                # A broker that takes a connection only to end it must not be stormed.
                await asyncio.sleep(self._pauses.next())
            else:
                self._pauses.reset()
            say_again = 0.0
            while True:
                try:
                    self._session = await self._connect(self._settings.connect_timeout)
                    break
                except BrokerUnreachable as exc:
                    pause = self._pauses.next()
                    if loop.time() >= say_again:  # an outage of hours is not worth a line every attempt
                        _log.warning("%s; trying again, now in %.1f s", exc, pause)
                        say_again = loop.time() + _SAY_AGAIN
                    await asyncio.sleep(pause)
            _log.info("connected again to RabbitMQ at %s", self._session.member)
            async with self._changed:
                self._changed.notify_all()

    async def _connect(self, timeout: float) -> Session:
        try:
            if self._context is None:
                self._context = await asyncio.to_thread(self._settings.ssl_context)
        except (OSError, ValueError) as exc:
            self._hopeless = True
            raise BrokerUnreachable(self._explain(f"a TLS file cannot be used: {exc}")) from None
        loop = asyncio.get_running_loop()
        deadline = loop.time() + max(timeout, 0.1)
        refusals: dict[Address, _Refusal] = {}
        for member, patience in self._members.round():
            left = deadline - loop.time()
            if left <= 0:
                break
            try:
                session = await self._connect_to(member, left if patience is None else min(left, patience))
            except _Refusal as exc:
                refusals[member] = exc
                continue
            self._members.found(member)
            return session
        # Waiting cures nothing when every member refuses for good; of several, one may yet come up.
        self._hopeless = bool(refusals) and all(refusal.for_good for refusal in refusals.values())
        self._out_of_time = all(refusal.out_of_time for refusal in refusals.values())
        texts = {str(refusal) for refusal in refusals.values()}
        if len(texts) == 1:
            self.trouble = texts.pop()
        else:
            self.trouble = "; ".join(f"{member}: {refusal}" for member, refusal in refusals.items())
        raise BrokerUnreachable(self._explain(self.trouble))

    async def _connect_to(self, member: Address, timeout: float) -> Session:
        transport = TappedTransport(self._context)
        connection = OwnConnection(
            URL(self._settings.connection_url(member)),
            ssl_context=self._context,
            client_properties={"connection_name": f"{self._settings.namespace} {self._purpose}"},
        )
        connection.kwargs["transport_factory"] = transport
        try:
            async with asyncio.timeout(timeout):
                await connection.connect()
            return Session(connection, transport, member)
        except asyncio.CancelledError:
            transport.abort()
            raise
        except Exception as exc:
            # Of any class: a server that hangs up or talks nonsense between two frames shows in the library as
            # StopAsyncIteration or as an error of its parser, and none of them may end the attempts to come back.
            transport.abort()
            stream = getattr(transport, "stream", None)
            # Waiting cures neither wrong credentials (403), nor a missing virtual host (530), nor a false certificate.
            for_good = (
                isinstance(exc, AuthenticationError)
                or isinstance(exc.__cause__ or exc, ssl.SSLCertVerificationError)
                or (stream is not None and stream.close_code in (403, 530))
            )
            reason = (stream.close_reason if stream is not None else "") or _reason(exc)
            raise _Refusal(reason, for_good=for_good, out_of_time=isinstance(exc, TimeoutError)) from None

    def _explain(self, trouble: str) -> str:
        where = f"RabbitMQ at {self._settings.address} (virtual host {self._settings.vhost!r})"
        return f"{where} cannot be used: {trouble}"


class _Refusal(Exception):
    """A member cannot be used, whether that is going to stay so, and whether there was only no time to learn why."""

    def __init__(self, reason: str, *, for_good: bool, out_of_time: bool) -> None:
        super().__init__(reason)
        self.for_good = for_good
        self.out_of_time = out_of_time


def _reason(exc: BaseException) -> str:
    if isinstance(exc, TimeoutError):
        return "no answer in time"
    if isinstance(exc, StopAsyncIteration):
        return "the connection was closed during the log-in"
    if isinstance(exc, AMQPConnectionError | OSError) and exc.args:
        return str(exc.args[-1])
    return str(exc) or type(exc).__name__
