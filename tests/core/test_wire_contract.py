"""The generated wire contract: complete, consistent in itself, and what is committed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from rockbot.cli.main import run
from rockbot.events import HOST_EVENTS, EventRegistry
from rockbot.processes import compose_host
from rockbot.settings import Settings
from rockbot.wire_contract import ASYNCAPI, contract_documents

COMMITTED = Path(__file__).parents[2] / "design" / "contract"


@pytest.fixture(scope="module")
def registry() -> EventRegistry:
    return compose_host(Settings(state_url="memory://")).registry()


@pytest.fixture(scope="module")
def documents(registry: EventRegistry) -> dict[str, str]:
    return contract_documents(registry)


def test_the_committed_contract_is_what_the_events_are(documents: dict[str, str]) -> None:
    committed = {str(path.relative_to(COMMITTED)): path.read_text() for path in COMMITTED.rglob("*.json")}
    assert committed == documents, "run: rockbot contract export"


def test_every_event_has_its_schema_and_its_message(registry: EventRegistry, documents: dict[str, str]) -> None:
    names = {event.type_name for event in registry}
    assert set(documents) == {ASYNCAPI, *(f"schemas/{name}.json" for name in names)}
    assert set(json.loads(documents[ASYNCAPI])["components"]["messages"]) == names
    assert {event.type_name for event in HOST_EVENTS} <= names


def test_every_reference_leads_somewhere(documents: dict[str, str]) -> None:
    asyncapi = json.loads(documents[ASYNCAPI])
    seen = 0
    for reference in re.findall(r'"\$ref": "([^"]+)"', documents[ASYNCAPI]):
        seen += 1
        if reference.startswith("./"):
            assert reference.removeprefix("./") in documents
            continue
        at: Any = asyncapi
        for part in reference.removeprefix("#/").split("/"):
            at = at[part.replace("%7B", "{").replace("%7D", "}")]
    assert seen > len(HOST_EVENTS)


def test_export_writes_what_changed_and_check_only_looks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "contract"
    command = ["--state", "memory://", "contract", "export", str(folder)]
    assert run([*command, "--check"]) == 6
    assert not folder.exists()
    assert run(command) == 0
    assert run([*command, "--check"]) == 0
    gone, other = folder / "schemas" / "rockbot.gone.json", folder / "notes.json"
    for path in (gone, other):
        path.write_text("{}")
    (folder / ASYNCAPI).write_text("{}")
    assert run([*command, "--check"]) == 6
    assert "rockbot.gone.json is not what the events are" in capsys.readouterr().err
    assert run(command) == 0
    assert (gone.exists(), other.exists()) == (False, True)
    assert run([*command, "--check"]) == 0
    assert json.loads((folder / ASYNCAPI).read_text())["asyncapi"] == "3.0.0"
