"""Settings are checked when written down, and keep their secret."""

from __future__ import annotations

import pytest

from rockbot_messaging.rabbitmq import RabbitSettings


def test_the_secret_is_in_no_text_about_the_settings() -> None:
    settings = RabbitSettings(url="amqp://us%40er:s3cret@broker.example:5673/team%2Fone")
    assert "s3cret" not in f"{settings!r} {settings}"
    assert (settings.address, settings.user, settings.vhost) == ("broker.example:5673", "us@er", "team/one")


@pytest.mark.parametrize(
    ("url", "address", "vhost"),
    [
        ("amqp://broker", "broker:5672", "/"),
        ("amqps://broker/", "broker:5671", "/"),
        ("amqp://broker/%2F", "broker:5672", "/"),
        ("amqp://[::1]:5/x", "[::1]:5", "x"),
    ],
)
def test_defaults_are_filled_in(url: str, address: str, vhost: str) -> None:
    settings = RabbitSettings(url=url)
    assert (settings.address, settings.vhost) == (address, vhost)
    assert (settings.ssl_context() is not None) == url.startswith("amqps")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://u:s3cret@broker",
        "amqp://",
        "amqp://u:s3cret@broker:99999999/",
        "broker:5672",
        "amqp://u:s3cret@[::1/",
    ],
)
def test_a_url_that_is_none_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ValueError, match="amqp://user:password@host") as caught:
        RabbitSettings(url=url)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"namespace": "a b"},
        {"connect_timeout": 0},
        {"max_body_bytes": 0},
        {"heartbeat": 0},
        {"max_failure_bytes": 1},
        {"max_header_bytes": 4095},
        {"max_header_bytes": 102_401},
        {"confirm_window": 0},
    ],
)
def test_other_wrong_values_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        RabbitSettings(url="amqp://broker", **wrong)  # type: ignore[arg-type]


def test_a_missing_tls_file_is_an_error() -> None:
    with pytest.raises(OSError):
        RabbitSettings(url="amqps://broker?cafile=/nowhere/ca.pem").ssl_context()
