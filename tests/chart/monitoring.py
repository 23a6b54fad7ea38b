"""The chart's files for Prometheus and Grafana: `python -m tests.chart.monitoring` writes them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import yaml

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from chart.alerts import groups
from chart.dashboards import dashboards

FOLDER = Path(__file__).parents[2] / "charts" / "rockbot" / "monitoring"


def made() -> dict[str, str]:
    """Every file, by its path in the folder."""
    files = {"alerts.yaml": yaml.safe_dump(groups(), sort_keys=False, width=1000)}
    for name, dashboard in dashboards().items():
        files[f"dashboards/{name}.json"] = json.dumps(dashboard, indent=2) + "\n"
    return files


if __name__ == "__main__":
    for path, text in made().items():
        where = FOLDER / path
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_text(text, encoding="utf-8")
