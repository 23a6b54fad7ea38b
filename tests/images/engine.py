"""The container engine of the machine, by its command line: docker or podman, whichever answers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, final

ROOT = Path(__file__).parents[2]
TARGETS = ("host", "scripts", "cli")
#: What `docker/Dockerfile` builds from unless told otherwise.
DEFAULT_BASE = "docker.io/library/python:3.14-slim-bookworm"


class NoEngine(Exception):
    """Images cannot be built or run here; the text says what to do."""


@final
class Engine:
    """Runs commands of the engine."""

    def __init__(self) -> None:
        there = [found for name in ("docker", "podman") if (found := shutil.which(name))]
        if not there:
            raise NoEngine("make test-images needs docker or podman on the path")
        said = ""
        for self.command in there:
            answer = self._try("info")
            if answer.returncode == 0:
                return
            said += f"{self.command}: {answer.stderr.strip()}\n"
        raise NoEngine(f"no container engine answers; start one, or say where it listens (DOCKER_HOST)\n{said}")

    def _try(self, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.command, *arguments], capture_output=True, text=True, timeout=timeout, check=False, cwd=ROOT
        )

    def run(self, *arguments: str, timeout: float = 60) -> str:
        """A command to its end; what it printed."""
        done = self._try(*arguments, timeout=timeout)
        assert done.returncode == 0, f"{self.command} {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def has(self, image: str) -> bool:
        """Whether an image is here."""
        return self._try("image", "inspect", image).returncode == 0

    def fetch(self, base: str) -> None:
        """Make sure that a base image is here."""
        if self.has(base):
            return
        pulled = self._try("pull", base, timeout=600)
        if pulled.returncode:
            raise NoEngine(
                f"the base image {base} is not here and cannot be pulled. Import a root file system that has python3 with venv:\n"
                f"  tar -C ROOTFS -c . | {Path(self.command).name} import - my-python && "
                f"PYTHON_IMAGE=my-python make test-images\n{pulled.stderr.strip()}"
            )

    def build(self, base: str) -> None:
        """Build all images, as `make image` does it."""
        done = subprocess.run(
            ["make", "--silent", "image"],
            cwd=ROOT,
            env={**os.environ, "PYTHON_IMAGE": base},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=1800,
            check=False,
        )
        assert done.returncode == 0, f"make image failed:\n{done.stdout[-4000:]}"

    def inspect(self, name: str) -> dict[str, Any]:
        """What the engine knows of a container or image."""
        (found,) = json.loads(self.run("inspect", name))
        return dict(found)

    @contextmanager
    def container(self, image: str, *command: str, options: Sequence[str]) -> Iterator[Container]:
        """A container in the background, removed with everything of it in the end."""
        name = f"rockbot-test-{uuid.uuid4().hex[:8]}"
        self.run("run", "--detach", "--name", name, *options, image, *command)
        try:
            yield Container(self, name)
        finally:
            with suppress(AssertionError):
                self.run("rm", "--force", "--volumes", name)


@final
class Container:
    """One that runs."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self.name = name

    def until(self, message: str) -> float:
        """Wait for a line of its log that holds `message`; the seconds from its start to that line."""
        with subprocess.Popen(
            [self._engine.command, "logs", "--follow", "--timestamps", self.name],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as follower:
            assert follower.stdout is not None
            seen: list[str] = []
            for line in follower.stdout:
                seen.append(line)
                if message in line:
                    follower.kill()
                    started = datetime.fromisoformat(self._engine.inspect(self.name)["State"]["StartedAt"])
                    return (datetime.fromisoformat(line.split(" ", 1)[0]) - started).total_seconds()
        raise AssertionError(f"{self.name} ended and never said {message!r}:\n{''.join(seen)}")

    def python(self, program: str) -> str:
        """Run a Python program in it; what it printed."""
        return self._engine.run("exec", self.name, "python3", "-c", program)

    def terminate(self, seconds: int) -> int:
        """SIGTERM, and SIGKILL after so many seconds; its exit status."""
        self._engine.run("stop", "--time", str(seconds), self.name, timeout=seconds + 30)
        return int(self._engine.inspect(self.name)["State"]["ExitCode"])
