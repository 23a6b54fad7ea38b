"""Stores over TLS: the server is verified, may want to see a certificate, and every way to fail is one line without secrets."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
from nodes.launching import free_port
from nodes.postgres import PASSWORD, PostgresNode
from nodes.rabbitmq import certificates
from nodes.redis import RedisNode

from rockbot.errors import ConfigError
from rockbot.state.keys import key
from rockbot.state.open import open_store
from rockbot.state.ports import StateUnavailable
from rockbot.state.postgres_pool import PostgresAddress
from rockbot_messaging.clock import SystemClock

K = key("acme", "thing", "a")
OWN = {"certfile": "client.pem", "keyfile": "client.key"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    certificates(folder)
    return folder


@pytest.fixture(scope="module")
def postgres_tls(files):
    node = PostgresNode(tls=files)
    try:
        node.start()
        yield f"postgresql://rockbot:{PASSWORD}@localhost:{node.port}/postgres"
    finally:
        node.remove()


@contextmanager
def _redis(files, certificate):
    port = free_port()
    names = {"tls_cert_file": f"{certificate}.pem", "tls_key_file": f"{certificate}.key", "tls_ca_cert_file": "ca.pem"}
    given = {name: str(files / file) for name, file in names.items()}
    node = RedisNode(tls_port=str(port), tls_auth_clients="yes", **given)
    try:
        node.start()
        yield f"rediss://:{PASSWORD}@localhost:{port}/0"
    finally:
        node.remove()


@pytest.fixture(scope="module")
def redis_tls(files):
    with _redis(files, "server") as url:
        yield url


@pytest.fixture(params=["postgres_tls", "redis_tls"])
def url(request):
    return request.getfixturevalue(request.param)


def address(url, files, **given):
    return f"{url}?{'&'.join(f'{name}={files / file}' for name, file in given.items())}"


async def refusal(url, kind=StateUnavailable):
    with pytest.raises(kind) as caught:
        store = open_store(url, SystemClock())
        await store.open()
    text = str(caught.value)
    assert PASSWORD not in text
    assert "\n" not in text
    return text


async def test_a_store_is_used_over_tls_with_a_client_certificate(url, files):
    store = open_store(address(url, files, cafile="ca.pem", **OWN), SystemClock())
    await store.open()
    await store.put(K, bytes(1_000_000))
    assert len((await store.get(K)).value) == 1_000_000
    await store.close()


async def test_another_authority_is_refused(url, files):
    text = await refusal(address(url, files, cafile="other.pem", **OWN))
    assert "certificate" in text
    assert "files for TLS" in text


async def test_a_certificate_for_another_name_or_time_is_refused(files):
    for certificate, told in (("elsewhere", "Hostname mismatch"), ("expired", "certificate has expired")):
        with _redis(files, certificate) as url:
            assert told in await refusal(address(url, files, cafile="ca.pem", **OWN))


def test_postgres_checks_the_name_too_unless_told_otherwise(files):
    url = address("postgresql://me@db/x", files, cafile="ca.pem")
    assert "sslmode=verify-full" in PostgresAddress.parse(url).dsn
    assert "sslmode=verify-ca" in PostgresAddress.parse(f"{url}&sslmode=verify-ca").dsn
    assert "ssl" not in PostgresAddress.parse("postgresql://me@db/x").dsn


async def test_a_missing_client_certificate_is_told(url, files):
    await refusal(address(url, files, cafile="ca.pem"))


async def test_a_server_that_wants_tls_refuses_an_address_without_it(postgres_tls):
    assert "check user and password" in await refusal(f"{postgres_tls}?sslmode=disable")


async def test_files_that_are_missing_or_alone_are_told_by_name(url, files):
    assert "nowhere.pem" in await refusal(address(url, files, cafile="nowhere.pem"), ConfigError)
    assert "belong together" in await refusal(address(url, files, cafile="ca.pem", certfile="client.pem"), ConfigError)


async def test_files_for_tls_belong_to_an_address_with_tls(files):
    assert "rediss://" in await refusal(address("redis://:x@localhost:1/0", files, cafile="ca.pem"), ConfigError)
