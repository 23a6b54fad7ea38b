"""The images do what the documentation says, in containers that may do next to nothing.

`make test-images` runs this: it takes an engine, a base image and some minutes.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from chart.rendering import named, render
from images.deployment import HARDENED, deployed
from images.engine import ROOT, TARGETS, Engine

pytestmark = [pytest.mark.images, pytest.mark.rabbitmq, pytest.mark.timeout(2400)]

_STATUS = "print(open('/proc/1/status').read())"
_TOUCH = """
import pathlib
for place in ("/", "/opt/rockbot/app", "/opt/rockbot-sandbox", "/etc"):
    try:
        (pathlib.Path(place) / "x").touch()
    except OSError as exc:
        print(place, exc.strerror)
    else:
        print(place, "is writable")
"""
_READY = """
import json, sys, urllib.request
for port in (8081, 8082):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz") as answer:
        print(answer.status)
"""
_PROCESSOR = """
import os
print(sum(map(int, open("/proc/1/stat").read().rsplit(")", 1)[1].split()[11:13])) / os.sysconf("SC_CLK_TCK"))
"""
_CAUGHT = """
import re
caught = re.search(r"SigCgt:\\s+(\\w+)", open("/proc/1/status").read())[1]
print(int(caught, 16) >> 14 & 1)
"""
_ROUTES = "print(len(open('/proc/net/route').read().splitlines()) - 1)"
_SLOW = "```python\nimport time\nend = time.time() + 2\nwhile time.time() < end: pass\nprint('slept well')\n```"


def test_what_is_in_the_images(engine: Engine, version: str) -> None:
    for target in TARGETS:
        image = engine.inspect(f"rockbot-{target}:{version}")
        config = image["Config"]
        assert (config["User"], config["Entrypoint"]) == ("10001:10001", ["rockbot"])
        assert config["Labels"]["org.opencontainers.image.version"] == version
        assert config["Labels"]["org.opencontainers.image.title"] == "RockBot"
        base = engine.inspect(config["Labels"]["org.opencontainers.image.base.name"])
        print(
            f"\nrockbot-{target}: {image['Size'] / 1e6:.0f} MB, {(image['Size'] - base['Size']) / 1e6:.0f} over its base"
        )
        assert (
            engine.run("run", "--rm", "--network", "none", "--read-only", image["Id"], "--version")
            == f"rockbot {version}"
        )


def test_a_foreign_client_is_answered_by_containers_that_may_do_next_to_nothing(
    engine: Engine, version: str, amqp_url: str, shared: Path
) -> None:
    with deployed(engine, version, amqp_url=amqp_url, folder=shared, namespace="rockbot") as here:
        for name, container in (("host", here.host), ("scripts", here.scripts)):
            took, used = here.ready_seconds[name], float(container.python(_PROCESSOR))
            print(f"\n{name}: ready {took:.2f} s after its start, {used:.2f} s of a processor so far")
        assert here.host.python(_READY).split() == ["200", "200"]

        (program,) = re.findall(
            r"```python\n(import json, os, pika.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
        )
        client = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "ROCKBOT_BROKER_URL": here.url},
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert client.returncode == 0, client.stderr
        assert re.match(r"my-42 .*42", client.stdout)
        # The scripted model can compute by nothing but the sandbox.
        (call,) = (shared / "calls.jsonl").read_text().splitlines()
        assert json.loads(call)["language"] == "python"

        asked = engine.run(
            "run", "--rm", *here.options, f"rockbot-cli:{version}", "ask", "assistant", "What is 6 times 8?"
        )
        assert "48" in asked

        for container in (here.host, here.scripts):
            status = dict(re.findall(r"^(\w+):\s+(.*)$", container.python(_STATUS), re.MULTILINE))
            assert (status["Uid"].split()[0], status["Gid"].split()[0]) == ("10001", "10001")
            assert (status["Seccomp"], status["NoNewPrivs"], int(status["CapEff"], 16)) == ("2", "1", 0)
            assert engine.inspect(container.name)["HostConfig"]["ReadonlyRootfs"] is True
            assert "is writable" not in container.python(_TOUCH)
            assert container.python(_ROUTES) == "0"


def test_a_terminated_container_finishes_what_it_has_in_hand(
    engine: Engine, version: str, amqp_url: str, shared: Path
) -> None:
    with deployed(engine, version, amqp_url=amqp_url, folder=shared, namespace="drained") as here:
        ask = [engine.command, "run", "--rm", *here.options, f"rockbot-cli:{version}", "ask", "assistant", _SLOW]
        with subprocess.Popen(ask, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as asking:
            until = time.monotonic() + 60
            while not (shared / "calls.jsonl").exists():
                assert asking.poll() is None and time.monotonic() < until, "no script was begun"
                time.sleep(0.05)
            assert here.scripts.terminate(30) == 0
            out, err = asking.communicate(timeout=60)
        assert "slept well" in out, err
        assert len((shared / "calls.jsonl").read_text().splitlines()) == 1
        assert here.host.terminate(30) == 0


def test_the_toolbox_of_the_chart_ends_when_it_is_told_to(engine: Engine, version: str) -> None:
    pod = named(render({"toolbox": {"enabled": True}}), "Deployment", "demo-rockbot-toolbox")["spec"]["template"][
        "spec"
    ]
    command = pod["containers"][0]["command"]
    options = (*HARDENED, "--network", "none", "--entrypoint", command[0])
    with engine.container(f"rockbot-cli:{version}", *command[1:], options=options) as toolbox:
        toolbox.until("waiting for commands")
        assert toolbox.terminate(10) == 0


def test_a_command_that_waits_in_a_container_ends_when_it_is_told_to(engine: Engine, version: str) -> None:
    options = (*HARDENED, "--network", "none", "--interactive", "--env", "ROCKBOT_STATE_URL=sqlite:////tmp/state.db")
    with engine.container(f"rockbot-cli:{version}", "publish", "order.created", "-", options=options) as waiting:
        until = time.monotonic() + 60
        while waiting.python(_CAUGHT) != "1":
            assert time.monotonic() < until, "SIGTERM is not handled"
        assert waiting.terminate(10) == 128 + 15
