"""What may be asked for, and how a result is worded; all pure."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rockbot_scripts import contract, policy, wording
from rockbot_scripts.contract import ScriptInvoke, ScriptLimits, ScriptResult
from rockbot_scripts.settings import ScriptSettings


def test_importing_the_contract_loads_nothing_heavier_than_pydantic() -> None:
    code = (
        "import sys, rockbot_scripts.contract\n"
        "print([m for m in ('wasmtime', 'asyncio', 'rockbot', 'rockbot_messaging') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_runtime_is_the_last_word_of_the_topic() -> None:
    assert contract.invoke_topic("python") == "script.invoke.python"
    assert contract.invoke_topic("javascript") == "script.invoke.javascript"


def test_reading_ignores_unknown_fields_and_messages_are_immutable() -> None:
    invoke = ScriptInvoke.model_validate({"language": "python", "code": "1", "new_field": 1})
    assert invoke.input == ""
    with pytest.raises(ValidationError):
        invoke.code = "2"  # type: ignore[misc]


@given(
    wall=st.floats(min_value=1e-6, max_value=1e9),
    memory=st.integers(min_value=1, max_value=2**50),
    output=st.integers(min_value=1, max_value=2**50),
)
def test_no_wish_exceeds_the_maxima_of_the_service(wall: float, memory: int, output: int) -> None:
    settings = ScriptSettings(max_wall_seconds=7, max_memory_bytes=64 << 20, max_output_bytes=4096)
    limits = policy.clamp(ScriptLimits(wall_seconds=wall, memory_bytes=memory, output_bytes=output), settings)
    assert limits.wall_seconds <= 7
    assert policy.MIN_MEMORY_BYTES <= limits.memory_bytes <= 64 << 20
    assert limits.output_bytes == min(output, 4096)


def test_without_a_wish_the_defaults_apply_but_never_above_the_maxima() -> None:
    assert policy.clamp(None, ScriptSettings()) == ScriptLimits()
    assert policy.clamp(None, ScriptSettings(max_wall_seconds=2)).wall_seconds == 2


def test_limits_of_nothing_are_no_limits_at_all() -> None:
    for wrong in ({"wall_seconds": 0}, {"wall_seconds": float("inf")}, {"memory_bytes": 0}, {"output_bytes": -1}):
        with pytest.raises(ValidationError):
            ScriptLimits.model_validate(wrong)


@pytest.mark.parametrize("field", ["code", "input"])
def test_what_is_too_large_is_denied_with_its_size_and_the_limit(field: str) -> None:
    limit = contract.MAX_CODE_BYTES if field == "code" else contract.MAX_INPUT_BYTES
    fits = ScriptInvoke.model_validate({"language": "python", "code": "1", field: "x" * limit})
    larger = ScriptInvoke.model_validate({"language": "python", "code": "1", field: "x" * (limit - 1) + "é"})
    assert policy.refusal(fits) is None
    denied = policy.refusal(larger)
    assert denied is not None
    assert denied.status == "denied"
    assert f"its {field} has {limit + 1} bytes and the limit is {limit} bytes" in denied.message


def test_every_status_has_a_sentence_that_names_its_limit() -> None:
    limits = ScriptLimits(wall_seconds=1.5, memory_bytes=64 << 20, output_bytes=2048)
    assert "1.5 s" in wording.sentence("timeout", limits)
    assert "64 MiB" in wording.sentence("oom", limits)
    assert "2 KiB" in wording.sentence("output_limit", limits)
    assert wording.sentence("error", limits, reason="ValueError: no") == "The script failed: ValueError: no."
    assert "exit code 3" in wording.sentence("error", limits, exit_code=3)


@pytest.mark.parametrize(
    "answer", [{}, {"status": "fine"}, {"status": "ok", "stdout": 5}, {"status": "ok", "wall_ms": "1"}]
)
def test_a_malformed_answer_of_a_worker_is_no_result(answer: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="malformed"):
        wording.result(answer, ScriptLimits(), engine="e")


def test_a_result_survives_the_wire() -> None:
    result = wording.result({"status": "ok", "value": "1", "stdout": "é"}, ScriptLimits(), engine="e")
    assert ScriptResult.model_validate_json(result.model_dump_json()) == result
