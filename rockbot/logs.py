"""Log records as one line each: readable on a terminal, JSON for collectors. Values that look like secrets are masked."""

from __future__ import annotations

import json
import logging
import re
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Final, Literal, TextIO, final

from rockbot_messaging.envelope import MessageEnvelope
from rockbot_messaging.tracing import trace_id

__all__ = ["IN_HAND", "JsonFormatter", "LineFormatter", "configure", "quiet_libraries"]

#: The message that is being handled: what is logged meanwhile, by whomever, says whose it was.
IN_HAND: Final[ContextVar[MessageEnvelope | None]] = ContextVar("message_in_hand", default=None)

_STANDARD: Final = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__) | {
    "message",
    "asctime",
    "taskName",
}

#: Credentials in URLs (up to the last @: passwords may contain one), bearer tokens, API keys, values that are named so.
_SECRETS: Final = re.compile(
    r"(?<=://)[^/@\s]*:\S+(?=@)"
    r"|(?i:(?<=bearer )[^\s\"',;]+)"
    r"|\bsk-[A-Za-z0-9_-]{8,}"
    r"|(?i:(?P<name>\b(?:x-)?(?:api[_-]?key|password|secret)[\"']?\s*[=:]\s*[\"']?))[^\s\"',;&]+"
)


#: Every text that `_SECRETS` finds something in has one of these, in whatever case.
_SIGNS: Final = ("://", "sk-", "bearer ", "key", "password", "secret")


def redact(text: str) -> str:
    """`text` with everything that looks like a credential masked."""
    lowered = text.lower()
    if not any(sign in lowered for sign in _SIGNS):  # ten times as cheap as the search, and most texts have none
        return text
    return _SECRETS.sub(lambda found: f"{found['name'] or ''}***", text)


def _plain(value: object) -> object:
    """`value` as JSON can say it, every text in it redacted. Done before it is written, so that the line stays JSON."""
    match value:
        case bool() | int() | float() | None:
            return value
        case dict():
            return {redact(str(name)): _plain(item) for name, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_plain(item) for item in value]
        case _:
            return redact(str(value))


def _extras(record: logging.LogRecord) -> dict[str, object]:
    return {
        name: value
        for name, value in record.__dict__.items()
        if name not in _STANDARD and value is not None and value != ""
    }


def _about(envelope: MessageEnvelope | None) -> dict[str, object]:
    if envelope is None:
        return {}
    known = {
        "message_id": envelope.message_id,
        "conversation": envelope.conversation_id,
        "task": envelope.root_task_id,
        "trace_id": trace_id(envelope.traceparent),
    }
    return {name: value for name, value in known.items() if value}


@final
class JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_about(IN_HAND.get()),
            **_extras(record),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return _sayable(json.dumps(_plain(entry), ensure_ascii=False))


@final
class LineFormatter(logging.Formatter):
    """``12:00:00 INFO message key=value ...``; only a traceback makes more than one line of it."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        extras = " ".join(f"{name}={value}" for name, value in _extras(record).items())
        line = f"{at} {record.levelname:<7} {record.getMessage()} {extras}".rstrip()
        line = line.replace("\r", "\\r").replace("\n", "\\n")
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return _sayable(redact(line))


def _sayable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def quiet_libraries() -> None:
    """Silence the AMQP client, which prints a traceback for every lost connection; our provider says it in one line."""
    for name in ("aio_pika", "aiormq"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def configure(level: str, form: Literal["auto", "console", "json"], stream: TextIO | None = None) -> None:
    """Send all logs of this process to `stream` (standard error) in one form; `auto` is console on a terminal."""
    out = stream or sys.stderr
    console = form == "console" or (form == "auto" and out.isatty())
    handler = logging.StreamHandler(out)
    handler.setFormatter(LineFormatter() if console else JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    quiet_libraries()
    for noisy in ("httpx2", "httpcore2", "asyncio", "uvicorn", "anthropic", "openai"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLevelName(level)))
