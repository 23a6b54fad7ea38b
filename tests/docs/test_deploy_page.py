"""The page about deploying: its values render to what a cluster takes, its commands work, its table has what `doctor` says."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from chart.rendering import named, pods, render
from gateway.fake_agent import bury, served_host

from rockbot.cli.main import run
from rockbot.settings import load
from rockbot.state.sqlite import SqliteStateStore
from rockbot_messaging.clock import SystemClock

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "deploy.md").read_text()
#: Groups of kinds that operators bring.
_FOREIGN = ("keda.sh/", "rabbitmq.com/", "external-secrets.io/")
#: Checks that say nothing a cluster could mend, or are of embedded hosts.
_ASIDE = {"host", "version"}
BLOCKS = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]


def _lines() -> list[str]:
    text = "\n".join(re.findall(r"```shell\n(.*?)```", PAGE, re.DOTALL))
    return text.replace("\\\n", " ").splitlines()


def _values(block: dict[str, Any]) -> dict[str, Any]:
    """The chart's values in a block: itself, or what a GitOps object hands on."""
    match block.get("kind"):
        case "Application":
            found = block["spec"]["source"]["helm"]["valuesObject"]
        case "HelmRelease":
            found = block["spec"]["values"]
        case _:
            found = block
    return dict(found)


def _release(values: dict[str, Any]) -> list[dict[str, Any]]:
    return render(values, name="rockbot")


@pytest.mark.parametrize("block", BLOCKS, ids=["-".join(block)[:40] for block in BLOCKS])
def test_documented_values_render_to_what_a_cluster_takes(block: dict[str, Any], tmp_path: Path) -> None:
    objects = _release(_values(block))
    for item in objects:
        if not item["apiVersion"].startswith(_FOREIGN):
            kubernetes_validate.validate(item, "1.36", strict=True)
        if "rockbot.toml" in item.get("data", {}):
            path = tmp_path / "rockbot.toml"
            path.write_text(item["data"]["rockbot.toml"])
            assert tomllib.loads(path.read_text()) is not None
            load(config=path)


def test_an_image_of_ones_own_is_taken_by_whatever_composes_a_host() -> None:
    (values,) = [block for block in BLOCKS if block.get("host", {}).get("repository")]
    images = {
        name: [container["image"] for container in pod["containers"]]
        for name, pod in pods(_release({**values, "toolbox": {**values["toolbox"], "enabled": True}}))
    }
    own = {name for name, used in images.items() if "acme-host:0.1.0" in used}
    composing = {name for name in images if re.search("host|toolbox|topology", name)}
    assert len(composing) == 3
    assert composing <= own


def test_the_documented_secrets_have_what_the_documented_values_ask_for() -> None:
    made: dict[str, set[str]] = {}
    for line in _lines():
        if found := re.search(r"create secret generic (\S+)", line):
            made[found[1]] = set(re.findall(r"--from-literal=([a-z_-]+)=", line))
    assert made.keys() >= {"anthropic", "rabbitmq", "valkey", "broker"}
    values = next(block for block in BLOCKS if "anthropic" in str(block.get("secrets")) and "agents" in block)
    asked = 0
    for name, pod in pods(_release(values)):
        references = [
            (source["secret"]["name"], item["key"])
            for volume in pod.get("volumes", [])
            for source in volume.get("projected", {}).get("sources", [])
            for item in source["secret"]["items"]
        ]
        references += [
            (each["valueFrom"]["secretKeyRef"]["name"], each["valueFrom"]["secretKeyRef"]["key"])
            for container in pod["containers"]
            for each in container.get("env", [])
            if "valueFrom" in each
        ]
        for secret, key in references:
            assert key in made[secret], f"{name} wants {key} of Secret {secret}"
            asked += 1
    assert asked


def test_the_documented_policies_are_those_that_are_exported(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["--broker", "amqp://localhost/", "topology", "export", "--server-version", "4.3"]) == 0
    exported = json.loads(capfd.readouterr().out)["policies"]
    printed = [
        {**item["spec"], "apply-to": item["spec"]["applyTo"]}
        for block in BLOCKS
        for item in block.get("extraObjects", [])
        if item["kind"] == "Policy"
    ]
    for item in printed:
        del item["applyTo"], item["rabbitmqClusterReference"]
    assert printed == exported


def test_whoever_a_documented_command_is_about_is_there() -> None:
    objects = _release({"toolbox": {"enabled": True}})
    there = {item["metadata"]["name"] for item in objects if item["kind"] in ("Deployment", "StatefulSet")}
    seen = 0
    for line in _lines():
        if found := re.search(r" exec (?:-i )?deploy/(\S+) (?:-c (\S+) )?--", line):
            containers = named(objects, "Deployment", found[1])["spec"]["template"]["spec"]["containers"]
            assert found[2] in (None, *(each["name"] for each in containers)), line
            seen += 1
        if found := re.search(r" scale deploy (.*) --replicas", line):
            assert set(found[1].split()) <= there
            seen += 1
        if found := re.match(r"helm (install|upgrade) rockbot (\S+) ", line):
            assert (ROOT / found[2] / "Chart.yaml").exists()
    assert seen > 10
    for image in re.findall(r"rockbot-(\w+):", next(line for line in _lines() if "docker save" in line)):
        assert f" AS {image}\n" in (ROOT / "docker" / "Dockerfile").read_text()


async def test_the_documented_commands_work_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    commands = [
        shlex.split(re.sub(r" [<>] .*", "", line.partition("-- ")[2])) for line in _lines() if "-- rockbot " in line
    ]
    assert len(commands) > 7
    for name in ("state.db", "other.db"):
        store = SqliteStateStore(tmp_path / name, SystemClock())
        await store.open()
        await store.close()
    state = tmp_path / "state.jsonl"
    monkeypatch.setenv("ROCKBOT_STATE_URL", f"sqlite:///{tmp_path / 'state.db'}")
    async with served_host() as host:
        await bury(host.bus, "letter")
        for command in commands:
            arguments = command[1:]
            match arguments[:2]:
                case ["topology", "export"]:
                    arguments = ["--broker", "amqp://localhost/", *arguments, "--server-version", "4.3"]
                case ["state", "import"]:
                    monkeypatch.setenv("ROCKBOT_STATE_URL", f"sqlite:///{tmp_path / 'other.db'}")
                    arguments = [str(state) if each == "/tmp/state.jsonl" else each for each in arguments]
                case ["dlq", "import"]:
                    arguments = ["--socket", str(host.socket), "dlq", "import", str(tmp_path / "letters.jsonl")]
                case ["state", _]:
                    pass
                case _:
                    arguments = ["--socket", str(host.socket), *arguments]
            code = await asyncio.to_thread(run, arguments)
            out, err = capfd.readouterr()
            assert code == 0, f"{' '.join(command)}\n{out}{err}"
            if arguments[:2] == ["state", "export"]:
                state.write_text(out)
            elif arguments[2:4] == ["dlq", "export"]:
                (tmp_path / "letters.jsonl").write_text(out)
    assert state.read_text() and (tmp_path / "letters.jsonl").read_text()


def test_the_table_has_every_check_of_the_doctor_and_no_other() -> None:
    folder = ROOT / "rockbot" / "operators"
    sources = [*folder.glob("*checks.py"), folder / "probes.py", ROOT / "rockbot" / "cli" / "inspecting.py"]
    made = {
        name
        for source in sources
        for name in re.findall(r'(?:\bname(?:, \w+)? = |name=|_check\()"([a-z][a-z ]+)"', source.read_text())
    } | {"dead letters"}
    table = PAGE.partition("| Check |")[2].partition("\n\n")[0]
    first = [row.removeprefix("| ").partition(" |")[0] for row in table.splitlines()]
    told = {name for column in first for name in re.findall(r"`([a-z ]+)`", column)}
    assert told == made - _ASIDE
