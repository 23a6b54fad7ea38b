"""A letter as a document that a person edits: headers as TOML, a line of dashes, the body.

What cannot be changed stands in comments, so that a reader sees all there is.
"""

from __future__ import annotations

import json
import tomllib
from typing import TYPE_CHECKING, Any, Final

from rockbot.operators.faults import InvalidRequest
from rockbot_messaging.envelope import HeaderValue

if TYPE_CHECKING:
    from rockbot.letters.models import Edit, LetterView

__all__ = ["body_of", "document_of", "read_document"]

_LINE: Final = "-------- body: everything below this line --------"
#: What an `Edit` can change besides body and headers, by the names that letter and edit share.
_FIELDS: Final = ("type", "content_type", "reply_to", "correlation_id", "deadline_ms")
#: What is shown but never changed.
_SHOWN: Final = ("id", "topic", "origin", "source", "conversation_id", "root_task_id", "causation_id", "traceparent")
#: A body of one line that is longer than this is shown with a line for each of its values.
_LONG: Final = 100


def body_of(letter: LetterView) -> bytes:
    """The body for an editor: JSON in one long line is spread over lines, everything else is as it is."""
    body = letter.body_bytes
    if letter.body_encoding == "utf-8" and len(letter.body) > _LONG and "\n" not in letter.body:
        try:
            return json.dumps(json.loads(letter.body), indent=2, ensure_ascii=False).encode() + b"\n"
        except ValueError:
            pass
    return body


def document_of(letter: LetterView) -> bytes:
    """Headers and body for an editor.

    Raises:
        InvalidRequest: the body is no text.
    """
    if letter.body_encoding != "utf-8":
        raise InvalidRequest("the body is no text: change its headers with --set-header, the body with --file")
    lines = [f"# {letter.id} in {letter.queue}", f"# died: {_one_line(letter.reason)}", "#"]
    lines += [f"# {name} = {_value(value)}   (fixed)" for name in _SHOWN if (value := getattr(letter, name))]
    lines += ["#", "# A line that is left out leaves its field as it is."]
    for name in _FIELDS:
        value = getattr(letter, name)
        note = "   # sensitive: needs --careful" if name in letter.sensitive else ""
        if name in letter.locked:
            lines.append(f"# {name} = {_value(value if value is not None else '')}   (fixed)")
        elif value is None or value == "":
            lines.append(f"# {name} = {0 if name == 'deadline_ms' else _value('')}{note}")
        else:
            lines.append(f"{name} = {_value(value)}{note}")
    lines += ["", "[headers]"]
    lines += [f"{_value(name)} = {_value(value)}" for name, value in letter.headers.items() if value is not None]
    lines += ["", _LINE, ""]
    return "\n".join(lines).encode() + body_of(letter)


def read_document(content: bytes, letter: LetterView, given: Edit) -> Edit:
    """What the document changes, over what the options `given` say.

    Raises:
        InvalidRequest: it is no document of ours any more; the text says where.
    """
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise InvalidRequest("the document is no UTF-8 text") from None
    head, separator, body = text.partition(f"{_LINE}\n")
    if not separator:
        raise InvalidRequest(f"the line {_LINE!r} is gone: it says where the body begins")
    try:
        fields = tomllib.loads(head)
    except tomllib.TOMLDecodeError as exc:
        raise InvalidRequest(f"the headers are no TOML: {exc}") from None
    if unknown := set(fields) - {*_FIELDS, "headers"}:
        raise InvalidRequest(f"{', '.join(sorted(unknown))} cannot be changed")
    return given.model_copy(update={**_changes(fields, letter), **_body(body, letter)})


def _changes(fields: dict[str, Any], letter: LetterView) -> dict[str, object]:
    changes: dict[str, object] = {}
    for name in _FIELDS:
        if name not in fields:
            continue
        value, kind = fields[name], int if name == "deadline_ms" else str
        if type(value) is not kind:
            raise InvalidRequest(f"{name} must be {'a number' if kind is int else 'text in quotes'}")
        if value != getattr(letter, name):
            changes[name] = value
    headers = fields.get("headers", {})
    if not isinstance(headers, dict):
        raise InvalidRequest("headers must be a table: [headers] on a line of its own")
    for name, value in headers.items():
        if not isinstance(value, (str, int, float, bool)):
            raise InvalidRequest(f"headers.{name} must be text in quotes, a number, true or false")
    kept: dict[str, HeaderValue] = {name: value for name, value in letter.headers.items() if value is None}
    wanted = {**kept, **headers}
    if wanted != letter.headers:
        changes["headers"] = wanted
    return changes


def _body(body: str, letter: LetterView) -> dict[str, object]:
    shown = body_of(letter).decode()
    if body == shown or (not shown.endswith("\n") and body == f"{shown}\n"):
        return {}
    if letter.body and not letter.body.endswith("\n"):
        body = body.removesuffix("\n")
    return {"body": body, "body_encoding": "utf-8"}


def _value(value: object) -> str:
    """As TOML writes it; a JSON text is one, but for DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _one_line(text: str) -> str:
    return " ".join(text.split())
