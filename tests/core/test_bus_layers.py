"""The layers that settings put around a bus: large bodies, signatures, trust."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from rockbot import topics
from rockbot.buses import check_role, claim_threshold, make_bus, signer_of
from rockbot.errors import ConfigError
from rockbot.events import AgentResponse
from rockbot.operators.open import embedded_operator, local_pipeline
from rockbot.processes import Embedded, compose_host
from rockbot.settings import Settings, load
from rockbot.state.artifacts import StateArtifacts
from rockbot.state.memory import MemoryStateStore
from rockbot_messaging.artifacts import Reference
from rockbot_messaging.clock import RandomIds, SystemClock
from rockbot_messaging.errors import BodyTooLarge, HeadersTooLarge
from rockbot_messaging.layers import LayeredBus
from rockbot_messaging.measures import Counters, Names
from rockbot_messaging.memory import MemoryBus
from rockbot_messaging.ports import MessageBus
from rockbot_messaging.rabbitmq import RabbitBus
from rockbot_messaging.subscriptions import WorkSubscription
from rockbot_messaging.testing import Recorder
from rockbot_messaging.testing.harness import buried, message
from rockbot_messaging.trust import Protected

_SECRET = "a secret of more than 32 characters!"
_AMQP = "amqp://rock:hunter2@127.0.0.1/"
_WORK = WorkSubscription(name="work", patterns=("job.#",))


def _settings(**given: Any) -> Settings:
    return Settings(**{"broker_url": "memory://", "state_url": "memory://", **given})


def _made(settings: Settings, **given: Any) -> MessageBus:
    return make_bus(settings, clock=SystemClock(), ids=RandomIds(), **given)


@pytest.fixture
async def opened() -> AsyncIterator[list[MessageBus]]:
    buses: list[MessageBus] = []
    yield buses
    for bus in buses:
        await bus.close()


def _inner(bus: MessageBus) -> MemoryBus:
    """What really lies in the broker, seen past the layers."""
    assert isinstance(bus, LayeredBus)
    assert isinstance(bus.inner, MemoryBus)
    return bus.inner


def test_an_embedded_bus_without_further_settings_has_no_layers() -> None:
    assert isinstance(_made(_settings()), MemoryBus)


def test_a_bus_over_a_broker_reads_claims_of_others_although_it_makes_none() -> None:
    bus = _made(_settings(broker_url=_AMQP))
    assert isinstance(bus, LayeredBus)
    assert isinstance(bus.inner, RabbitBus)


@pytest.mark.parametrize(
    ("given", "threshold"),
    [
        ({}, 0),
        ({"broker_url": _AMQP}, 0),
        ({"broker_url": _AMQP, "state_url": "sqlite:///state.db"}, 0),
        ({"broker_url": _AMQP, "state_url": "postgresql://db/rockbot"}, 65_536),
        ({"broker_url": _AMQP, "artifacts": {"folder": "shared"}}, 65_536),
        ({"artifacts": {"folder": "shared"}}, 0),
        ({"artifacts": {"threshold_bytes": 100}}, 100),
        ({"broker_url": _AMQP, "artifacts": {"folder": "shared", "threshold_bytes": 0}}, 0),
        ({"broker_url": _AMQP, "artifacts": {"threshold_bytes": 5000}}, 5000),
    ],
)
def test_bodies_lie_aside_by_default_where_every_process_certainly_reaches_them(
    given: dict[str, Any], threshold: int
) -> None:
    assert claim_threshold(_settings(**given)) == threshold


async def test_artifacts_threshold_bytes_and_folder_say_what_lies_aside_and_where(
    opened: list[MessageBus], tmp_path: Path
) -> None:
    folder = tmp_path / "artifacts"
    measures = Counters()
    bus = _made(_settings(artifacts={"threshold_bytes": 100, "folder": str(folder)}), measures=measures)
    opened.append(bus)
    await bus.open()
    whole, raw = Recorder(), Recorder()
    await bus.subscriber.subscribe(_WORK, whole)
    await _inner(bus).subscribe(WorkSubscription(name="raw", patterns=("job.#",)), raw)
    await bus.publisher.publish(message("job.large", b"x" * 101))
    assert [one.body for one in await whole.wait_for(1)] == [b"x" * 101]
    assert [one.claim for one in await raw.wait_for(1)] == [str(Reference.of(b"x" * 101))]
    assert [path.name for path in folder.rglob("*") if path.is_file()] == [Reference.of(b"x" * 101).digest]
    assert measures.value(Names.CLAIMS, direction="out") == measures.value(Names.CLAIMS, direction="in") == 1


async def test_without_a_folder_large_bodies_lie_in_the_given_state_store(opened: list[MessageBus]) -> None:
    store = MemoryStateStore(SystemClock())
    await store.open()
    bus = _made(_settings(artifacts={"threshold_bytes": 100}), artifacts=StateArtifacts(store))
    opened.append(bus)
    await bus.open()
    await bus.declare([_WORK])
    await bus.publisher.publish(message("job.large", b"x" * 101))
    assert await StateArtifacts(store).get(str(Reference.of(b"x" * 101))) == b"x" * 101
    await store.close()


async def test_without_a_store_a_bus_opens_the_one_of_the_settings_and_closes_it(
    opened: list[MessageBus], tmp_path: Path
) -> None:
    path = tmp_path / "state.db"
    bus = _made(_settings(state_url=f"sqlite:///{path}", artifacts={"threshold_bytes": 100}))
    opened.append(bus)
    await bus.open()
    await bus.declare([_WORK])
    assert not path.exists()
    await bus.publisher.publish(message("job.large", b"x" * 101))
    assert path.exists()
    await bus.close()
    before = set(os.listdir("/proc/self/fd"))
    assert not [fd for fd in before if _target(fd).startswith(str(path))]


def _target(descriptor: str) -> str:
    try:
        return str(Path("/proc/self/fd", descriptor).readlink())
    except OSError:
        return ""


async def test_the_limit_of_bodies_is_that_of_whole_ones(opened: list[MessageBus]) -> None:
    bus = _made(_settings(artifacts={"threshold_bytes": 100}, host={"max_body_bytes": 4096}))
    opened.append(bus)
    await bus.open()
    await bus.declare([_WORK])
    with pytest.raises(BodyTooLarge, match="4097"):
        await bus.publisher.publish(message("job.large", b"x" * 4097))


async def test_signing_keys_key_and_require_say_who_signs_and_what_must_be(opened: list[MessageBus]) -> None:
    measures = Counters()
    settings = _settings(signing={"keys": {"k1": _SECRET}, "key": "k1", "require": ["job.#"]})
    bus = _made(settings, measures=measures)
    opened.append(bus)
    await bus.open()
    taker = Recorder()
    await bus.subscriber.subscribe(WorkSubscription(name="work", patterns=("job.#", "open.#")), taker)
    await _inner(bus).publish(message("job.forged"))
    await _inner(bus).publish(message("open.unsigned"))
    await bus.publisher.publish(message("job.signed"))
    assert [one.topic for one in await taker.wait_for(2)] == ["open.unsigned", "job.signed"]
    signer = signer_of(settings)
    assert signer is not None
    assert signer.verify(taker.envelopes[1]) == "k1"
    (letter,) = await buried(bus, "work", 1)
    assert letter.envelope.topic == "job.forged"
    assert measures.value(Names.UNTRUSTED, cause="signature_missing") == 1
    # Its handler, which counts all others, never saw it.
    assert measures.value(Names.SETTLED, subscription="work", outcome="dead_letter") == 1


async def test_keys_without_a_key_check_and_do_not_sign(opened: list[MessageBus]) -> None:
    bus = _made(_settings(signing={"keys": {"k1": _SECRET}}))
    opened.append(bus)
    await bus.open()
    taker = Recorder()
    await bus.subscriber.subscribe(_WORK, taker)
    await bus.publisher.publish(message("job.one"))
    (received,) = await taker.wait_for(1)
    assert received.signature is None


@pytest.mark.parametrize(
    ("signing", "key"),
    [
        ({"keys": {"not an id": _SECRET}}, "signing"),
        ({"keys": {"k1": _SECRET}, "require": ["no pattern"]}, "signing.require"),
    ],
)
def test_signing_that_cannot_be_is_told_by_its_key(signing: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=f"'{key}'") as caught:
        _made(_settings(signing=signing))
    assert _SECRET not in str(caught.value)


def test_trust_is_not_enforced_where_the_broker_knows_nobody() -> None:
    with pytest.raises(ConfigError, match=r"trust\.enforce"):
        _made(_settings(trust={"enforce": True, "users": {"rock": "host"}}))
    assert isinstance(_made(_settings(trust={"users": {"rock": "host"}})), MemoryBus)


@pytest.mark.parametrize(
    ("users", "enforce", "fine"),
    [
        ({"rock": "host"}, True, True),
        ({"rock": "worker"}, True, True),
        ({"rock": "operator"}, True, False),
        ({"rock": "publisher"}, True, False),
        ({}, True, False),
        ({}, False, True),
    ],
)
def test_whoever_handles_messages_where_trust_is_enforced_must_be_trusted_itself(
    users: dict[str, Any], enforce: bool, fine: bool
) -> None:
    settings = _settings(broker_url=_AMQP, trust={"users": users, "enforce": enforce})
    if fine:
        check_role(settings)
        return
    with pytest.raises(ConfigError, match="'rock'") as caught:
        check_role(settings)
    assert "hunter2" not in str(caught.value)


def test_handlers_learn_roles_from_the_settings() -> None:
    settings = _settings(trust={"users": {"rock": "host"}})
    roles = compose_host(settings).services().roles
    assert roles.role_of(message("t", user_id="rock")) == "host"
    assert roles.role_of(message("t", user_id="mallory", source="rock")) == "untrusted"


async def test_the_limit_of_headers_is_that_of_the_settings(opened: list[MessageBus]) -> None:
    bus = _made(_settings(broker={"max_header_bytes": 5000}))
    opened.append(bus)
    await bus.open()
    await bus.declare([_WORK])
    await bus.publisher.publish(message("job.fits", headers={"long": "x" * 3000}))
    with pytest.raises(HeadersTooLarge):
        await bus.publisher.publish(message("job.large", headers={"long": "x" * 6000}))


def test_every_internal_topic_of_the_host_is_protected_and_no_other() -> None:
    protected = Protected(topics.INTERNAL)
    work = WorkSubscription(name="all", patterns=("#",))
    internal = [
        topics.step("assistant"),
        topics.llm_request("anthropic", "interactive"),
        topics.tool_invoke("scripts"),
        topics.toolset_result("scripts"),
        topics.script_invoke("python"),
        topics.timer_due("assistant"),
    ]
    public = [topics.task("assistant"), topics.response("assistant"), topics.status("assistant")]
    assert [topic for topic in internal if not protected.covers(message(topic), work)] == []
    assert [topic for topic in public if protected.covers(message(topic), work)] == []


def test_the_pipeline_tells_the_layers_in_the_order_of_a_delivery_and_no_secret() -> None:
    given = {
        "signing": {"keys": {"k1": _SECRET}, "key": "k1", "require": ["agent.#"]},
        "trust": {"enforce": True, "users": {"rock": "host"}},
        "artifacts": {"threshold_bytes": 9},
    }
    told = local_pipeline(_settings(broker_url=_AMQP, **given)).layers
    assert [line.partition(":")[0] for line in told] == ["reply addresses", "trust", "signatures", "large bodies"]
    assert not any(secret in str(told) for secret in (_SECRET, "hunter2"))
    assert local_pipeline(_settings()).layers == ()


def test_every_type_of_running_work_is_protected_under_the_topic_of_a_task_and_no_other() -> None:
    registry = compose_host(_settings()).registry()
    types = {event.type_name for event in registry}
    assert {name for name in types if not topics.is_inner_type(name)} == {
        "rockbot.agent.task",
        "rockbot.agent.response",
        "rockbot.agent.status",
        "rockbot.control.cancel",
        "rockbot.control.reload",
    }
    assert "rockbot.tool.result" in types


async def test_a_task_that_is_large_signed_and_journaled_is_answered_by_a_host_with_all_layers(tmp_path: Path) -> None:
    settings = _settings(
        state_url=f"sqlite:///{tmp_path / 'state.db'}",
        handlers=("logging", "deadline", "agent", "llm"),
        artifacts={"threshold_bytes": 1000},
        signing={"keys": {"k1": _SECRET}, "key": "k1", "require": ["agent.#", *topics.INTERNAL]},
        agents={"assistant": {"tools": []}},
    )
    async with Embedded(settings) as embedded:
        operator = embedded_operator(embedded)
        async with asyncio.timeout(60), aclosing(operator.ask("assistant", "Say hello. " + "x" * 50_000)) as events:
            answer = [event async for event in events][-1]
        counted = embedded.container.measures()
    assert isinstance(answer, AgentResponse)
    assert answer.status == "completed"
    assert counted.value(Names.CLAIMS, direction="out") >= 1
    assert counted.value(Names.CLAIMS, direction="in") >= 1


def test_the_documented_settings_are_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "publishing.md").read_text()
    path = tmp_path / "rockbot.toml"
    path.write_text("\n".join(re.findall(r"```toml\n(.*?)```", page, re.DOTALL)))
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "signing__keys__2026-11").write_text("another secret of more than 32 characters\n")
    monkeypatch.setenv("ROCKBOT_SECRETS_DIR", str(secrets))
    settings = load({"broker_url": _AMQP.replace("rock:", "rockbot-host:")}, config=path)
    check_role(settings)
    assert claim_threshold(settings) == 65_536
    assert settings.signing.keys["2026-11"].get_secret_value() == "another secret of more than 32 characters"
    assert isinstance(_made(settings), LayeredBus)
    protected = Protected(settings.signing.require)
    work = WorkSubscription(name="all", patterns=("#",))
    assert all(protected.covers(message(pattern.replace("#", "x")), work) for pattern in topics.INTERNAL)
