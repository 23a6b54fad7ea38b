"""The page about metrics, traces and logs says what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from chart.alerts import ALERTS
from telemetry.stage import Stage

from rockbot.health import Health, HealthServer
from rockbot.settings import load
from rockbot.telemetry.metrics import METRICS

PAGE = (Path(__file__).parents[2] / "docs" / "observability.md").read_text()


def test_the_table_of_metrics_is_the_table() -> None:
    rows = re.findall(r"^\| `(rockbot_\w+)` \| (\w+) \| (.*?) \| (.*?) \|$", PAGE, re.MULTILINE)
    assert rows == [
        (metric.prometheus, metric.kind, ", ".join(f"`{label}`" for label in metric.labels), metric.help)
        for metric in METRICS.values()
    ]


def test_its_settings_are_settings(tmp_path: Path) -> None:
    path = tmp_path / "rockbot.toml"
    blocks = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 2
    path.write_text(blocks[0])
    assert load(config=path).host.health_port == 8080
    path.write_text(blocks[1])
    assert load(config=path).telemetry.sample_ratio == 0.1


async def test_its_look_at_the_metrics_finds_them() -> None:
    (pattern,) = re.findall(r"curl -s http://localhost:8080/metrics \| grep (\S+)", PAGE)
    async with Stage(traces=False).running() as stage:
        await stage.ask("Hello.")
        server = HealthServer(
            Health(stage.stranger), host="127.0.0.1", port=0, metrics=stage.agent.telemetry().exposition
        )
        body = server._answer([b"GET", b"/metrics", b"HTTP/1.1"]).decode()
    assert [line for line in body.splitlines() if pattern in line and not line.startswith("#")]


@pytest.mark.parametrize("alert", ALERTS, ids=[alert.name for alert in ALERTS])
def test_its_alerts_are_the_charts_with_their_commands(alert: object) -> None:
    rows = dict(re.findall(r"^\| `(RockBot\w+)` \| .* \| `(.*)` \|$", PAGE, re.MULTILINE))
    assert rows.keys() == {each.name for each in ALERTS}
    run = re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda found: found[1].upper(), alert.run)  # type: ignore[attr-defined]
    assert rows[alert.name] == run  # type: ignore[attr-defined]
