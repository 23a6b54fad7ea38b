"""Every key of what happens to messages has a test that fails without its effect; a new key needs one to get past here."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Final, Union, get_args, get_origin

import pytest
from pydantic import BaseModel, ValidationError

from rockbot.buses import make_bus
from rockbot.container import compose
from rockbot.errors import ConfigError
from rockbot.processes import compose_host
from rockbot.settings import Settings, load
from rockbot.state.memory import MemoryStateStore
from rockbot_messaging.artifacts import ArtifactMissing
from rockbot_messaging.clock import RandomIds, SystemClock
from rockbot_messaging.errors import LettersBusy
from rockbot_messaging.letters import Fate, Keep, Letter
from rockbot_messaging.measures import Names
from rockbot_messaging.retries import Exponential, Fixed, RetryPolicy, Steps
from rockbot_messaging.subscriptions import WorkSubscription
from rockbot_messaging.testing import FakeClock, Recorder
from rockbot_messaging.testing.harness import buried, message
from rockbot_messaging.verdicts import DeadLetter

_TESTS: Final = Path(__file__).parents[1]
_SECTIONS: Final = (
    "agent_files", "artifacts", "broker", "cassette", "history", "letters", "signing", "streaming", "subscriptions",
    "telemetry", "tools", "trust",
)  # fmt: skip

_EACH: Final = "core/test_receiving.py::test_each_key_changes_what_it_names_and_nothing_else"
_WAITS: Final = "core/test_settings_effects.py::test_each_number_of_a_backoff_changes_how_long_is_waited"
_RULES: Final = "core/test_settings_effects.py::test_each_number_of_a_rule_counts_for_its_errors_alone"
_TLS: Final = "rabbitmq/test_tls.py::test_settings_name_the_files_for_tls"
_LIMITS: Final = "rabbitmq/test_broker_checks.py::test_limits_are_settings"
_BODIES: Final = "core/test_bus_layers.py::test_artifacts_threshold_bytes_and_folder_say_what_lies_aside_and_where"
_SIGNS: Final = "core/test_bus_layers.py::test_signing_keys_key_and_require_say_who_signs_and_what_must_be"
_TRUSTS: Final = "core/test_bus_layers.py::test_whoever_handles_messages_where_trust_is_enforced_must_be_trusted_itself"
_RUN: Final = "handlers/test_tools_plugin.py"
_BOUNDS: Final = "handlers/test_tools_handler.py::test_output_limit_and_max_threads_are_settings"
_KEPT: Final = "letters/test_index.py::test_letters_are_kept_for_ever_unless_the_settings_say_otherwise"

_SAMPLED: Final = (
    "telemetry/test_traces.py::test_sample_ratio_says_which_part_of_the_traces_that_begin_here_is_recorded"
)
_SENT: Final = (
    "telemetry/test_export.py::test_traces_and_metrics_push_go_to_the_endpoint_under_the_service_name"
    "_and_metrics_keep_their_numbers"
)
_SNAPSHOTS: Final = "handlers/test_streaming.py::test_the_text_so_far_is_stored_for_those_who_come_late"

#: The test of each key's effect.
_TESTED: Final = {
    "agent_files.folder": "agents/test_agent_files.py::test_a_file_in_the_folder_is_an_agent_of_its_name",
    "agent_files.poll_seconds": "agents/test_reload.py::test_poll_seconds_looks_for_changes_of_any_file_of_an_agent",
    "artifacts.folder": _BODIES,
    "artifacts.keep_days": "core/test_settings_effects.py::test_old_artifacts_end_in_a_state_store_and_are_swept_from_a_folder",
    "artifacts.threshold_bytes": _BODIES,
    "broker.cafile": _TLS,
    "broker.certfile": _TLS,
    "broker.keyfile": _TLS,
    "broker.management_url": "rabbitmq/test_tls.py::test_the_management_interface_is_verified_by_the_same_files",
    "broker.max_header_bytes": "core/test_bus_layers.py::test_the_limit_of_headers_is_that_of_the_settings",
    "broker.max_queue_bytes": _LIMITS,
    "broker.max_queue_messages": _LIMITS,
    "broker.max_unrouted_messages": _LIMITS,
    "cassette.file": "handlers/test_cassettes.py::test_settings_say_what_is_recorded_and_what_is_played",
    "cassette.record": "handlers/test_cassettes.py::test_settings_say_what_is_recorded_and_what_is_played",
    "history.conversations": "history/test_retention.py::test_conversations_are_forgotten_when_the_last_task_ended_long_ago",
    "history.keep_days": "history/test_retention.py::test_tasks_that_ended_long_ago_are_listed_no_more",
    "letters.keep_days": _KEPT,
    "letters.keep_days_by_queue": _KEPT,
    "letters.scan_seconds": "core/test_settings_effects.py::test_letters_are_scanned_as_often_as_the_settings_say",
    "letters.wait_seconds": "core/test_settings_effects.py::test_a_second_look_at_letters_waits_as_long_as_it_is_set",
    "signing.key": _SIGNS,
    "signing.keys": _SIGNS,
    "signing.require": _SIGNS,
    "streaming.batch_chars": "handlers/test_streaming.py::test_pieces_are_gathered_into_batches",
    "streaming.batch_seconds": "handlers/test_streaming.py::test_a_batch_does_not_wait_for_more_than_its_time",
    "streaming.enabled": "handlers/test_streaming.py::test_switched_off_a_call_is_made_whole_and_costs_nothing",
    "streaming.keep_seconds": f"{_SNAPSHOTS}_and_goes_after_its_time",
    "streaming.snapshot_bytes": f"{_SNAPSHOTS}_and_goes_after_its_time",
    "streaming.snapshot_seconds": "handlers/test_streaming.py::test_a_snapshot_is_due_by_time_too",
    "telemetry.endpoint": _SENT,
    "telemetry.metrics": _SENT,
    "telemetry.protocol": _SENT,
    "telemetry.push_seconds": _SENT,
    "telemetry.queue_seconds": "telemetry/test_metrics.py::test_queue_seconds_says_how_often_the_broker_is_asked_what_waits",
    "telemetry.sample_ratio": _SAMPLED,
    "telemetry.service_name": _SENT,
    "telemetry.traces": _SENT,
    "tools.files": f"{_RUN}::test_files_offer_their_toolsets_and_each_has_a_queue",
    "tools.max_threads": _BOUNDS,
    "tools.output_limit": _BOUNDS,
    "tools.run": f"{_RUN}::test_run_says_which_toolsets_run_here_and_the_others_are_only_addressed",
    "tools.toolsets": f"{_RUN}::test_toolsets_says_which_installed_ones_are_offered",
    "trust.enforce": _TRUSTS,
    "trust.users": _TRUSTS,
    **{
        f"subscriptions.{name}": _EACH
        for name in (
            "concurrency", "guard.failures", "guard.longest_seconds", "guard.probe_seconds", "order.by", "order.lease_seconds",
            "order.max_waiting", "order.on_dead", "order.scan_seconds", "prefetch", "rate.burst", "rate.per_second",
            "remember_seconds", "retry.max_age", "retry.max_attempts", "retry.max_handback_age", "retry.max_handbacks",
        )
    },
    **{
        f"subscriptions.retry.{name}": _WAITS
        for name in ("backoff", "seconds", "steps", "first", "factor", "longest", "jitter")
    },
    **{
        f"subscriptions.retry.rules.{name}": _RULES
        for name in (
            "errors", "backoff", "seconds", "steps", "first", "factor", "longest", "jitter", "max_attempts", "max_age",
        )
    },
}  # fmt: skip


def _keys(kind: Any, path: str) -> Iterator[str]:
    """Every key below `path`; of a map of sections those of one section."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        for name, field in kind.model_fields.items():
            yield from _keys(field.annotation, f"{path}.{name}")
        return
    inner = [arg for arg in get_args(kind) if isinstance(arg, type) and issubclass(arg, BaseModel)]
    if inner and get_origin(kind) in (Union, UnionType, dict, tuple):
        yield from _keys(inner[0], path)
        return
    yield path


def test_every_key_has_a_test_of_its_effect_and_a_new_one_needs_one() -> None:
    keys = {key for name in _SECTIONS for key in _keys(Settings.model_fields[name].annotation, name)}
    assert keys == set(_TESTED)


@pytest.mark.parametrize("test", sorted(set(_TESTED.values())))
def test_the_tests_that_are_named_exist_and_set_the_keys(test: str) -> None:
    file, _, name = test.partition("::")
    text = (_TESTS / file).read_text(encoding="utf-8")
    assert re.search(rf"^(async )?def {name}\(", text, re.MULTILINE)
    keys = [key.rpartition(".")[2] for key, where in _TESTED.items() if where == test]
    assert [key for key in keys if not re.search(rf"\b{key}\b", text.split("_TESTED: Final", 1)[-1])] == []


def _policy(**retry: Any) -> RetryPolicy:
    settings = Settings.model_validate({"subscriptions": {"work": {"retry": retry}}})
    return settings.subscriptions["work"].retry.over(RetryPolicy())


@pytest.mark.parametrize(
    ("given", "backoff"),
    [
        ({"backoff": "fixed", "seconds": 7}, Fixed(7)),
        ({"backoff": "steps", "steps": [2, 3]}, Steps((2, 3))),
        ({"backoff": "exponential", "first": 3}, Exponential(3, 2, 600, True)),
        ({"backoff": "exponential", "factor": 3}, Exponential(1, 3, 600, True)),
        ({"backoff": "exponential", "longest": 9}, Exponential(1, 2, 9, True)),
        ({"backoff": "exponential", "jitter": False}, Exponential(1, 2, 600, False)),
    ],
)
def test_each_number_of_a_backoff_changes_how_long_is_waited(given: dict[str, Any], backoff: object) -> None:
    assert _policy(**given).backoff == backoff
    assert _policy(rules=[{"errors": ["Oops"], **given}]).rules[0].backoff == backoff


def test_each_number_of_a_rule_counts_for_its_errors_alone() -> None:
    policy = _policy(rules=[{"errors": ["Oops"], "backoff": "fixed", "seconds": 7, "max_attempts": 3, "max_age": 60}])
    (rule,) = policy.rules
    assert (rule.errors, rule.backoff, rule.max_attempts, rule.max_age) == (("Oops",), Fixed(7), 3, 60)
    assert (policy.backoff, policy.max_attempts) == (RetryPolicy().backoff, RetryPolicy().max_attempts)
    # The numbers of a backoff are read as they are for the whole policy.
    assert {"steps", "first", "factor", "longest", "jitter"} <= set(_policy_keys())


def _policy_keys() -> list[str]:
    return [key.rpartition(".")[2] for key, where in _TESTED.items() if where == _WAITS]


async def test_letters_are_scanned_as_often_as_the_settings_say() -> None:
    settings = Settings.model_validate({"state_url": "memory://", "letters": {"scan_seconds": 0.02}})
    container = compose_host(settings)
    bus, store, host, measures = container.bus(), container.store(), container.host(), container.measures()
    await host.start()
    try:
        await bus.publisher.publish(message("agent.task.assistant").replace(body=b"no json"))
        await buried(bus, "agent.assistant", 1)
        async with asyncio.timeout(60):
            while measures.value(Names.DEAD_LETTER_DEPTH, queue="agent.assistant") != 1:
                await asyncio.sleep(0)
    finally:
        await host.close()
        await bus.close()
        await store.close()


async def test_old_artifacts_end_in_a_state_store_and_are_swept_from_a_folder(
    tmp_path: Path,
) -> None:
    given = {"state_url": "memory://", "artifacts": {"keep_days": 2}, "letters": {"keep_days": 1}}
    clock = FakeClock()
    store = MemoryStateStore(clock)
    await store.open()
    bus = make_bus(Settings.model_validate(given), clock=clock, ids=RandomIds())
    artifacts = compose(Settings.model_validate(given), bus=bus, store=store).artifacts()
    reference = await artifacts.put(b"a long result")
    clock.advance(2 * 86_400 + 1)
    with pytest.raises(ArtifactMissing):
        await artifacts.get(reference)

    folder = tmp_path / "artifacts"
    container = compose_host(Settings.model_validate({**given, "artifacts": {"keep_days": 2, "folder": str(folder)}}))
    await container.artifacts().put(b"a long result")
    (path,) = [path for path in folder.rglob("*") if path.is_file()]
    os.utime(path, (1000, 1000))
    host = container.host()
    await host.start()
    try:
        async with asyncio.timeout(60):
            while path.exists():
                await asyncio.sleep(0)
    finally:
        await host.close()


def test_artifacts_must_not_end_before_the_dead_letters_that_point_at_them() -> None:
    for letters in ({}, {"keep_days": 3}, {"keep_days": 1, "keep_days_by_queue": {"work": 0}}):
        with pytest.raises(ValidationError, match="bodies of dead letters that are kept for longer"):
            Settings.model_validate({"artifacts": {"keep_days": 2}, "letters": letters})


async def test_a_second_look_at_letters_waits_as_long_as_it_is_set() -> None:
    settings = Settings.model_validate({"state_url": "memory://", "letters": {"wait_seconds": 0.01}})
    bus = make_bus(settings, clock=SystemClock(), ids=RandomIds())
    await bus.open()
    looking, go_on = asyncio.Event(), asyncio.Event()

    async def linger(letters: Sequence[Letter]) -> Sequence[Fate]:
        looking.set()
        await go_on.wait()
        return [Keep() for _ in letters]

    try:
        work = WorkSubscription(name="work", patterns=("job.#",))
        await bus.subscriber.subscribe(work, Recorder([DeadLetter(reason="no")]))
        await bus.publisher.publish(message("job.a"))
        await buried(bus, "work", 1)
        walk = asyncio.create_task(bus.dead_letters.walk("work", linger))
        async with asyncio.timeout(60):
            await looking.wait()
            with pytest.raises(LettersBusy):
                await bus.dead_letters.walk("work", linger)
        go_on.set()
        await walk
    finally:
        go_on.set()
        await bus.close()


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[broker]\nmax_headers = 1", "broker.max_headers"),
        ("[letters]\nkeep = 1", "letters.keep"),
        ("[letters.keep_days_by_queue]\nwork = -1", "letters.keep_days_by_queue"),
        ("[artifacts]\nthreshold = 1", "artifacts.threshold"),
        ("[signing]\nkey = 'absent'", "signing.key"),
        ("[signing]\nrequire = ['agent.task.#']", "signing.require"),
        ("[trust]\nuser = 'x'", "trust.user"),
        ("[trust.users]\nx = 'king'", "trust.users.x"),
        ("[subscriptions.work]\nprefetch = 0", "subscriptions.work.prefetch"),
        ("[subscriptions.work.retry]\nbackof = 'fixed'", "subscriptions.work.retry.backof"),
    ],
)
def test_a_wrong_key_or_value_is_one_line_that_names_it(tmp_path: Path, text: str, key: str) -> None:
    path = tmp_path / "rockbot.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        load(config=path)
    told = str(raised.value)
    assert key in told
    assert "\n" not in told
