"""No command shows a password or a key, whatever it prints and however it fails."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from cli.conftest import Ran

_CANARY = "canary-7f3a9c1d-canary-7f3a9c1d-canary"


@pytest.mark.parametrize(
    "command",
    [
        ("config", "show"),
        ("config", "show", "--json"),
        ("config", "check"),
        ("pipeline",),
        ("pipeline", "--json"),
        ("topology", "plan", "--debug"),
        ("topology", "roles", "--json"),
        ("dlq", "list", "--debug"),
    ],
)
def test_secrets_of_every_kind_are_in_no_output_and_no_log(
    alone: Callable[..., Ran],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    command: tuple[str, ...],
) -> None:
    caplog.set_level(logging.DEBUG)
    path = tmp_path / "rockbot.toml"
    path.write_text(
        f'broker_url = "amqp://rock:{_CANARY}@127.0.0.1:1/"\n'
        f'state_url = "sqlite:///{tmp_path}/state.db"\n'
        f'[broker]\nmanagement_url = "http://rock:{_CANARY}@127.0.0.1:1"\n'
        f'[signing]\nkey = "k"\n[signing.keys]\nk = "{_CANARY}"\n'
        f'[anthropic]\napi_key = "{_CANARY}"\n'
    )
    monkeypatch.setenv("ROCKBOT_CONFIG", str(path))
    ran = alone(*command)
    assert _CANARY not in ran.out + ran.err + caplog.text
    assert ran.code != 2, ran.err
    assert ran.out + ran.err or command == ("config", "check")
