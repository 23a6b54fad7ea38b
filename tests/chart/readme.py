"""The chart's README, made from the comments of its values: `python -m tests.chart.readme` writes it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[2] / "charts" / "rockbot"

_HEAD = """# RockBot on Kubernetes

Hosts, workers and the script service of [RockBot](../../README.md), with a RabbitMQ and a Valkey for a homelab that any
existing ones replace. Kubernetes 1.30 or newer; Helm 3 or 4.

```console
$ make image                       # build the images, and push or load them where the cluster finds them
$ helm install rockbot charts/rockbot --namespace agents --create-namespace
$ helm test rockbot --namespace agents
```

Out of the box agents are answered by the scripted stand-in, which can only compute. With a model:

```yaml
settings:
  model: anthropic/claude-sonnet-5-5
secrets:
  - {setting: anthropic__api_key, secret: anthropic, key: api-key}
agents:
  home:
    replicas: 2
    agents:
      assistant:
        instructions: You are a careful assistant.
        tools: [run_python]
```

An existing broker and state store are Secrets with their whole addresses:

```yaml
broker:
  existingSecret: {name: rabbitmq, key: broker_url, managementKey: management_url}
state:
  existingSecret: {name: postgres, key: state_url}
```

## Values

| Key | Default | What it does |
|---|---|---|
"""


def made() -> str:
    """The whole page."""
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    values: dict[str, Any] = yaml.safe_load(text)
    rows = [f"| `{key}` | {_shown(_value(values, key))} | {what} |" for key, what in described(text)]
    return _HEAD + "\n".join(rows) + "\n"


def described(text: str) -> list[tuple[str, str]]:
    """Every ``# key -- what it does`` of the values, lines put together."""
    found: list[tuple[str, str]] = []
    for line in text.splitlines():
        stripped = line.strip()
        if match := re.match(r"# ([A-Za-z.]+) -- (.*)", stripped):
            found.append((match[1], match[2]))
            going_on = True
        elif stripped.startswith("# ") and found and going_on:
            key, what = found[-1]
            found[-1] = (key, f"{what} {stripped[2:]}")
        else:
            going_on = False
    return found


def _value(values: dict[str, Any], key: str) -> Any:
    at: Any = values
    for part in key.split("."):
        at = at[part]
    return at


def _shown(value: Any) -> str:
    if value in ("", [], {}):
        return ""
    if isinstance(value, dict):
        return f"`{yaml.safe_dump(value, default_flow_style=True).strip()}`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


if __name__ == "__main__":
    (CHART / "README.md").write_text(made(), encoding="utf-8")
