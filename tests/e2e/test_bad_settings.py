"""Settings, addresses and installations that are wrong: one line that says what, an exit code, never a traceback."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
import sysconfig
from pathlib import Path

import pytest
from e2e.processes import environment, rockbot
from nodes.rabbitmq import free_port

pytestmark = [pytest.mark.rabbitmq, pytest.mark.timeout(240)]


async def _says(cwd: Path, command: str, code: int, *words: str, **variables: str) -> None:
    ended, out, err = await rockbot(shlex.split(command), env=environment(**variables), cwd=cwd, timeout=120)
    assert (ended, out) == (code, ""), err
    lines = [line for line in err.splitlines() if not line.startswith("{")]
    assert lines[0].startswith("error: "), err
    assert "Traceback" not in err and "unexpected" not in err
    for word in words:
        assert word in err
    assert "s3cret" not in err


async def test_settings_that_are_wrong_are_named_with_their_source(tmp_path: Path) -> None:
    files = {
        "broken.toml": b"[broken\nx = 1",
        "bytes.toml": b"\xff\xfe",
        "misspelt.toml": b'modell = "x"',
        "section.toml": b"[host]\nprefetsch = 3",
        "type.toml": b'broker_url = "amqp://u:s3cret@h/"\n[host]\nprefetch = "many"',
        "scripts.toml": b"[scripts]\nwokers = 3",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    up = f"--state memory:// --socket {tmp_path / 'socket'} up --once"
    await asyncio.gather(
        _says(tmp_path, "--config broken.toml run", 3, "broken.toml", "not valid TOML", "line 1"),
        _says(tmp_path, "--config bytes.toml run", 3, "bytes.toml", "cannot be read"),
        _says(tmp_path, "--config none.toml run", 3, "none.toml", "does not exist"),
        _says(tmp_path, "--config misspelt.toml run", 3, "'modell'", "misspelt.toml", "did you mean 'model'"),
        _says(tmp_path, "--config section.toml run", 3, "'host.prefetsch'", "section.toml"),
        _says(tmp_path, "--config type.toml run", 3, "'host.prefetch'", "type.toml"),
        _says(tmp_path, f"--config scripts.toml {up}", 3, "[scripts]", "wokers"),
        _says(tmp_path, "dlq list", 3, "ROCKBOT_MODLE", "did you mean 'model'", ROCKBOT_MODLE="x"),
        _says(tmp_path, "dlq list", 3, "host.prefetsch", "environment", ROCKBOT_HOST__PREFETSCH="3"),
    )


async def test_a_broker_that_cannot_be_used_is_said_with_its_reason(amqp_url: str, tmp_path: Path) -> None:
    where = amqp_url.split("@")[-1]
    closed = f"127.0.0.1:{free_port()}"
    memory = {"ROCKBOT_STATE_URL": "memory://"}
    await asyncio.gather(
        _says(tmp_path, f"--broker amqp://guest:s3cret@{where} ask assistant hi", 4, "ACCESS_REFUSED"),
        _says(tmp_path, f"--broker amqp://guest:s3cret@{where} run", 4, "ACCESS_REFUSED", **memory),
        _says(tmp_path, f"--broker {amqp_url}nowhere scripts", 4, "virtual host 'nowhere'", "not found", **memory),
        _says(tmp_path, f"--broker amqp://guest:s3cret@{closed}/ dlq list", 4, closed, "Connect call failed"),
        _says(tmp_path, "--broker http://u:s3cret@h/ ask assistant hi", 3, "broker_url", "unknown scheme 'http'"),
        _says(tmp_path, "--broker amqp://u:s3cret@h:port/ ask assistant hi", 3, "broker_url", "no address"),
        _says(tmp_path, "--broker amqp://u:s3cret@[::1/ run", 3, "broker_url", "no address"),
        _says(tmp_path, "--broker amqp:///vhost run", 3, "broker_url", "amqp://user:password@host:port/vhost"),
        _says(tmp_path, f"--socket {tmp_path / 'none'} ask assistant hi", 4, "no running host", "rockbot up"),
    )


async def test_a_state_file_that_cannot_be_used_is_said_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "letter.db").write_text("Dear database, " * 100)
    up = f"--socket {tmp_path / 'socket'} up --once"
    await _says(tmp_path, f"--state sqlite:///letter.db {up}", 1, "letter.db", "not a SQLite database")
    await _says(tmp_path, f"--state sqlite:///. {up}", 1, "cannot be opened")
    await _says(tmp_path, f"--state sqlite:////proc/none/state.db {up}", 1, "/proc/none")
    await _says(tmp_path, f"--state mysql://u:s3cret@h {up}", 3, "'mysql' is not supported")
    closed = f"127.0.0.1:{free_port()}"
    await _says(tmp_path, f"--state redis://u:s3cret@{closed} {up}", 1, closed)
    await _says(tmp_path, f"--state postgresql://u:s3cret@{closed}/db {up}", 1, closed)
    assert (tmp_path / "letter.db").read_text() == "Dear database, " * 100


def _installation_without(folder: Path, *packages: str) -> Path:
    """A Python like this one, in which packages whose names begin so are not installed."""
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    site.mkdir(parents=True)
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.lower().replace("-", "_").startswith(packages):
            (site / entry.name).symlink_to(entry)
    (folder / "bin").mkdir()
    python = folder / "bin" / "python"
    python.symlink_to(os.path.realpath(sys.executable))
    (folder / "pyvenv.cfg").write_text(f"home = {Path(os.path.realpath(sys.executable)).parent}\n")
    return python


@pytest.mark.parametrize(
    ("package", "command", "extra"),
    [
        ("aio_pika", "--broker amqp://127.0.0.1:1/ --state memory:// run", "rabbitmq"),
        ("anthropic", "--broker amqp://127.0.0.1:1/ --state memory:// --model anthropic/some-model run", "anthropic"),
        ("openai", "--broker amqp://127.0.0.1:1/ --state memory:// --model ollama/some-model run", "openai"),
        ("wasmtime", "--state memory:// --socket socket up --once", "wasm"),
        ("fastapi", "--state memory:// --socket socket up --once", "gateway"),
        ("httpx2", "--socket socket ask assistant hello", "gateway"),
    ],
)
async def test_a_missing_extra_is_named_with_the_command_that_installs_it(
    package: str, command: str, extra: str, tmp_path: Path
) -> None:
    python = _installation_without(tmp_path / "installation", package)
    process = await asyncio.create_subprocess_exec(
        python, "-m", "rockbot.cli", *shlex.split(command),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=environment(), cwd=tmp_path,
    )  # fmt: skip
    async with asyncio.timeout(120):
        out, err = await process.communicate()
    assert (process.returncode, out) == (3, b""), err.decode()
    assert f"pip install 'rockbot[{extra}]'" in err.decode()
    assert "Traceback" not in err.decode()
