"""What Prometheus and Grafana are given: made of the metrics that there are, and saying what to do."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

import pytest
from chart.alerts import ALERTS, Alert
from chart.combinations import COMBINATIONS
from chart.monitoring import FOLDER, made
from chart.rendering import named, render

from rockbot.cli.main import run
from rockbot.telemetry.metrics import METRICS

#: What a name may end with in Prometheus' text, beyond the table's.
_SERIES = {
    metric.prometheus + suffix: metric
    for metric in METRICS.values()
    for suffix in (("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",))
}
#: Labels that the scrape adds.
_SCRAPED = {"namespace", "pod", "le"}
_SELECTOR = re.compile(r"\b(rockbot_[a-z_]+)(?:\{([^}]*)\})?")


def _expressions() -> list[str]:
    boards = [json.loads(text) for path, text in made().items() if path.endswith(".json")]
    queries = [target["expr"] for board in boards for panel in board["panels"] for target in panel["targets"]]
    variables = [
        each["query"]["query"] for board in boards for each in board["templating"]["list"] if each["type"] == "query"
    ]
    return [*queries, *variables, *(alert.expr for alert in ALERTS)]


def _rules(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    rule = named(render(values), "PrometheusRule", "demo-rockbot")
    return {each["alert"]: each for group in rule["spec"]["groups"] for each in group["rules"]}


def test_the_files_are_what_the_generator_makes() -> None:
    there = {str(path.relative_to(FOLDER)): path.read_text() for path in FOLDER.rglob("*") if path.is_file()}
    assert there == made(), "run: python -m tests.chart.monitoring"


def test_dashboards_and_alerts_name_metrics_and_labels_that_there_are() -> None:
    found = [match for text in _expressions() for match in _SELECTOR.findall(text)]
    assert len(found) > 50
    for name, matchers in found:
        assert name in _SERIES, name
        labels = set(re.findall(r"(\w+)\s*[=!]~?\s*\"", matchers))
        assert labels <= {*_SERIES[name].labels, *_SCRAPED}, f"{name}{{{matchers}}}"


def test_what_is_summed_up_by_a_label_has_it() -> None:
    for text in _expressions():
        for by, inner in re.findall(r"by \(([^)]*)\) \((?:rate\(|increase\()?(rockbot_[a-z_]+)", text):
            labels = {label.strip() for label in by.split(",")}
            assert labels <= {*_SERIES[inner].labels, *_SCRAPED}, text
        assert text.count("(") == text.count(")")


def test_every_metric_is_shown_or_left_out_on_purpose() -> None:
    shown = {name for text in _expressions() for name, _ in _SELECTOR.findall(text)}
    missing = {metric.prometheus for metric in METRICS.values() if not {
        metric.prometheus + suffix for suffix in ("", "_bucket", "_sum", "_count")
    } & shown}  # fmt: skip
    assert missing == {
        "rockbot_claims_total", "rockbot_dead_letters_worked_total", "rockbot_messages_duplicates_total",
        "rockbot_messages_untrusted_total", "rockbot_replies_late_total", "rockbot_subscription_rate_limited_total",
    }  # fmt: skip


@pytest.mark.parametrize("alert", ALERTS, ids=[alert.name for alert in ALERTS])
def test_an_alert_says_which_command_to_run_next_and_there_is_one(
    alert: Alert, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    rockbot, *words = shlex.split(re.sub(r"\{\{ \$labels\.(\w+) \}\}", r"\1", alert.run))
    assert rockbot == "rockbot"
    command = words[: 2 if words[0] in ("dlq", "turn") else 1]
    assert run([*command, "--help"]) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in words if word.startswith("--"))
    assert alert.rule()["annotations"]["description"].endswith(f"Run: {alert.run}")


def test_a_rule_has_what_the_values_say_and_nothing_is_left_to_fill_in() -> None:
    rules = _rules(COMBINATIONS["monitoring"])
    assert rules.keys() == {alert.name for alert in ALERTS}
    assert "@" not in json.dumps(rules)
    assert rules["RockBotLimitNearlyUsed"]["expr"].endswith("< 0.25")
    assert rules["RockBotOldDeadLetter"]["expr"].endswith("> 3600")
    assert 'namespace="agents"' in rules["RockBotStuckTurn"]["expr"]


def test_who_may_be_scaled_to_zero_is_not_missed_but_what_waits_for_him_is() -> None:
    def steady(values: dict[str, Any]) -> re.Pattern[str]:
        rules = _rules(values | {"prometheusRule": {"enabled": True}})
        found = re.search(r'subscription!~"([^"]*)"', rules["RockBotNoConsumer"]["expr"])
        assert found
        assert "subscription" not in re.sub(r"by \([^)]*\)", "", rules["RockBotWorkWaits"]["expr"])
        return re.compile(found[1])

    assert not steady({}).fullmatch("llm.scripted.interactive")
    keda = COMBINATIONS["keda"]
    assert steady(keda).fullmatch("llm.scripted.interactive")
    assert not steady(keda).fullmatch("llm-scripted-interactive")
    assert not steady(keda).fullmatch("agent.assistant")
    never = {
        "workers": {"llm": {**keda["workers"]["llm"], "keda": {**keda["workers"]["llm"]["keda"], "minReplicas": 1}}}
    }
    assert not steady(keda | never).fullmatch("llm.scripted.interactive")


def test_dashboards_come_as_the_sidecar_of_grafana_finds_them() -> None:
    (config,) = [
        item for item in render(COMBINATIONS["monitoring"]) if item["metadata"]["name"].endswith("-dashboards")
    ]
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    boards = [json.loads(text) for text in config["data"].values()]
    assert len({board["uid"] for board in boards}) == len(boards) == 2
    for board in boards:
        assert [panel["id"] for panel in board["panels"]] == list(range(1, len(board["panels"]) + 1))


def test_without_being_asked_nothing_of_an_operator_is_there() -> None:
    kinds = {item["kind"] for item in render()}
    assert not {"PodMonitor", "PrometheusRule"} & kinds


def test_every_process_is_scraped() -> None:
    monitor = named(render(COMBINATIONS["monitoring"]), "PodMonitor", "demo-rockbot")
    ports = {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]}
    assert ports == {"health", "health-scripts", "prometheus"}
    assert "app.kubernetes.io/component" not in monitor["spec"]["selector"]["matchLabels"]
