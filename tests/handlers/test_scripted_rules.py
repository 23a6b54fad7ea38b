"""Rule files: what is accepted, and errors that name file, script and rule."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rockbot.errors import ConfigError
from rockbot_handlers.llm.rules import builtin_scripts, load_scripts


def write(tmp_path: Path, text: str, name: str = "rules.toml") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_the_built_in_demo_is_valid_data_that_comes_with_the_package() -> None:
    demo = builtin_scripts()["demo"]
    assert demo.rules[-1].when.names == frozenset()
    assert "not a language model" in demo.rules[-1].reply


def test_toml_and_json_say_the_same(tmp_path: Path) -> None:
    toml = write(tmp_path, "[[scripts.a.rules]]\nname = 'one'\nwhen = { step = 1 }\nreply = 'hi'\n")
    as_json = {"scripts": {"a": {"rules": [{"name": "one", "when": {"step": 1}, "reply": "hi"}]}}}
    assert load_scripts(toml) == load_scripts(write(tmp_path, json.dumps(as_json), "rules.json"))


RULE = "[[scripts.weather.rules]]\nname = 'first'\nreply = 'x'\n[[scripts.weather.rules]]\nname = 'ask'\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (RULE + "reply = 'x'\nwhne = { step = 1 }", ["whne", "Extra inputs"]),
        (RULE + "reply = 'x'\nwhen = { user = '(' }", ["when.user", "is not a regular expression"]),
        (RULE + "reply = 'in $city'", ["placeholder $city is not defined"]),
        (RULE + "reply = '5 $'", ["write $$ for a dollar sign"]),
        (RULE + "calls = [{ tool = 't', arguments = { a = ['$nope'] } }]", ["placeholder $nope is not defined"]),
        (RULE, ["it does nothing"]),
        (RULE + "fail = { error = 'odd' }", ["fail.error"]),
        (RULE + "fail = { error = 'transient', times = 0 }", ["fail.times"]),
    ],
)
def test_a_wrong_rule_is_named_with_its_file_and_script(tmp_path: Path, text: str, said: list[str]) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_scripts(path)
    for part in [str(path), "rule 2", "'ask'", "'weather'", *said]:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("rules.toml", "[[scripts", "is not valid TOML"),
        ("rules.json", "{", "is not valid JSON"),
        ("rules.toml", "", "scripts: Field required"),
        ("rules.toml", "[scripts]", "scripts"),
        ("rules.toml", "[scripts.a]", "script 'a'"),
        ("rules.yaml", "", "ends in .toml or .json"),
        ("rules.json", "[1]", "the rule file"),
    ],
)
def test_a_file_that_is_no_rule_file_is_named(tmp_path: Path, name: str, text: str, said: str) -> None:
    path = write(tmp_path, text, name)
    with pytest.raises(ConfigError, match="file") as caught:
        load_scripts(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_told_with_the_setting_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"scripted\.rules"):
        load_scripts(tmp_path / "absent.toml")
