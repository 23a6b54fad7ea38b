"""Where RabbitMQ is installed, and the small questions one asks a server that is starting."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

MISSING: Final = (
    "these tests need a RabbitMQ server and found none: run `apt-get install rabbitmq-server` (the suite starts its own "
    "private node), or set ROCKBOT_TEST_RABBITMQ to an unpacked release of it, or ROCKBOT_TEST_AMQP_URL to a running one, "
    "or ROCKBOT_TEST_DOCKER=1 where a Docker engine answers"
)
START_SECONDS: Final = 90.0


def installation() -> Path | None:
    """The sbin folder of the server that ROCKBOT_TEST_RABBITMQ names (an unpacked release), else of the newest installed one.

    The distribution's wrapper insists on system paths, so the server itself is started.
    """
    if given := os.environ.get("ROCKBOT_TEST_RABBITMQ"):
        sbin = Path(given, "sbin")
        if not (sbin / "rabbitmq-server").exists():
            raise RuntimeError(f"ROCKBOT_TEST_RABBITMQ names {given!r}, in which there is no sbin/rabbitmq-server")
        return sbin
    found = sorted(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin/rabbitmq-server"))
    if found:
        return found[-1].parent
    server = shutil.which("rabbitmq-server")
    return Path(server).resolve().parent if server else None


def port_mapper() -> str:
    """The program that Erlang nodes find each other by."""
    found = shutil.which("epmd") or next(map(str, Path("/usr/lib/erlang").glob("erts-*/bin/epmd")), None)
    if found is None:
        raise RuntimeError(MISSING)
    return found


def caller() -> str | None:
    """The program that asks a node to evaluate something: in no time, where starting `rabbitmqctl` takes a second of CPU."""
    return shutil.which("erl_call") or next(map(str, Path("/usr/lib/erlang").glob("erts-*/bin/erl_call")), None)


def evaluated(code: str, *, node: str, cookie: str, env: Mapping[str, str]) -> str | None:
    """What an expression is on a node, as text; None where there is no `caller`.

    Raises:
        RuntimeError: the node is gone, or the expression failed.
    """
    program = caller()
    if program is None:
        return None
    done = subprocess.run(
        [program, "-c", cookie, "-sname", node, "-e"],
        input=f"{code.strip()}\n",
        env=dict(env),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    answer = done.stdout.strip()
    if done.returncode or not answer.startswith("{ok, "):
        raise RuntimeError(f"{code}: {answer}{done.stderr}")
    return answer.removeprefix("{ok, ").removesuffix("}")


def listens(port: int) -> bool:
    """Whether anybody accepts connections there."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def greets(port: int) -> bool:
    """Whether a broker answers there; one that is still starting accepts and hangs up."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as peer:
        peer.sendall(b"AMQP\x00\x00\x09\x01")
        return bool(peer.recv(1))
    return False
