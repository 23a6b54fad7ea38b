"""amqps: the server is verified, and may want to see a certificate."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from nodes.rabbitmq import RabbitNode, free_port

from rockbot_messaging import WorkSubscription
from rockbot_messaging.clock import RandomIds, SystemClock
from rockbot_messaging.errors import BrokerUnreachable
from rockbot_messaging.rabbitmq import RabbitBus, RabbitSettings
from rockbot_messaging.testing import Recorder
from rockbot_messaging.testing.harness import message

pytestmark = pytest.mark.rabbitmq


@dataclass(frozen=True)
class _Secured:
    port: int
    files: Path

    def bus(self, **files: str) -> RabbitBus:
        paths = {name: str(self.files / file) for name, file in files.items()}
        settings = RabbitSettings(
            url=f"amqps://guest:guest@localhost:{self.port}/", namespace="tls", connect_timeout=3, **paths
        )
        return RabbitBus(settings, SystemClock(), RandomIds())


def _certificates(folder: Path) -> None:
    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=60)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca", "-days", "2")
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    for name in ("server", "client"):
        openssl("req", *curve, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                "-out", f"{name}.pem", "-days", "2", "-extfile", "names")  # fmt: skip


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Secured]:
    folder = tmp_path_factory.mktemp("tls")
    _certificates(folder)
    port = free_port()
    node = RabbitNode(
        extra_config=f"listeners.ssl.1 = 127.0.0.1:{port}\n"
        f"ssl_options.cacertfile = {folder}/ca.pem\n"
        f"ssl_options.certfile = {folder}/server.pem\n"
        f"ssl_options.keyfile = {folder}/server.key\n"
        "ssl_options.verify = verify_peer\n"
        "ssl_options.fail_if_no_peer_cert = true\n"
    )
    node.start()
    yield _Secured(port, folder)
    node.stop()


async def test_messages_travel_over_tls_with_a_client_certificate(secured: _Secured) -> None:
    bus = secured.bus(cafile="ca.pem", certfile="client.pem", keyfile="client.key")
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
