"""Agents as files: what a folder may hold, and what is said, with file and line, when it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from rockbot.agents.reading import read_agent, read_memory
from rockbot.errors import ConfigError
from rockbot.machines.skill_reading import READ_SKILL
from rockbot.settings import Settings, load

SKILL = "---\nname: refunds\ndescription: >\n  How refunds\n  are made.\nlicense: none\n---\n# Refunds\nDo it.\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write("rockbot.toml", "[agent_files]\nfolder = 'agents'\n\n[agents.assistant]\n")
    return tmp_path


def write(path: str, text: str) -> None:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_a_file_in_the_folder_is_an_agent_of_its_name(folder: Path) -> None:
    write("agents/helper.toml", "prompt_files = ['texts/a.md']\nidentity_files = ['soul.md']\nskills = 'skills'\n")
    write("agents/texts/a.md", "Help.\n")
    write("agents/soul.md", "I am Helper.\n")
    write("agents/skills/refunds/SKILL.md", SKILL)
    write("agents/skills/notes.md", "no skill")
    settings = load()
    assert set(settings.agents) == {"assistant", "helper"}
    agent = read_agent("helper", settings)
    snapshot = agent.snapshot(())
    assert snapshot.instructions.startswith("I am Helper.\n\nHelp.\n\n# Skills")
    assert "- refunds: How refunds are made." in snapshot.instructions
    assert [(skill.name, skill.body) for skill in snapshot.skills] == [("refunds", "# Refunds\nDo it.")]
    assert snapshot.tools == (READ_SKILL,)
    assert read_agent("assistant", settings).snapshot(()).instructions.startswith("You are a helpful assistant.")


def test_the_environment_goes_before_a_file_of_an_agent(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("agents/helper.toml", "model = 'scripted/a'\nmax_waiting = 3\n")
    monkeypatch.setenv("ROCKBOT_AGENTS__HELPER__MODEL", "scripted/b")
    helper = load().agents["helper"]
    assert (helper.model, helper.max_waiting) == ("scripted/b", 3)


def test_inline_agents_have_their_files_beside_the_settings_file(folder: Path) -> None:
    write("conf/rockbot.toml", "[agents.assistant]\nprompt_files = ['a.md']\n")
    write("conf/a.md", "Be brief.")
    settings = load(config=Path("conf/rockbot.toml"))
    assert read_agent("assistant", settings).snapshot(()).instructions == "Be brief."


WRONG = {
    "modle = 'x'": "unknown setting 'agents.helper.modle' (from agents/helper.toml, line 1); did you mean 'model'?",
    "\nmax_waiting = -1": "setting 'agents.helper.max_waiting' (from agents/helper.toml, line 2): Input should be greater",
    "[budgets]\nmemory = 1": "setting 'agents.helper.budgets.memory' (from agents/helper.toml, line 2): Input should be",
    "tools = [\n1]": "setting 'agents.helper.tools.0' (from agents/helper.toml, line 2): Input should be a valid string",
    "memory_file = 'a'\nmemory_state = true": "setting 'agents.helper' (from agents/helper.toml): memory_file and memory",
    "a = [": "the agent's file agents/helper.toml is not valid TOML: ",
}


@pytest.mark.parametrize(("text", "said"), WRONG.items())
def test_what_is_wrong_in_an_agents_file_is_told_with_its_line(folder: Path, text: str, said: str) -> None:
    write("agents/helper.toml", text)
    with pytest.raises(ConfigError) as caught:
        load()
    assert str(caught.value).startswith(said)


UNREADABLE = {
    "prompt_files = ['a.md',\n'gone.md']": "prompt_files' (from agents/helper.toml, line 2): 'gone.md' does not exist in ",
    "prompt_files = ['../rockbot.toml']": "line 1): '../rockbot.toml' leads out of ",
    "prompt_files = ['/etc/passwd']": "line 1): '/etc/passwd' must be a path relative to ",
    "prompt_files = ['link.md']": "line 1): 'link.md' leads out of ",
    "prompt_files = ['large.md']": "line 1): 'large.md' has more than 1048576 bytes",
    "prompt_files = ['binary.md']": "line 1): 'binary.md' is not UTF-8 (byte 1)",
    "prompt_files = ['.']": "line 1): '.' cannot be read: ",
    "memory_file = '../memory.md'": "memory_file' (from agents/helper.toml, line 1): '../memory.md' leads out of ",
    "\nskills = 'a.md'": "skills' (from agents/helper.toml, line 2): 'a.md' is no folder in ",
    "skills = 'bad'": "line 1): the skill 'bad/one/SKILL.md': it must begin with front matter",
    "skills = 'other'": "line 1): the skill 'other/one/SKILL.md': its name is 'two' and its folder 'one'",
}


@pytest.mark.parametrize(("text", "said"), UNREADABLE.items())
def test_files_that_cannot_be_part_of_a_prompt_are_told_with_the_line_that_names_them(
    folder: Path, text: str, said: str
) -> None:
    write("agents/a.md", "a")
    write("agents/large.md", "x" * (1 << 20) + "x")
    (folder / "agents" / "binary.md").write_bytes(b"a\xff")
    (folder / "agents" / "link.md").symlink_to(folder / "rockbot.toml")
    write("agents/bad/one/SKILL.md", "# no front matter")
    write("agents/other/one/SKILL.md", "---\nname: two\ndescription: x\n---\n")
    write("agents/helper.toml", text)
    settings = load()
    with pytest.raises(ConfigError) as caught:
        read_agent("helper", settings)
    assert said in str(caught.value)


def test_an_agent_is_defined_once(folder: Path) -> None:
    write("agents/assistant.toml", "")
    with pytest.raises(ConfigError, match=r"twice: in agents/assistant.toml and in rockbot.toml, line 4"):
        load()


def test_a_file_whose_name_is_no_word_and_a_folder_that_is_none_are_told(folder: Path) -> None:
    write("agents/a b.toml", "")
    with pytest.raises(ConfigError, match=r"the file agents/a b.toml cannot name an agent"):
        load()
    with pytest.raises(ConfigError, match=r"'agent_files\.folder' names 'nowhere', which is no folder"):
        load({"agent_files": {"folder": "nowhere"}})


def test_a_section_beyond_its_budget_is_cut_with_an_exact_marker(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write("agents/helper.toml", "prompt_files = ['a.md']\nbudgets.instructions = 200\n")
    write("agents/a.md", "x" * 1000)
    (section,) = read_agent("helper", load()).sections
    assert len(section.text) in (199, 200)
    assert section.text.endswith(f"x\n[truncated, {section.omitted} chars omitted]")
    assert section.text.count("x") == 1000 - section.omitted
    assert "cut at its budget" in caplog.text


def test_a_memory_file_is_read_anew_and_may_be_missing(folder: Path) -> None:
    write("agents/helper.toml", "memory_file = 'memory.md'\nbudgets.memory = 150\n")
    agent = read_agent("helper", load())
    assert read_memory(agent) is None
    write("agents/memory.md", "tea")
    first = read_memory(agent)
    write("agents/memory.md", "coffee" * 100)
    second = read_memory(agent)
    assert first is not None and first.text.endswith("tea")
    assert second is not None and len(second.text) <= 150 and second.omitted


def test_a_mounted_config_map_is_a_folder_like_any_other(folder: Path) -> None:
    real = folder / "agents" / "..2026_01_01"
    write("agents/..2026_01_01/helper.toml", "prompt_files = ['a.md']")
    write("agents/..2026_01_01/a.md", "Mounted.")
    (folder / "agents" / "..data").symlink_to(real.name)
    for name in ("helper.toml", "a.md"):
        (folder / "agents" / name).symlink_to(Path("..data") / name)
    assert read_agent("helper", load()).snapshot(()).instructions == "Mounted."


def test_settings_that_were_read_can_be_read_again(folder: Path) -> None:
    write("agents/other.toml", "")
    settings = load({"model": "scripted/x"})
    Path("agents/other.toml").rename("agents/helper.toml")
    again = settings.reread()
    assert again is not None
    assert (again.model, set(again.agents)) == ("scripted/x", {"assistant", "helper"})
    assert Settings().reread() is None


def test_an_agent_takes_the_window_of_its_model_unless_it_says_another_one() -> None:
    agents = {
        "assistant": {"model": "small"},
        "own": {"model": "small", "context_window": 5000},
        "plain": {"model": "x/y"},
    }
    models = {"small": {"model": "x/small", "context_window": 9000}}
    settings = Settings.model_validate({"agents": agents, "models": models})
    windows = {name: read_agent(name, settings).snapshot(()).context_window for name in agents}
    assert windows == {"assistant": 9000, "own": 5000, "plain": 128_000}
