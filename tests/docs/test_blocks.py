"""The Python in the documentation runs as printed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from rockbot.settings import load
from rockbot_handlers.llm.rules import parse_scripts

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))


def _blocks() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL), start=1):
            found.append((f"{page.name}-{number}", block))
    return found


def test_there_are_blocks_to_run() -> None:
    assert _blocks()


@pytest.mark.parametrize("block", [block for _, block in _blocks()], ids=[name for name, _ in _blocks()])
def test_a_documented_program_runs(block: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_documented_rules_and_providers_are_what_they_say(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "models.md").read_text()
    *_, providers, cassette, rules = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    scripts = parse_scripts(rules, source="docs/models.md", syntax="toml")
    assert list(scripts) == ["weather"]
    path = tmp_path / "rockbot.toml"
    path.write_text(providers)
    assert set(load(config=path).providers) == {"gpu", "ollama"}
    path.write_text(cassette)
    assert load(config=path).cassette.file == Path("tests/cassettes/weather.jsonl")


def test_the_documented_settings_are_settings(tmp_path: Path) -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    path = tmp_path / "rockbot.toml"
    path.write_text(block)
    settings = load(config=path)
    assert settings.agents["assistant"].tools == ("run_python",)


def test_the_wire_contract_names_every_header_that_is_written_or_read() -> None:
    page = (ROOT / "design" / "wire-contract.md").read_text()
    code = (ROOT / "rockbot_messaging" / "rabbitmq" / "wire.py").read_text()
    headers = set(re.findall(r'"(rockbot-[a-z-]*[a-z])"', code))
    assert len(headers) > 10
    assert {name for name in headers if f"`{name}`" not in page} == set()
