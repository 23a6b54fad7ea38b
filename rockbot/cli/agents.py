"""``agents``: what is configured, and what exactly a model is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import BaseModel

from rockbot.cli.invocation import Invocation, command, group

if TYPE_CHECKING:
    from rockbot.agents.prompt import Section
    from rockbot.agents.reading import Agent
    from rockbot.machines.agent_snapshot import AgentSnapshot

__all__ = ["register"]

Name = Annotated[str, typer.Argument(metavar="NAME", help="The agent's name.")]


class AgentRow(BaseModel):
    """One agent, for programs."""

    name: str
    model: str
    defined: str
    prompt_tokens: int
    tools: tuple[str, ...]
    skills: tuple[str, ...]
    snapshot: str


class SectionRow(BaseModel):
    """One section of a prompt, for programs."""

    section: str
    sources: tuple[str, ...]
    chars: int
    tokens: int
    budget: int
    omitted: int
    text: str


def register(app: typer.Typer) -> None:
    """Add these commands."""
    agents = group(app, "agents", help="Look at the agents that are configured.")
    command(agents, "list")(show_all)
    command(agents, "show")(show)
    command(agents, "prompt")(prompt)
    command(agents, "check")(check)
    command(agents, "reload")(reload)


def show_all(call: Invocation) -> None:
    """Every agent: model, size of its prompt, tools, where it is defined."""
    from rockbot.cli.render import Grid

    rows = [_row(agent, snapshot) for agent, snapshot in _agents(call)]
    grid = Grid(
        ("AGENT", "MODEL", "PROMPT", "TOOLS", "SKILLS", "DEFINED IN"),
        [
            (row.name, row.model, f"{row.prompt_tokens} tokens", str(len(row.tools)), str(len(row.skills)), row.defined)
            for row in rows
        ],
        optional=("SKILLS",),
    )
    call.screen.show(rows, [grid])


def show(call: Invocation, name: Name) -> None:
    """One agent: its settings, tools, skills and limits, and the digest that turns name it by."""
    from rockbot.cli.render import Facts

    agent, snapshot = _agent(call, name)
    row, its = _row(agent, snapshot), agent.settings
    memory = its.memory_file or ("state" if its.memory_state else "")
    facts = [
        ("name", row.name),
        ("defined in", row.defined),
        ("model", row.model),
        ("prompt", f"about {row.prompt_tokens} tokens; see `rockbot agents prompt {name}`"),
        ("identity files", ", ".join(its.identity_files)),
        ("prompt files", ", ".join(its.prompt_files)),
        ("memory", memory),
        ("tools", ", ".join(row.tools) or "none"),
        ("skills", ", ".join(row.skills)),
        ("model calls", f"at most {its.max_model_calls} a task"),
        ("output", f"at most {its.max_output_tokens} tokens a reply"),
        ("time", f"{its.timeout_seconds:g} s a task that brings no deadline"),
        ("waiting", f"at most {its.max_waiting} tasks in one conversation"),
        ("snapshot", row.snapshot),
    ]
    call.screen.show(row, [Facts(facts)])


def prompt(
    call: Invocation,
    name: Name,
    text: Annotated[bool, typer.Option("--text", help="Only the text, exactly as a model gets it.")] = False,
) -> None:
    """What the model is told before a conversation begins: each section, its size and its budget.

    A memory that lies in the state store is told per tenant and is not shown here.
    """
    from rockbot.agents.prompt import system_prompt
    from rockbot.agents.reading import read_memory
    from rockbot.cli.render import Grid, Prose

    agent, _ = _agent(call, name)
    memory = read_memory(agent)
    sections = [*agent.sections, *([memory] if memory is not None else [])]
    if text:
        call.screen.text(system_prompt(sections))
        return
    rows = [_section(section) for section in sections]
    grid = Grid(
        ("SECTION", "MADE OF", "CHARS", "BUDGET", "OMITTED", "TOKENS"),
        [
            (row.section, ", ".join(row.sources), str(row.chars), str(row.budget), str(row.omitted), f"~{row.tokens}")
            for row in rows
        ],
    )
    texts = [Prose(row.text, f"\n== {row.section} ==") for row in rows]
    call.screen.show(rows, [grid, *texts])


def check(call: Invocation) -> int:
    """Read every agent with all its files; exits with 3 when something is wrong, with 6 when a budget cuts something."""
    from rockbot.operators.faults import ExitCode

    found = _agents(call)
    cut = [(agent.name, section) for agent, _ in found for section in agent.sections if section.omitted]
    for name, section in cut:
        call.screen.say(
            f"agent {name}: {section.omitted} characters of {section.name} are beyond its budget of {section.budget}",
            "warn",
        )
    if cut:
        return ExitCode.PROBLEMS
    call.screen.say(f"{len(found)} agents are valid: {', '.join(agent.name for agent, _ in found)}", "good")
    return ExitCode.OK


async def reload(
    call: Invocation,
    reason: Annotated[str, typer.Option("--reason", help="For the logs.", show_default=False)] = "",
) -> None:
    """Have every host read its agents again. Each says in its log, in health and to `doctor` when it refuses them."""
    from rockbot.events import ControlReload

    event = ControlReload(reason=reason)
    async with call.operator() as operator:
        await operator.publish(ControlReload.topics[0], event.to_body(), type=event.type_name)
    call.screen.say("hosts were told; `rockbot doctor` says which of them refused", "good")


def _agents(call: Invocation) -> list[tuple[Agent, AgentSnapshot]]:
    """Every agent as a host with these settings has it, and what its turns begin with."""
    from rockbot.processes import compose_host

    container = compose_host(call.settings())
    container.contributions()
    tools = container.toolbox().tools
    agents = container.roster().current.agents
    return [(agent, agent.snapshot(tools)) for agent in sorted(agents.values(), key=lambda agent: agent.name)]


def _agent(call: Invocation, name: str) -> tuple[Agent, AgentSnapshot]:
    from rockbot.errors import ConfigError

    found = _agents(call)
    for agent, snapshot in found:
        if agent.name == name:
            return agent, snapshot
    raise ConfigError(f"there is no agent {name!r} (configured: {', '.join(agent.name for agent, _ in found)})")


def _row(agent: Agent, snapshot: AgentSnapshot) -> AgentRow:
    from rockbot.tokens import estimate_tokens

    return AgentRow(
        name=agent.name,
        model=snapshot.model,
        defined=agent.place.at() or "no file",
        prompt_tokens=estimate_tokens(snapshot.instructions),
        tools=tuple(tool.name for tool in snapshot.tools),
        skills=tuple(skill.name for skill in snapshot.skills),
        snapshot=snapshot.digest,
    )


def _section(section: Section) -> SectionRow:
    return SectionRow(
        section=section.name,
        sources=section.sources,
        chars=len(section.text),
        tokens=section.tokens,
        budget=section.budget,
        omitted=section.omitted,
        text=section.text,
    )
