"""amqps: the server is verified, may want to see a certificate, and every way to fail is one clear line."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from nodes.rabbitmq import RabbitNode, certificates, free_port

from rockbot.operators.broker_access import BrokerAccess
from rockbot.operators.broker_checks import broker_checks
from rockbot.settings import load
from rockbot_messaging import WorkSubscription
from rockbot_messaging.clock import RandomIds, SystemClock
from rockbot_messaging.errors import BrokerUnreachable
from rockbot_messaging.rabbitmq import RabbitBus, RabbitSettings
from rockbot_messaging.testing import Recorder
from rockbot_messaging.testing.harness import message

pytestmark = pytest.mark.rabbitmq

_CANARY = "c4n4ry-p4ssw0rd"
_CLIENT = {"certfile": "client.pem", "keyfile": "client.key"}


@dataclass(frozen=True)
class _Secured:
    node: RabbitNode
    port: int
    management_port: int
    files: Path

    def bus(
        self, *, user: str = "guest:guest@", query: str = "", port: int = 0, patience: float = 3600, **files: str
    ) -> RabbitBus:
        paths: dict[str, Any] = {name: str(self.files / file) for name, file in files.items()}
        url = f"amqps://{user}localhost:{port or self.port}/{query}"
        settings = RabbitSettings(url=url, namespace="tls", connect_timeout=patience, **paths)
        return RabbitBus(settings, SystemClock(), RandomIds())


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Secured]:
    folder = tmp_path_factory.mktemp("tls")
    certificates(folder)
    management_port = free_port()
    node = RabbitNode(
        tls=folder,
        client_certificate=True,
        plugins=("rabbitmq_auth_mechanism_ssl", "rabbitmq_management"),
        extra_config=(
            "auth_mechanisms.1 = PLAIN\nauth_mechanisms.2 = AMQPLAIN\nauth_mechanisms.3 = EXTERNAL\n"
            "ssl_cert_login_from = common_name\n"
            f"management.ssl.ip = 127.0.0.1\nmanagement.ssl.port = {management_port}\n"
            f"management.ssl.cacertfile = {folder}/ca.pem\n"
            f"management.ssl.certfile = {folder}/server.pem\n"
            f"management.ssl.keyfile = {folder}/server.key\n"
        ),
    )
    node.start()
    yield _Secured(node, node.tls_port, management_port, folder)
    node.stop()


@contextmanager
def _server(files: Path, name: str) -> Iterator[int]:
    """A TLS server that presents another certificate; no handshake with it succeeds, so it speaks no AMQP."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files / f"{name}.pem", files / f"{name}.key")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                try:
                    peer.settimeout(5)
                    context.wrap_socket(peer, server_side=True).close()
                except OSError:
                    peer.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


async def _refusal(bus: RabbitBus) -> str:
    """What is told when it cannot be opened, long before its patience is over."""
    async with asyncio.timeout(60):
        with pytest.raises(BrokerUnreachable) as caught:
            await bus.open()
    await bus.close()
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith("RabbitMQ at localhost:")
    return text


async def test_messages_travel_over_tls_with_a_client_certificate(secured: _Secured) -> None:
    bus = secured.bus(cafile="ca.pem", **_CLIENT)
    await bus.open()
    worker = Recorder()
    await bus.subscriber.subscribe(WorkSubscription(name="work", patterns=("job.#",)), worker)
    large = message("job.one", b"x" * 1_000_000)
    await bus.publisher.publish(large)
    assert (await worker.wait_for(1))[0].body == large.body
    await bus.close()


async def test_an_unknown_authority_is_refused(secured: _Secured) -> None:
    bus = secured.bus()
    with pytest.raises(BrokerUnreachable, match=rf"localhost:{secured.port}.*certificate"):
        await bus.open()
    await bus.close()


async def test_another_authority_is_refused(secured: _Secured) -> None:
    assert "certificate verify failed" in await _refusal(secured.bus(cafile="other.pem", **_CLIENT))


@pytest.mark.parametrize(("name", "told"), [("expired", "certificate has expired"), ("elsewhere", "Hostname mismatch")])
async def test_a_certificate_that_is_not_for_here_or_now_is_refused(secured: _Secured, name: str, told: str) -> None:
    with _server(secured.files, name) as port:
        assert told in await _refusal(secured.bus(cafile="ca.pem", port=port))


async def test_a_missing_client_certificate_is_told_in_one_line(secured: _Secured) -> None:
    text = await _refusal(secured.bus(user=f"guest:{_CANARY}@", cafile="ca.pem", patience=1))
    assert _CANARY not in text


@pytest.mark.parametrize(
    "files", [{"cafile": "nowhere.pem"}, {"cafile": "ca.pem", "certfile": "client.pem", "keyfile": "other.key"}]
)
async def test_a_file_that_is_missing_or_does_not_fit_is_told_by_name(secured: _Secured, files: dict[str, str]) -> None:
    text = await _refusal(secured.bus(**files))
    assert "a TLS file cannot be used" in text
    assert str(secured.files / list(files.values())[-1]) in text


async def test_a_client_certificate_can_be_the_log_in(secured: _Secured) -> None:
    def bus() -> RabbitBus:
        return secured.bus(user="", query="?auth=external", cafile="ca.pem", **_CLIENT)

    # The certificate's common name is the user, and there is no such user yet.
    assert "EXTERNAL" in await _refusal(bus())
    await asyncio.to_thread(secured.node.add_user, "client", _CANARY, configure=".*", write=".*", read=".*")
    opened = bus()
    await opened.open()
    await opened.close()


async def test_settings_name_the_files_for_tls(secured: _Secured, tmp_path: Path) -> None:
    settings = load(
        {
            "broker_url": f"amqps://guest:guest@localhost:{secured.port}/",
            "broker": {name: str(secured.files / file) for name, file in {"cafile": "ca.pem", **_CLIENT}.items()},
            "state_url": f"sqlite:///{tmp_path}/state.db",
        }
    )
    async with BrokerAccess(settings) as access:
        assert (await access.version()).startswith(("3.", "4."))
    checks = {check.name: check for check in await broker_checks(settings)}
    assert checks["broker wire"].detail == f"TLS to localhost:{secured.port}"


async def test_the_management_interface_is_verified_by_the_same_files(secured: _Secured, tmp_path: Path) -> None:
    def access(cafile: str) -> BrokerAccess:
        address = f"https://guest:{_CANARY if cafile == 'other.pem' else 'guest'}@localhost:{secured.management_port}"
        files = {"cafile": cafile, **_CLIENT}
        return BrokerAccess(
            load(
                {
                    "broker_url": f"amqps://guest:guest@localhost:{secured.port}/",
                    "broker": {"management_url": address}
                    | {name: str(secured.files / file) for name, file in files.items()},
                    "state_url": f"sqlite:///{tmp_path}/state.db",
                }
            )
        )

    async with access("ca.pem") as opened:
        assert (await opened.look()).whole
    async with access("other.pem") as refused:
        with pytest.raises(BrokerUnreachable) as caught:
            await refused.look()
    text = str(caught.value)
    assert text.startswith(f"the management interface at localhost:{secured.management_port} cannot be used")
    assert "certificate" in text
    assert _CANARY not in text
