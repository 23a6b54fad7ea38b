"""On which line of a TOML text each key stands, so that an error can name it.

The standard library's parser keeps no positions. This one is for texts that it has accepted: it finds keys and skips
values, and judges nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Final, final

__all__ = ["key_lines", "line_of"]

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_BLANK: Final = re.compile(r"[ \t]*")
#: White space, newlines and comments.
_BETWEEN: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_STRINGS: Final = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        r'"""(?:[^\\]|\\.)*?"{3,5}',
        r"'''.*?'{3,5}",
        r'"(?:[^"\\\n]|\\.)*"',
        r"'[^'\n]*'",
    )
)
#: Numbers, dates, booleans.
_PLAIN: Final = re.compile(r"[^,\]}\n#]*")


def key_lines(text: str) -> dict[tuple[str, ...], int]:
    """The line (from 1) of every key, by its path; elements of arrays have their index as last part of the path."""
    return _Scan(text).lines


def line_of(lines: Mapping[tuple[str, ...], int], path: tuple[str, ...]) -> int | None:
    """The line of a path, or of the nearest part above it that has one."""
    for end in range(len(path), 0, -1):
        if path[:end] in lines:
            return lines[path[:end]]
    return None


@final
class _Scan:
    def __init__(self, text: str) -> None:
        self.lines: dict[tuple[str, ...], int] = {}
        self._text = text
        self._at = 0
        self._line = 1
        self._tables: dict[tuple[str, ...], int] = {}
        prefix: tuple[str, ...] = ()
        while self._take(_BETWEEN) is not None and self._at < len(text):
            if self._here("[["):
                prefix = self._array_table()
            elif self._here("["):
                self._step(1)
                prefix = self._last_of(self._key())
                self._take(_BLANK)
                self._step(1)
            else:
                self._pair(prefix)

    def _array_table(self) -> tuple[str, ...]:
        self._step(2)
        keys = self._last_of(self._key(), outer=True)
        number = self._tables[keys] = self._tables.get(keys, -1) + 1
        self._take(_BLANK)
        self._step(2)
        return self._note((*keys, str(number)))

    def _last_of(self, keys: tuple[str, ...], *, outer: bool = False) -> tuple[str, ...]:
        """The path of a header: an array of tables on the way means its last element."""
        path: tuple[str, ...] = ()
        for at, part in enumerate(keys):
            path = (*path, part)
            if path in self._tables and not (outer and at == len(keys) - 1):
                path = (*path, str(self._tables[path]))
            self._note(path)
        return path

    def _pair(self, prefix: tuple[str, ...]) -> None:
        keys = self._key()
        for end in range(1, len(keys) + 1):
            self._note((*prefix, *keys[:end]))
        self._take(_BLANK)
        self._step(1)  # the equals sign
        self._take(_BLANK)
        self._value((*prefix, *keys))

    def _value(self, path: tuple[str, ...]) -> None:
        if self._here("["):
            self._step(1)
            number = 0
            while self._take(_BETWEEN) is not None and not self._here("]"):
                self._value(self._note((*path, str(number))))
                number += 1
                self._comma()
            self._step(1)
        elif self._here("{"):
            self._step(1)
            while self._take(_BETWEEN) is not None and not self._here("}"):
                self._pair(path)
                self._comma()
            self._step(1)
        elif not any(self._take(pattern) is not None for pattern in _STRINGS):
            self._take(_PLAIN)

    def _comma(self) -> None:
        self._take(_BETWEEN)
        if self._here(","):
            self._step(1)

    def _key(self) -> tuple[str, ...]:
        keys: list[str] = []
        while True:
            self._take(_BLANK)
            keys.append(self._part())
            self._take(_BLANK)
            if not self._here("."):
                return tuple(keys)
            self._step(1)

    def _part(self) -> str:
        if self._here('"'):
            quoted = self._take(_STRINGS[2]) or '""'
            try:
                return str(json.loads(quoted))
            except ValueError:  # TOML has escapes that JSON has not
                return quoted[1:-1]
        if self._here("'"):
            return (self._take(_STRINGS[3]) or "''")[1:-1]
        found = self._take(_BARE)
        if not found:
            raise ValueError(f"no key at line {self._line}")
        return found

    def _note(self, path: tuple[str, ...]) -> tuple[str, ...]:
        self.lines.setdefault(path, self._line)
        return path

    def _here(self, what: str) -> bool:
        return self._text.startswith(what, self._at)

    def _step(self, count: int) -> None:
        self._at += count

    def _take(self, pattern: re.Pattern[str]) -> str | None:
        found = pattern.match(self._text, self._at)
        if found is None:
            return None
        self._at = found.end()
        self._line += found.group().count("\n")
        return found.group()
