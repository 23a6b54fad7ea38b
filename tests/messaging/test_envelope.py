"""The envelope as a value."""

from __future__ import annotations

import dataclasses

import pytest

from rockbot_messaging import MessageEnvelope, ReturnAddress

_WHOLE = MessageEnvelope(
    topic="job.one",
    body=b"{}",
    message_id="m-1",
    type="job",
    attempt=3,
    return_address=ReturnAddress("agent.step.a", "token"),
    headers={"colour": "red"},
)


@pytest.mark.parametrize(
    "changes", [{}, {"attempt": 4}, {"body": b"other", "return_address": None}, {"headers": {}, "history": ("a line",)}]
)
def test_a_copy_with_changes_is_what_the_constructor_would_have_made(changes: dict[str, object]) -> None:
    copy = _WHOLE.replace(**changes)
    assert copy == dataclasses.replace(_WHOLE, **changes)  # type: ignore[arg-type]
    assert copy is not _WHOLE
    assert _WHOLE.attempt == 3


def test_a_field_that_does_not_exist_cannot_be_changed() -> None:
    with pytest.raises(TypeError, match="'colour'"):
        _WHOLE.replace(colour="red")


def test_a_copy_is_as_unchangeable_as_its_original() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        _WHOLE.replace(attempt=4).attempt = 5  # type: ignore[misc]
