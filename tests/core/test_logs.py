"""Log lines: one form each, and no credentials in any."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from rockbot.logs import IN_HAND, JsonFormatter, LineFormatter, configure, redact
from rockbot_messaging.envelope import MessageEnvelope


def record(
    message: str = "it happened", *args: object, exc: BaseException | None = None, **extra: Any
) -> logging.LogRecord:
    info = (type(exc), exc, exc.__traceback__) if exc else None
    made = logging.LogRecord("rockbot.test", logging.WARNING, __file__, 1, message, args, info)
    made.__dict__.update(extra)
    return made


def as_json(made: logging.LogRecord) -> dict[str, Any]:
    line = JsonFormatter().format(made)
    assert "\n" not in line
    value: dict[str, Any] = json.loads(line)
    return value


def test_json_lines_carry_time_level_logger_message_and_extras() -> None:
    made = record("%d letters", 3, message_id="m1", empty="", absent=None, count=0, topics=["a", "b"], path=Path("x"))
    made.created = 1_767_225_600.25
    assert as_json(made) == {
        "time": "2026-01-01T00:00:00.250+00:00",
        "level": "WARNING",
        "logger": "rockbot.test",
        "message": "3 letters",
        "message_id": "m1",
        "count": 0,
        "topics": ["a", "b"],
        "path": "x",
    }


def test_lines_carry_time_level_message_and_extras() -> None:
    line = LineFormatter().format(record(message_id="m1", attempt=2))
    assert line[8:] == " WARNING it happened message_id=m1 attempt=2"


def test_a_traceback_is_in_both_forms() -> None:
    try:
        raise ValueError("amqp://u:hidden@h")
    except ValueError as exc:
        made = record(exc=exc)
    assert "ValueError: amqp://***@h" in as_json(made)["traceback"]
    assert LineFormatter().format(made).endswith("ValueError: amqp://***@h")


def test_a_message_cannot_forge_a_line() -> None:
    line = LineFormatter().format(record("a\nb", error="c\r\nd"))
    assert "\n" not in line
    assert "\r" not in line
    assert line.endswith("a\\nb error=c\\r\\nd")


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("amqp://user:hidden@host:5672/v", "amqp://***@host:5672/v"),
        ("redis://:hidden@host", "redis://***@host"),
        ("amqps://user:hid@den@host/x", "amqps://***@host/x"),
        ("amqp://user:hid/den@host", "amqp://***@host"),
        ("amqp://host:5672/v", "amqp://host:5672/v"),
        ("http://host:80/path", "http://host:80/path"),
        ("Authorization: Bearer hidden.x-y", "Authorization: Bearer ***"),
        ("authorization: bearer hidden", "authorization: bearer ***"),
        ("key sk-ant-api03-hidden_x", "key ***"),
        ("a task-sketch", "a task-sketch"),
        ("?api_key=hidden&x=1", "?api_key=***&x=1"),
        ("x-api-key: hidden", "x-api-key: ***"),
        ('{"password": "hidden"}', '{"password": "***"}'),
        ("no secret is told", "no secret is told"),
    ],
)
def test_what_looks_like_a_credential_is_masked(text: str, clean: str) -> None:
    assert redact(text) == clean


@pytest.mark.parametrize("text", ["Bearer hidden", "amqp://u:hidden@h", "sk-hidden-hidden", 'x "Bearer hidden" y'])
def test_masking_leaves_json_whole_wherever_the_credential_stands(text: str) -> None:
    made = record(text, extra_text=text, nested={"a": [text, {"b": text}], text: 1}, secret=SecretStr("hidden"))
    line = JsonFormatter().format(made)
    assert "hidden" not in line
    assert json.loads(line)["level"] == "WARNING"
    assert "hidden" not in LineFormatter().format(made)


@given(st.text(), st.dictionaries(st.text(min_size=1).filter(lambda name: name not in record().__dict__), st.text()))
def test_any_text_is_one_line_of_json_that_can_be_written(message: str, extra: dict[str, str]) -> None:
    made = record()
    made.msg = message
    made.extra = extra
    line = JsonFormatter().format(made)
    json.loads(line)
    assert len(line.splitlines()) <= 1 or "\n" not in line
    assert line.encode()


def test_text_that_utf8_cannot_say_is_written_all_the_same() -> None:
    for form in (JsonFormatter(), LineFormatter()):
        assert form.format(record("\ud800")).encode()


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("form", "stream", "is_json"),
    [
        ("auto", io.StringIO(), True),
        ("auto", Terminal(), False),
        ("json", Terminal(), True),
        ("console", io.StringIO(), False),
    ],
)
def test_auto_is_console_on_a_terminal_and_json_elsewhere(
    form: Any, stream: io.StringIO, is_json: bool, root: logging.Logger
) -> None:
    configure("INFO", form, stream)
    logging.getLogger("rockbot.x").info("seen")
    logging.getLogger("rockbot.x").debug("not seen")
    logging.getLogger("aiormq.y").info("not seen either")
    (line,) = stream.getvalue().splitlines()
    assert line.startswith("{") is is_json
    stream.truncate(0)


def test_logs_go_to_standard_error_once(root: logging.Logger) -> None:
    configure("DEBUG", "json")
    configure("DEBUG", "json")
    (handler,) = root.handlers
    assert isinstance(handler, logging.StreamHandler)
    assert handler.stream is sys.stderr


def test_whatever_is_logged_while_a_message_is_handled_says_whose_it_was() -> None:
    envelope = MessageEnvelope(
        topic="t", body=b"", message_id="m", type="x", conversation_id="c", root_task_id="r",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )  # fmt: skip
    record = logging.LogRecord("any.library", logging.INFO, "", 0, "hello", (), None)
    token = IN_HAND.set(envelope)
    try:
        line = json.loads(JsonFormatter().format(record))
    finally:
        IN_HAND.reset(token)
    assert (line["message_id"], line["conversation"], line["task"]) == ("m", "c", "r")
    assert line["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
    assert "task" not in json.loads(JsonFormatter().format(record))
