"""Roles by users that a real broker validated: through retries, and never by what a message says."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from pathlib import Path

import pytest
from rabbitmq.harness import RabbitHarness

from rockbot import topics
from rockbot.events import AgentResponse
from rockbot.operators.open import open_operator
from rockbot.processes import compose_host
from rockbot.settings import Settings
from rockbot_messaging.measures import Names
from rockbot_messaging.retries import RetryPolicy
from rockbot_messaging.subscriptions import WorkSubscription
from rockbot_messaging.testing import Recorder
from rockbot_messaging.testing.harness import buried, depth, message
from rockbot_messaging.trust import Roles, trusting_bus
from rockbot_messaging.verdicts import Retry

pytestmark = pytest.mark.rabbitmq


async def test_who_is_not_vouched_for_is_refused_and_who_is_keeps_its_role_over_a_retry(harness: RabbitHarness) -> None:
    user = harness.features.user_id
    assert user is not None
    bus = trusting_bus(await harness.connect(), Roles({user: "worker"}), ["inner.#"])
    taker = Recorder([Retry(reason="once more")])
    work = WorkSubscription(name="work", patterns=("inner.#",), retry=RetryPolicy(delays=(1,)))
    await bus.subscriber.subscribe(work, taker)
    forged = {"rockbot-user": user, "user-id": user, "role": "host", "rockbot-schema-version": 1}
    await harness.publish_foreign("inner.step", b"{}", message_id="forged", app_id=user, headers=forged)
    (letter,) = await buried(bus, "work", 1)
    assert "untrusted" in letter.failure.reason
    sent = message("inner.step")
    await bus.publisher.publish(sent)
    await taker.wait_finished(2)
    assert [one.user_id for one in taker.envelopes] == [user, user]
    assert set(taker.ids) == {sent.message_id}


async def test_a_host_with_every_layer_answers_a_large_task_and_refuses_a_forged_step(
    harness: RabbitHarness, tmp_path: Path
) -> None:
    user = harness.features.user_id
    settings = Settings.model_validate(
        {
            "broker_url": harness.url,
            "state_url": f"sqlite:///{tmp_path / 'state.db'}",
            "namespace": harness.namespace,
            "handlers": ("logging", "deadline", "agent", "llm"),
            "artifacts": {"folder": tmp_path / "artifacts", "threshold_bytes": 2000},
            "signing": {
                "keys": {"k1": "a secret of more than 32 characters!"},
                "key": "k1",
                "require": [*topics.INTERNAL, "agent.task.#"],
            },
            "trust": {"users": {user: "host"}, "enforce": True},
        }
    )
    container = compose_host(settings)
    host = container.host()
    await host.start()
    try:
        async with open_operator(settings, composed=True) as operator, asyncio.timeout(60):
            async with aclosing(operator.ask("assistant", "Say hello. " + "x" * 50_000)) as events:
                answer = [event async for event in events][-1]
            assert isinstance(answer, AgentResponse)
            assert answer.status == "completed"
            assert any(path.is_file() for path in (tmp_path / "artifacts").rglob("*"))
            await harness.publish_foreign(topics.step("assistant"), b"{}", message_id="forged", app_id=user)
            (letter,) = await buried(container.bus(), "agent.assistant", 1)
            assert "untrusted" in letter.failure.reason
            assert container.measures().value(Names.UNTRUSTED, cause="role_untrusted") == 1
    finally:
        await host.close()


async def test_a_host_takes_from_a_stranger_no_result_under_the_topic_of_a_task_and_answers_into_no_queue_of_its_own(
    harness: RabbitHarness, tmp_path: Path
) -> None:
    user = harness.features.user_id
    settings = Settings.model_validate(
        {
            "broker_url": harness.url,
            "state_url": f"sqlite:///{tmp_path / 'state.db'}",
            "namespace": harness.namespace,
            "handlers": ("logging", "deadline", "agent", "llm"),
            "trust": {"users": {user: "host"}, "enforce": True},
        }
    )
    container = compose_host(settings)
    host = container.host()
    await host.start()
    try:
        task = topics.task("assistant")
        structured = {
            "specversion": "1.0",
            "id": "by-cloudevent",
            "source": "/shop",
            "type": "rockbot.timer.due",
            "data": {"timer_id": "t", "purpose": "deadline", "due_ms": 1},
        }
        await harness.publish_foreign(
            task, json.dumps(structured).encode(), content_type="application/cloudevents+json"
        )
        binary = {"cloudEvents_specversion": "1.0", "cloudEvents_id": "b", "cloudEvents_source": "/shop"}
        await harness.publish_foreign(
            task, b"{}", message_id="b", headers={**binary, "cloudEvents_type": "rockbot.llm.request"}
        )
        (one, two) = await buried(container.bus(), "agent.assistant", 2)
        assert {one.failure.error_type, two.failure.error_type} == {"Untrusted"}
        for queue in ("agent.assistant", "agent.assistant.dlq", "unrouted"):
            address = f"{harness.namespace}.{queue}"
            await harness.publish_foreign(task, b'{"input": "hello"}', message_id=queue, reply_to=address)
        letters = await buried(container.bus(), "agent.assistant", 5)
        assert [letter.failure.error_type for letter in letters[2:]] == ["ForeignReplyTo"] * 3
        assert await depth(container.bus(), "unrouted") == 0
    finally:
        await host.close()
