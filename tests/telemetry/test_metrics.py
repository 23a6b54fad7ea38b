"""What is counted equals what happened, and everything that is counted is in the table."""

from __future__ import annotations

import ast
import asyncio
import datetime
import json
import re
from pathlib import Path

import pytest
from telemetry.stage import Stage

from rockbot.catalogue.spending import Spending, summed
from rockbot.events import AgentTask
from rockbot.health import Health, HealthServer
from rockbot.processes import compose_host
from rockbot.settings import Settings
from rockbot.state.keys import agent_use_key, prefix, task_key
from rockbot.state.memory import MemoryStateStore
from rockbot.telemetry.exposition import exposition_of, tell_queues
from rockbot.telemetry.metrics import METRICS
from rockbot.telemetry.process import telemetry_of
from rockbot_handlers.agent.open_turns import OpenTurns
from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.measures import BOUNDS, NO_MEASURES, Counters, Names
from rockbot_messaging.memory import MemoryBus
from rockbot_messaging.subscriptions import WorkSubscription
from rockbot_messaging.testing import FakeClock

ROOT = Path(__file__).parents[2]
QUESTION = "What is 6 times 7?"
#: One line of Prometheus' text that is no comment.
SAMPLE = re.compile(r'[a-z_]+(\{[a-z_]+="[^"\n]*"(,[a-z_]+="[^"\n]*")*\})? [0-9.e+-]+')


async def test_after_a_known_workload_the_numbers_are_what_happened() -> None:
    limits = {"all": {"model_calls": 100}}
    async with Stage(traces=False, limits=limits).running() as stage:
        responses = [(await stage.ask(text))[1] for text in (QUESTION, "Hello.", "What is 2 times 3?")]
        stage.agent.telemetry().exposition.text()
        stage.worker.telemetry().exposition.text()
    scripted = {"provider": "scripted", "model": "demo"}
    usage = [response.usage for response in responses]
    assert stage.counted(Names.TURNS, agent="assistant", status="completed") == 3
    assert stage.observed(Names.TURN_DURATION, agent="assistant", status="completed") == 3
    assert stage.counted(Names.TURN_STEPS, agent="assistant") == 5
    assert stage.counted(Names.MODEL_CALLS, **scripted, outcome="ok") == 5
    assert stage.observed(Names.MODEL_DURATION, **scripted) == 5
    assert stage.counted(Names.MODEL_TOKENS, **scripted, kind="input") == sum(each.input_tokens for each in usage)
    assert stage.counted(Names.MODEL_TOKENS, **scripted, kind="output") == sum(each.output_tokens for each in usage)
    assert stage.counted(Names.TOOL_CALLS, tool="run_python", outcome="ok") == 2
    assert stage.counted(Names.SCRIPT_RUNS, runtime="python", outcome="ok") == 2
    assert stage.counted(Names.LIMIT_LEFT, limit="limits.all.model_calls") == pytest.approx(0.95)
    handled = {"rockbot.agent.task": 3, "rockbot.llm.response": 5, "rockbot.tool.result": 2}
    for event, times in handled.items():
        assert stage.observed(Names.HANDLED, subscription="agent.assistant", event=event) == times
    assert stage.counted(Names.SETTLED, subscription="agent.assistant", outcome="ack") == sum(handled.values())
    assert stage.counted(Names.SETTLED, subscription="scripts.python", outcome="ack") == 2
    # Every message has waited once; when the stranger's three were sent is not known.
    for subscription, times in (("agent.assistant", 7), ("llm.scripted.interactive", 5)):
        assert stage.observed(Names.QUEUE_WAIT, subscription=subscription) == times
    assert stage.counted(Names.CONNECTED) == 2
    others = {
        (name, labels)
        for counts in stage.counts.values()
        for name, labels in counts.snapshot()
        if name in (Names.DEAD_LETTERS, Names.TURN_STALLS, Names.DUPLICATES, Names.LIMIT_REFUSALS)
    }
    assert others == set()


async def test_the_numbers_equal_the_ledger_and_the_books_exactly() -> None:
    price = {"scripted/demo": {"input": 3, "output": 15}}
    async with Stage(traces=False, prices={"models": price}).running() as stage:
        today = datetime.datetime.fromtimestamp(stage.clock.now_ms() / 1000, datetime.UTC).date()
        for text in (QUESTION, "Hello.", "What is 2 times 3?"):
            await stage.ask(text)
        page = await stage.store.list(prefix("default", "call"), limit=1000)
        days = await Spending(stage.store).rows("default", since=today, until=today + datetime.timedelta(days=1))
    (spent,) = summed(days, ("model",))
    scripted = {"provider": "scripted", "model": "demo"}
    made = stage.counted(Names.MODEL_CALLS, **scripted, outcome="ok")
    assert made == spent.calls
    assert made + stage.counted(Names.SCRIPT_RUNS, runtime="python", outcome="ok") == len(page.entries)
    assert stage.counted(Names.MODEL_TOKENS, **scripted, kind="input") == spent.input_tokens
    assert stage.counted(Names.MODEL_TOKENS, **scripted, kind="output") == spent.output_tokens
    assert spent.cost > 0
    assert stage.counted(Names.MODEL_COST, **scripted) == pytest.approx(spent.cost, abs=1e-9)


async def test_a_copy_of_a_task_that_was_answered_is_no_second_turn() -> None:
    async with Stage(traces=False).running() as stage:
        await stage.ask("Hello.")
        again = MessageEnvelope(
            topic="agent.task.assistant", body=AgentTask(input="Hello.").to_body(), message_id="task-Hello.", type=""
        )
        await stage.tell(again)
        async with asyncio.timeout(60):
            while stage.counted(Names.SETTLED, subscription="agent.assistant", outcome="ack") < 3:
                await asyncio.sleep(0)
    assert stage.counted(Names.TURNS, agent="assistant", status="completed") == 1
    assert stage.counted(Names.MODEL_CALLS, provider="scripted", model="demo", outcome="ok") == 1


async def test_turns_under_way_are_told_by_their_state_and_since_when_until_they_end() -> None:
    clock = FakeClock()
    store, measures = MemoryStateStore(clock), Counters()
    await store.open()
    turns = OpenTurns(store, measures)
    rows = {"one": ("stalled", 0), "two": ("stalled", 4_000), "three": ("accepted", 9_000)}
    for task, (status, after) in rows.items():
        await store.put(agent_use_key("assistant", "digest", "default", task), b"0")
        at = {"status": status, "at_ms": clock.now_ms() + after}
        await store.put(task_key("default", task), json.dumps(at).encode())
    clock.advance(10)
    await turns.look()
    assert measures.value(Names.TURNS_OPEN, agent="assistant", state="stalled") == 2
    assert measures.value(Names.TURN_OLDEST, agent="assistant", state="stalled") == 10
    assert measures.value(Names.TURN_OLDEST, agent="assistant", state="accepted") == 1
    for task in ("one", "two"):
        await store.delete(agent_use_key("assistant", "digest", "default", task))
    await turns.look()
    assert measures.value(Names.TURNS_OPEN, agent="assistant", state="stalled") == 0
    assert measures.value(Names.TURN_OLDEST, agent="assistant", state="stalled") == 0
    assert measures.value(Names.TURNS_OPEN, agent="assistant", state="accepted") == 1


async def test_a_turn_under_way_is_found_where_turns_are_kept() -> None:
    async with Stage(traces=False).running() as stage:
        await stage.ask("Hello.")
        # Somebody else's model: nobody answers.
        turns = OpenTurns(stage.store, stage.counts["agent"])
        await stage.stop_worker()
        await stage.tell(stage.task("Hello again.", traceparent=None))
        async with asyncio.timeout(60):
            while stage.counted(Names.TURNS_OPEN, agent="assistant", state="accepted") != 1:
                await turns.look()
                await asyncio.sleep(0)


async def test_a_queue_that_is_not_wanted_any_more_is_told_of_no_more() -> None:
    bus, counters, retired = MemoryBus(), Counters(), set[str]()
    await bus.open()
    await bus.declare([WorkSubscription(name=name, patterns=(name,)) for name in ("kept", "gone")])
    await tell_queues(counters, bus, retired)
    assert len(counters.snapshot()) == 4
    retired.add("gone")
    await tell_queues(counters, bus, retired)
    await bus.close()
    assert {labels for _, labels in counters.snapshot()} == {(("subscription", "kept"),)}


async def test_queue_seconds_says_how_often_the_broker_is_asked_what_waits() -> None:
    for seconds in (0.01, 0):
        given = {"model": "scripted/demo", "state_url": "memory://", "telemetry": {"queue_seconds": seconds}}
        container = compose_host(Settings.model_validate(given))
        bus, host, measures = container.bus(), container.host(), container.measures()
        await host.start()
        try:
            await bus.declare([WorkSubscription(name="forsaken", patterns=("forsaken",))])
            await bus.publisher.publish(MessageEnvelope(topic="forsaken", body=b"{}", message_id="m", type="t"))
            if seconds:
                async with asyncio.timeout(60):
                    while measures.value(Names.QUEUE_DEPTH, subscription="forsaken") != 1:
                        await asyncio.sleep(0)
                assert measures.value(Names.QUEUE_CONSUMERS, subscription="forsaken") == 0
                assert measures.value(Names.QUEUE_CONSUMERS, subscription="agent.assistant") == 1
        finally:
            await host.close()
        if not seconds:
            assert not [name for name, _ in measures.snapshot() if name == Names.QUEUE_DEPTH]


def test_every_name_that_is_counted_under_is_in_the_table_and_the_reverse() -> None:
    names = {value for name, value in vars(Names).items() if name.isupper()}
    assert names == set(METRICS)
    assert len({metric.prometheus for metric in METRICS.values()}) == len(METRICS)


def test_everything_is_counted_with_the_labels_of_the_table_and_none_of_them_is_an_id() -> None:
    constants = {name: value for name, value in vars(Names).items() if name.isupper()}
    found: dict[str, set[str]] = {}
    for folder in ("rockbot", "rockbot_messaging", "rockbot_scripts", "handlers"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Call) or path.parts[-2:] == ("telemetry", "metrics.py"):
                    continue
                named = [
                    constants.get(argument.attr, "")
                    for argument in node.args
                    if isinstance(argument, ast.Attribute) and getattr(argument.value, "id", "") == "Names"
                ]
                if named:
                    labels = {keyword.arg for keyword in node.keywords if keyword.arg}
                    assert labels == set(METRICS[named[0]].labels), f"{path.name} line {node.lineno}: {named[0]}"
                    found[named[0]] = labels
    assert set(METRICS) == set(found)
    labels = {label for metric in METRICS.values() for label in metric.labels}
    assert not {label for label in labels if label.endswith("id")}


def test_prometheus_reads_names_kinds_and_distributions() -> None:
    counters = Counters()
    counters.count(Names.SETTLED, 2, subscription='odd "name"\\\n', outcome="ack")
    counters.gauge(Names.DEAD_LETTER_AGE, 1.5, queue="q")
    for value in (0.001, 0.0011, 5000):
        counters.observe(Names.HANDLED, value, subscription="s", event="e")
    exposition = exposition_of(counters)
    assert exposition is not None
    text = exposition.text()
    assert "# TYPE rockbot_messages_settled_total counter\n" in text
    assert 'rockbot_messages_settled_total{outcome="ack",subscription="odd \\"name\\"\\\\\\n"} 2\n' in text
    assert 'rockbot_dead_letters_oldest_seconds{queue="q"} 1.5\n' in text
    assert 'rockbot_handler_duration_seconds_bucket{event="e",subscription="s",le="0.001"} 1\n' in text
    assert 'rockbot_handler_duration_seconds_bucket{event="e",subscription="s",le="0.005"} 2\n' in text
    assert 'rockbot_handler_duration_seconds_bucket{event="e",subscription="s",le="1800"} 2\n' in text
    assert 'rockbot_handler_duration_seconds_bucket{event="e",subscription="s",le="+Inf"} 3\n' in text
    assert 'rockbot_handler_duration_seconds_count{event="e",subscription="s"} 3\n' in text
    assert text.count("rockbot_handler_duration_seconds_bucket") == len(BOUNDS) + 1


async def test_what_a_host_counts_is_scraped_on_the_port_of_its_health() -> None:
    async with Stage(traces=False).running() as stage:
        await stage.ask("Hello.")
        text = stage.agent.telemetry().exposition.text()
        assert 'rockbot_subscription_idle_seconds{subscription="agent.assistant"} 0\n' in text
        assert [line for line in text.splitlines() if not line.startswith("#") and not SAMPLE.fullmatch(line)] == []
        server = HealthServer(
            Health(stage.stranger), host="127.0.0.1", port=0, metrics=stage.agent.telemetry().exposition
        )
        head, _, body = server._answer([b"GET", b"/metrics", b"HTTP/1.1"]).partition(b"\r\n\r\n")
    assert b"200 OK" in head
    assert b"Content-Type: text/plain; version=0.0.4" in head
    assert b'rockbot_turns_total{agent="assistant",status="completed"} 1\n' in body


def test_metrics_off_counts_nothing_and_shows_nothing() -> None:
    telemetry = telemetry_of(Settings(telemetry={"metrics": "off"}))
    assert telemetry.measures is NO_MEASURES
    server = HealthServer(Health(MemoryBus()), host="127.0.0.1", port=0, metrics=telemetry.exposition)
    assert server._answer([b"GET", b"/metrics", b"HTTP/1.1"]).startswith(b"HTTP/1.1 404")
