"""A prompt's sections: whole or exactly marked, in an order that caches well."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from rockbot.agents.prompt import (
    TextFile,
    identity_section,
    instructions_section,
    memory_section,
    shortened,
    skills_section,
    system_prompt,
)
from rockbot.machines.agent_snapshot import Skill
from rockbot.tokens import corrected_factor, estimate_tokens


@given(st.text(max_size=400), st.integers(min_value=100, max_value=300))
def test_a_text_is_whole_or_says_exactly_how_much_is_missing(text: str, budget: int) -> None:
    shown, omitted = shortened(text, budget)
    assert len(shown) <= budget
    if omitted:
        found = re.search(r"\n\[truncated, (\d+) chars omitted\]\Z", shown)
        assert found is not None and int(found.group(1)) == omitted
        assert shown[: found.start()] == text[: len(text) - omitted]
    else:
        assert shown == text


def test_sections_stand_in_the_order_of_how_rarely_they_change() -> None:
    sections = (
        identity_section([TextFile("soul.md", "I am.\n")], budget=100),
        instructions_section("Do.", [TextFile("more.md", "\nDo more.\n")], budget=100),
        skills_section([Skill(name="cook", description="How to cook.", body="Boil.")], budget=1000),
        memory_section("I like tea.", source="memory.md", budget=1000),
    )
    text = system_prompt(sections)
    assert text.startswith("I am.\n\nDo.\n\nDo more.\n\n# Skills")
    assert text.endswith("I like tea.")
    assert "- cook: How to cook." in text and "Boil." not in text
    assert [section.sources for section in sections if section] == [
        ("soul.md",),
        ("instructions", "more.md"),
        ("cook",),
        ("memory.md",),
    ]


def test_another_memory_leaves_everything_before_it_as_it_was() -> None:
    stable = instructions_section("Do.", [], budget=100)
    prompts = [
        system_prompt([stable, memory_section(text, source="m", budget=200)]) for text in ("old", "new and longer")
    ]
    assert all(prompt.startswith(system_prompt([stable])) for prompt in prompts)


def test_what_is_empty_is_no_section() -> None:
    assert identity_section([], budget=100) is None
    assert instructions_section("", [TextFile("a", " \n")], budget=100) is None
    assert skills_section([], budget=100) is None
    assert memory_section(" \n", source="m", budget=100) is None
    assert system_prompt([None, None]) == ""


@given(st.text(), st.text())
def test_more_text_is_never_fewer_tokens(one: str, more: str) -> None:
    assert estimate_tokens(one) <= estimate_tokens(one + more)
    assert (estimate_tokens(one) == 0) == (one == "")


def test_a_correction_goes_half_way_to_what_was_reported_and_ignores_nonsense() -> None:
    assert corrected_factor(1.0, estimated=100, reported=200) == 1.5
    assert corrected_factor(1.0, estimated=100, reported=100_000) == 2.5
    assert corrected_factor(1.2, estimated=0, reported=5) == corrected_factor(1.2, estimated=5, reported=0) == 1.2
    factor = 1.0
    for _ in range(20):
        factor = corrected_factor(factor, estimated=1000, reported=1300)
    assert abs(factor - 1.3) < 0.001
