"""Host and script service in containers that reach the bus and each other's state file, and nothing else in the world."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from images import relay
from images.engine import Container, Engine

#: How a cautious orchestrator starts a container.
HARDENED = (
    "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
)  # fmt: skip
#: Ports of the health of both, which share one loopback.
HEALTH = {"host": 8081, "scripts": 8082}
_PORT = 5672


@dataclass(frozen=True)
class Deployment:
    """`options` are for one more container beside these."""

    host: Container
    scripts: Container
    url: str
    folder: Path
    options: tuple[str, ...]
    ready_seconds: dict[str, float]


@contextmanager
def deployed(engine: Engine, version: str, *, amqp_url: str, folder: Path, namespace: str) -> Iterator[Deployment]:
    """Yielded when both consume. `folder` is short and empty: it holds the state and the socket of the relay."""
    folder.chmod(0o777)  # another user's, in the containers
    socket, address = folder / "bus", urlsplit(amqp_url)
    script = Path(str(relay.__file__))
    outside = [sys.executable, str(script), f"unix:{socket}", f"tcp:{address.hostname}:{address.port or _PORT}"]
    with ExitStack() as closing:
        outer = closing.enter_context(subprocess.Popen(outside, stdout=subprocess.PIPE))
        closing.callback(outer.kill)
        assert outer.stdout is not None and outer.stdout.readline() == b"relaying\n"
        inside = ("--network", "none", "--volume", f"{folder}:/bus", "--volume", f"{script.parent}:/relay:ro")
        island = closing.enter_context(
            engine.container(
                f"rockbot-cli:{version}",
                *("/relay/relay.py", f"tcp:127.0.0.1:{_PORT}", "unix:/bus/bus"),
                options=(*HARDENED, *inside, "--entrypoint", "python3"),
            )
        )
        island.until("relaying")
        environment = {
            "ROCKBOT_BROKER_URL": re.sub(r"@[^/]+", f"@127.0.0.1:{_PORT}", amqp_url),
            "ROCKBOT_NAMESPACE": namespace,
            "ROCKBOT_STATE_URL": "sqlite:////var/lib/rockbot/state.db",
            "ROCKBOT_MODEL": "scripted/demo",
            "ROCKBOT_HOST__LOG_FORMAT": "json",
            "ROCKBOT_SCRIPTS__STRICT": "true",
            "ROCKBOT_SCRIPTS__CALL_LOG": "/var/lib/rockbot/calls.jsonl",
        }
        options = (
            *HARDENED,
            *("--network", f"container:{island.name}", "--volume", f"{folder}:/var/lib/rockbot"),
            *(word for name, value in environment.items() for word in ("--env", f"{name}={value}")),
        )

        def start(target: str, port: int) -> Container:
            own = (*options, "--env", f"ROCKBOT_HOST__HEALTH_PORT={port}")
            return closing.enter_context(engine.container(f"rockbot-{target}:{version}", options=own))

        host, scripts = start("host", HEALTH["host"]), start("scripts", HEALTH["scripts"])
        ready = {"host": host.until("host consumes"), "scripts": scripts.until("service consumes")}
        yield Deployment(host, scripts, amqp_url, folder, options, ready)
