"""Settings are checked when written down, and keep their secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from rockbot.buses import make_bus
from rockbot.errors import ConfigError
from rockbot.settings import load
from rockbot_messaging.broker_urls import Address
from rockbot_messaging.clock import RandomIds, SystemClock
from rockbot_messaging.ports import MessageBus
from rockbot_messaging.rabbitmq import RabbitSettings
from rockbot_messaging.rabbitmq.members import Members


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
        ("AMQP://Broker:/", "broker:5672", "/"),
        ("amqp://u:p@one:5673,two,[::1],three:5674/x", "one:5673, two:5672, [::1]:5672, three:5674", "x"),
        ("amqps://one,two:5/", "one:5671, two:5", "/"),
        ("amqp://one,two,one:5672", "one:5672, two:5672", "/"),
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
        "amqp://u:s3cret@one:0/",
        "amqp://u:s3cret@one:56x/",
        "amqp://u:s3cret/more@one/",
    ],
)
def test_a_url_that_is_none_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ValueError, match="amqp://user:password@host") as caught:
        RabbitSettings(url=url)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("hosts", "told"),
    [
        ("one,,three", "host 2 of 3 is empty"),
        ("one,:5672", "host 2 of 2 is empty"),
        ("one,", "host 2 of 2 is empty"),
        ("one:5672,two:port", "the port of host 2 of 2 is no number from 1 to 65535"),
        ("one:65536,two", "the port of host 1 of 2 is no number from 1 to 65535"),
        ("one,two words", "host 2 of 2 is none"),
        ("", "its host is empty"),
    ],
)
def test_a_wrong_member_of_a_cluster_is_named_by_its_place(hosts: str, told: str) -> None:
    with pytest.raises(ValueError, match=f"host1:5672,host2:5672.*: {told}$") as caught:
        RabbitSettings(url=f"amqp://u:s3cret@{hosts}/vhost")
    assert "s3cret" not in str(caught.value)


def test_each_member_has_its_own_url_with_the_same_log_in() -> None:
    settings = RabbitSettings(url="amqps://us%40er:s%2Fcret@one:1,two/team%2Fone?auth=plain&cafile=ca.pem", heartbeat=7)
    urls = [settings.connection_url(address) for address in settings.parts.addresses]
    tail = "/team%2Fone?auth=plain&heartbeat=7"
    assert urls == [f"amqps://us%40er:s%2Fcret@one:1{tail}", f"amqps://us%40er:s%2Fcret@two:5671{tail}"]
    assert (settings.user, settings.parts.password, settings.vhost) == ("us@er", "s/cret", "team/one")


def test_a_connection_begins_with_a_member_by_chance_and_ends_a_round_with_the_one_it_lost() -> None:
    one, two, three = addresses = [Address(name, 5672) for name in ("one", "two", "three")]
    chances = iter((0.99, 0.0, 0.5))
    members = Members(addresses, lambda: next(chances, 0.0))
    assert [address for address, _ in members.round()] == [three, one, two]
    members.found(two)
    assert [address for address, _ in members.round()] == [three, one, two]
    assert members.several


def test_a_member_gets_little_time_and_more_after_each_round_in_vain_unless_it_is_the_only_one() -> None:
    members = Members([Address("one", 5672), Address("two", 5672)], lambda: 0.0)
    patience = [[seconds for _, seconds in members.round()] for _ in range(3)]
    assert patience == [[4.0, 4.0], [8.0, 8.0], [16.0, 16.0]]
    members.found(Address("one", 5672))
    assert next(members.round()) == (Address("two", 5672), 4.0)
    assert list(Members([Address("one", 5672)], lambda: 0.0).round()) == [(Address("one", 5672), None)]


def test_the_setting_takes_several_members_and_names_what_is_wrong_with_it(tmp_path: Path) -> None:
    def made(url: str) -> MessageBus:
        settings = load({"broker_url": url, "state_url": f"sqlite:///{tmp_path}/state.db"})
        return make_bus(settings, clock=SystemClock(), ids=RandomIds())

    assert "one:5672, two:5673" in made("amqp://u:s3cret@one,two:5673/").health().detail
    with pytest.raises(ConfigError, match=r"'broker_url' is no address: .*host 2 of 2 is empty") as caught:
        made("amqp://u:s3cret@one,/")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"namespace": "a b"},
        {"connect_timeout": 0},
        {"max_body_bytes": 0},
        {"heartbeat": 0},
        {"quiet_check": 0},
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
