"""What `doctor` says of large bodies, signatures and trust."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rockbot.operators.layer_checks import layer_checks
from rockbot.settings import Settings

_SECRET = "a secret of more than 32 characters!"
_AMQP = "amqp://rock:hunter2@127.0.0.1/"
_KEYS = {"keys": {"k1": _SECRET}}


def _checks(**given: Any) -> dict[str, tuple[str, str]]:
    settings = Settings.model_validate({"broker_url": _AMQP, "state_url": "sqlite:///state.db", **given})
    found = layer_checks(settings)
    assert not any(secret in str(found) for secret in (_SECRET, "hunter2"))
    return {check.name: (check.status, f"{check.detail}; {check.advice}") for check in found}


def test_without_further_settings_all_is_well() -> None:
    assert {status for status, _ in _checks().values()} == {"ok"}
    assert {status for status, _ in _checks(broker_url="memory://").values()} == {"ok"}


@pytest.mark.parametrize(
    ("given", "name", "status", "says"),
    [
        ({"artifacts": {"threshold_bytes": 9}}, "artifacts", "warn", "only this machine"),
        ({"artifacts": {"folder": "/nowhere/at/all"}}, "artifacts", "warn", "/nowhere/at/all does not exist"),
        ({"signing": {**_KEYS, "require": ["agent.task.#"]}}, "signing", "fail", "set signing.key"),
        ({"signing": {**_KEYS, "key": "k1"}}, "signing", "warn", "set signing.require"),
        ({"signing": {**_KEYS, "key": "k1", "require": ["a.#"]}}, "signing", "ok", "required on a.#"),
        ({"signing": _KEYS}, "signing", "ok", "does not sign"),
        ({"trust": {"enforce": True}}, "trust", "fail", "'rock'"),
        ({"trust": {"enforce": True, "users": {"rock": "publisher"}}}, "trust", "fail", "publisher"),
        ({"trust": {"enforce": True, "users": {"rock": "operator"}}}, "trust", "ok", "enforced on"),
    ],
)
def test_what_would_have_messages_refused_or_unreadable_is_told(
    given: dict[str, Any], name: str, status: str, says: str
) -> None:
    found = _checks(**given)[name]
    assert found[0] == status
    assert says in found[1]


def test_a_shared_folder_is_told_with_what_to_see_to(tmp_path: Path) -> None:
    status, text = _checks(artifacts={"folder": tmp_path})["artifacts"]
    assert status == "ok"
    assert "every process" in text
