"""Mending one letter: from options, or in an editor until it is valid or given up."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

from rockbot.cli.letters_asking import agrees
from rockbot.cli.letters_document import body_of, document_of, read_document
from rockbot.cli.letters_selection import instant_ms
from rockbot.operators.faults import InvalidRequest, OperatorError

if TYPE_CHECKING:
    from rockbot.cli.render import Screen
    from rockbot.letters.desk import LetterDesk
    from rockbot.letters.models import Edit, LetterView
    from rockbot.operators.models import PublishedMessage

__all__ = ["Change", "mend"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a person wants to change of one letter, as typed."""

    editor: bool = False
    headers: bool = False
    body: bytes | None = None
    set_headers: tuple[str, ...] = ()
    unset_headers: tuple[str, ...] = ()
    type: str | None = None
    reply_to: str | None = None
    content_type: str | None = None
    deadline: str | None = None
    careful: bool = False
    unchecked: bool = False

    @property
    def needs_letter(self) -> bool:
        """Whether there is something that only a letter named by its id can be given."""
        values = (self.body, self.reply_to, self.content_type, self.deadline)
        flags = (self.editor, self.set_headers, self.unset_headers, self.careful, self.unchecked)
        return any(flags) or any(value is not None for value in values)

    @property
    def wanted(self) -> bool:
        """Whether anything is changed."""
        return self.needs_letter or self.type is not None


async def mend(screen: Screen, desk: LetterDesk, letter: LetterView, change: Change, *, actor: str) -> PublishedMessage:
    """Send the letter on as `change` wants it. On a terminal an edit that is refused goes back to the editor.

    Raises:
        InvalidRequest: the change is none, or is refused; the text says where. OperatorError: the editor failed, or the
            letter was left as it was.
    """
    given = _from_options(letter, change)
    if not change.editor:
        return await _sent(desk, letter, given, actor=actor)
    editor = _editor()
    before = document_of(letter) if change.headers else body_of(letter)
    suffix = ".toml" if change.headers else ".json" if letter.body_encoding == "utf-8" else ".bin"
    with _own_file(screen, f"letter{suffix}", before) as path:
        while True:
            after = await _edited(editor, path)
            if not before.endswith(b"\n"):
                after = after.removesuffix(b"\n")  # most editors end a file with a newline that nobody typed
            if after == before:
                raise OperatorError("nothing was changed; nothing was sent (without --edit it is sent as it is)")
            try:
                edit = _merged(letter, given, after, headers=change.headers)
                return await _sent(desk, letter, edit, actor=actor)
            except InvalidRequest as exc:
                if not sys.stdin.isatty():
                    raise
                screen.error("invalid_request", str(exc))
                if not await agrees(screen, "Edit it again?", default=True):
                    raise OperatorError("nothing was sent; the letter stays as it was") from None


async def _sent(desk: LetterDesk, letter: LetterView, edit: Edit, *, actor: str) -> PublishedMessage:
    if not edit.careful:
        changed = [name for name in letter.sensitive if getattr(edit, name, None) is not None]
        if changed:
            raise InvalidRequest(
                f"whoever receives the message decides by {', '.join(changed)}: add --careful to change it"
            )
    return await desk.edit(letter.queue, letter.id, edit, actor=actor)


def _merged(letter: LetterView, given: Edit, after: bytes, *, headers: bool) -> Edit:
    """The edit that a document makes, together with the options."""
    from rockbot.operators.models import body_text

    if headers:
        return read_document(after, letter, given)
    text, encoding = body_text(after)
    return given.model_copy(update={"body": text, "body_encoding": encoding})


def _from_options(letter: LetterView, change: Change) -> Edit:
    from rockbot.letters.models import Edit
    from rockbot.operators.models import body_text
    from rockbot_messaging.clock import SystemClock

    text, encoding = (None, "utf-8") if change.body is None else body_text(change.body)
    deadline_ms = None
    if change.deadline is not None:
        deadline_ms = instant_ms(change.deadline, SystemClock().now_ms(), ahead=True)
    return Edit(
        body=text,
        body_encoding="base64" if encoding == "base64" else "utf-8",
        headers=_headers(letter, change),
        type=change.type,
        content_type=change.content_type,
        reply_to=change.reply_to,
        deadline_ms=deadline_ms,
        careful=change.careful,
        unchecked=change.unchecked,
    )


def _headers(letter: LetterView, change: Change) -> dict[str, str | int | float | bool | None] | None:
    """The free headers as they shall be; None when they stay."""
    if not change.set_headers and not change.unset_headers:
        return None
    headers = dict(letter.headers)
    for name in change.unset_headers:
        if name not in headers:
            have = ", ".join(headers) or "none"
            raise InvalidRequest(f"the letter has no header {name!r} to drop (it has: {have})")
        del headers[name]
    for item in change.set_headers:
        name, separator, value = item.partition("=")
        if not separator or not name:
            raise InvalidRequest(f"--set-header {item!r} is not of the form k=v")
        headers[name] = value
    return headers


def _editor() -> list[str]:
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if not editor:
        raise InvalidRequest("--edit needs an editor: set VISUAL or EDITOR, or give --body or --file")
    try:
        return shlex.split(editor)
    except ValueError as exc:
        raise InvalidRequest(f"VISUAL or EDITOR is no command: {exc}") from None


async def _edited(editor: list[str], path: Path) -> bytes:
    """The file as the person leaves it. The event loop runs on meanwhile, so that a broker does not give us up."""
    with _interrupts_are_the_editors():
        try:
            process = await asyncio.create_subprocess_exec(*editor, str(path))
            status = await process.wait()
        except OSError as exc:
            raise OperatorError(f"the editor {editor[0]!r} cannot be started: {exc.strerror}") from None
    if status != 0:
        raise OperatorError(f"the editor ended with status {status}; nothing was sent")
    return _get(path)


@contextmanager
def _own_file(screen: Screen, name: str, content: bytes) -> Iterator[Path]:
    """A file that only this user reads. What a person at a terminal made of it is kept when it could not be sent."""
    folder = Path(tempfile.mkdtemp(prefix="rockbot-"))
    path = folder / name
    path.write_bytes(content)
    kept = False
    try:
        yield path
    except Exception:
        kept = sys.stdin.isatty() and path.exists() and path.read_bytes().rstrip(b"\n") != content.rstrip(b"\n")
        if kept:
            screen.say(f"what you wrote is kept in {path}", "warn")
        raise
    finally:
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)


def _get(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise OperatorError(f"the editor left no file behind: {exc.strerror}; nothing was sent") from None


@contextmanager
def _interrupts_are_the_editors() -> Iterator[None]:
    loop = asyncio.get_running_loop()
    with suppress(ValueError, RuntimeError):  # not the main thread: somebody else minds the signals
        loop.add_signal_handler(signal.SIGINT, lambda: None)
    try:
        yield
    finally:
        with suppress(ValueError, RuntimeError):
            loop.remove_signal_handler(signal.SIGINT)
