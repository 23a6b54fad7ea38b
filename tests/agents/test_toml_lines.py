"""Every key of a TOML text is found on the line where it stands."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rockbot.toml_lines import key_lines, line_of

TEXT = '''# a comment = 1
name = "x" # name = 2
"quoted key" = 'it''s'.here

[agents.helper]
prompt_files = [ # [not.a.table]
    "a.md",
    "b # no comment.md",
]
text = """
fake = 1
[fake]
\\""" still text
"""
budgets = { identity = 100, "memory" = 200 }
limits.calls = 3

[[jobs]]
at = 2026-01-01T00:00:00Z
[[jobs]]
at = 1
[jobs.inner]
deep = [[1, 2], [{ x = 1 }]]
'''.replace("'it''s'.here", "'its'")


def test_keys_are_found_and_texts_that_look_like_keys_are_not() -> None:
    lines = key_lines(TEXT)
    expected = {
        ("name",): 2,
        ("quoted key",): 3,
        ("agents", "helper"): 5,
        ("agents", "helper", "prompt_files"): 6,
        ("agents", "helper", "prompt_files", "0"): 7,
        ("agents", "helper", "prompt_files", "1"): 8,
        ("agents", "helper", "text"): 10,
        ("agents", "helper", "budgets", "memory"): 15,
        ("agents", "helper", "limits", "calls"): 16,
        ("jobs", "0", "at"): 19,
        ("jobs", "1", "at"): 21,
        ("jobs", "1", "inner", "deep", "1", "0", "x"): 23,
    }
    assert {path: lines.get(path) for path in expected} == expected
    assert not [path for path in lines if "fake" in path or "not" in path]


def test_what_has_no_line_is_where_its_parent_is() -> None:
    lines = key_lines("[a]\nb = 1\n")
    assert line_of(lines, ("a", "b", "missing")) == 2
    assert line_of(lines, ("other",)) is None


def _paths(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, each in inner for found in _paths(each, (*path, str(key))))]


_WORD = st.from_regex(r"[a-z]{1,3}", fullmatch=True)
_VALUE = st.sampled_from(
    ["1", '"a = 1"', "'#'", '"""\nb = 2\n"""', "[1, 2]", "[\n 'x',\n]", "{ q = 1, r = 's' }", "true"]
)
_LINE = st.one_of(
    st.builds("{} = {}".format, _WORD, _VALUE),
    st.builds("{}.{} = {}".format, _WORD, _WORD, _VALUE),
    st.builds("[{}]".format, _WORD),
    st.builds("[{}.{}]".format, _WORD, _WORD),
    st.builds("[[{}]]".format, _WORD),
    st.just("# k = 1"),
    st.just(""),
)


@settings(max_examples=150)
@given(st.lists(_LINE, max_size=8))
def test_every_key_that_the_parser_finds_has_a_line_with_its_last_word(written: list[str]) -> None:
    text = "\n".join(written)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    lines = key_lines(text)
    rows = text.split("\n")
    for path in _paths(values):
        if path:
            line = lines[path]
            assert path[-1].isdecimal() or path[-1] in rows[line - 1], (path, line)


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment", "a = 1"])
def test_small_texts(text: str) -> None:
    assert set(key_lines(text)) == {path for path in _paths(tomllib.loads(text)) if path}
