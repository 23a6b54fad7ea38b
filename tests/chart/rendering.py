"""The chart, rendered by Helm's own code, and its objects."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import yaml

CHART = Path(__file__).parents[2] / "charts" / "rockbot"


def render(values: dict[str, Any] | None = None, *, name: str = "demo") -> list[dict[str, Any]]:
    """Every object of a release with these values; the notes are left out."""
    return [
        item for file, text in files(values, name=name).items() if not file.endswith(".txt") for item in parsed(text)
    ]


def files(values: dict[str, Any] | None = None, *, name: str = "demo") -> dict[str, str]:
    """What each template renders to."""
    with helm_python.Chart.load(CHART) as chart:
        rendered: dict[str, str] = chart.render(values=values or {}, name=name, namespace="agents")
    return rendered


@cache
def parsed(text: str) -> list[dict[str, Any]]:
    """The objects of a rendered template, not to be altered. A key that stands twice in one place is an error."""
    return [item for item in yaml.load_all(text, Loader=_Strict) if item]


def pods(objects: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Every pod that these objects make: the object's kind and name, and the pod's specification."""
    found = []
    for item in objects:
        name = f"{item['kind']}/{item['metadata']['name']}"
        if item["kind"] == "Pod":
            found.append((name, item["spec"]))
        elif item["kind"] in ("Deployment", "StatefulSet", "Job"):
            found.append((name, item["spec"]["template"]["spec"]))
    return found


def named(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    """The one object of that kind and name."""
    (item,) = [item for item in objects if item["kind"] == kind and item["metadata"]["name"] == name]
    return item


class _Strict(yaml.SafeLoader):
    pass


def _mapping(loader: _Strict, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    if len(keys) != len(set(keys)):
        raise yaml.constructor.ConstructorError(None, None, f"a key stands twice among {keys}", node.start_mark)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=deep)


_Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
