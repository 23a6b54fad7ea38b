"""``tools`` and ``policy``: which tools there are, how one behaves, and what an agent may do with it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import BaseModel

from rockbot.cli.invocation import Invocation, command, group

if TYPE_CHECKING:
    from rockbot.events.tools import ToolSpec
    from rockbot.settings import Settings
    from rockbot.tools.calling import Outcome
    from rockbot.tools.toolset import FunctionTool
    from rockbot_messaging.artifacts import ArtifactStore

__all__ = ["register"]

Name = Annotated[str, typer.Argument(metavar="NAME", help="The tool's name.")]
Arguments = Annotated[str, typer.Option("--arguments", metavar="JSON", help="The arguments, as an object.")]


class RuleRow(BaseModel):
    """One rule that was looked at; `misfit` is empty for the one that counts."""

    rule: int
    then: str
    about: str
    misfit: str


class Explanation(BaseModel):
    """What becomes of a call, and which rules were looked at."""

    agent: str
    tool: str
    verdict: str
    reason: str
    rules: tuple[RuleRow, ...]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    tools = group(app, "tools", help="Look at the tools that agents have, and try them.")
    command(tools, "list")(show_all)
    command(tools, "show")(show)
    command(tools, "try")(attempt)
    policy = group(app, "policy", help="Look at what agents may do.")
    command(policy, "explain")(explain)


def show_all(call: Invocation) -> None:
    """Every tool of a host with these settings."""
    from rockbot.cli.render import Grid

    tools = _specs(call.settings())
    grid = Grid(
        ("TOOL", "TOOLSET", "FLAGS", "TIMEOUT", "WHAT IT DOES"),
        [
            (
                tool.name,
                tool.toolset,
                _flags(tool),
                f"{tool.timeout_seconds:g} s",
                tool.description.splitlines()[0][:80],
            )
            for tool in tools
        ],
        empty="there are no tools: add 'tools' to the setting 'handlers'",
        optional=("WHAT IT DOES",),
    )
    call.screen.show(tools, [grid])


def show(call: Invocation, name: Name) -> None:
    """One tool: what a model is told, its arguments, its flags and limits."""
    from rockbot.cli.render import Facts, Prose

    tool = _spec(call.settings(), name)
    facts = [
        ("name", tool.name),
        ("toolset", f"{tool.toolset} (queue tool.{tool.toolset})"),
        ("flags", _flags(tool) or "none"),
        ("timeout", f"{tool.timeout_seconds:g} s for one call"),
        ("deadline", f"{tool.deadline_seconds:g} s for the answer" if tool.deadline_seconds else ""),
        ("at a time", _concurrency(tool)),
        ("output", f"at most {tool.output_limit} characters are told" if tool.output_limit else ""),
        ("on exhausted", tool.on_exhausted),
    ]
    schema = json.dumps(tool.input_schema, indent=2, ensure_ascii=False)
    call.screen.show(tool, [Facts(facts), Prose(tool.description, "\ndescription"), Prose(schema, "\narguments")])


async def attempt(
    call: Invocation,
    name: Name,
    arguments: Arguments = "{}",
    tenant: Annotated[str, typer.Option("--tenant", help="Whose artifacts it may use.")] = "default",
) -> int:
    """Call a function tool here and now, without agent, broker or policy; exits with 1 when its result is an error."""
    from rockbot.operators.faults import ExitCode
    from rockbot.tools.calling import FunctionCalls
    from rockbot.tools.context import ToolArtifacts, ToolContext
    from rockbot.tools.errors import FunctionRaised, ToolError

    settings = call.settings()
    tool, given = _function(settings, name), _object(arguments)
    artifacts, close = _artifacts(settings)

    def progress(text: str, fraction: float | None) -> None:
        call.screen.say(text if fraction is None else f"{fraction:.0%} {text}", "dim")

    context = ToolContext(tenant=tenant, artifacts=ToolArtifacts(artifacts, tenant), on_progress=progress)
    try:
        checked = tool.signature.arguments(given)
        outcome = await FunctionCalls(output_limit=settings.tools.output_limit).call(tool, checked, context)
    except ToolError as exc:
        call.screen.error("refused", str(exc))
        return ExitCode.FAILURE
    except FunctionRaised as raised:
        if call.debug:
            raise raised.error from None
        call.screen.error("tool", f"{name} raised {raised}", "run it again with --debug for the traceback")
        return ExitCode.FAILURE
    finally:
        await close()
    _tell(call, outcome)
    return ExitCode.FAILURE if outcome.is_error else ExitCode.OK


def explain(
    call: Invocation,
    agent: Annotated[str, typer.Argument(metavar="AGENT", help="The agent's name.")],
    name: Annotated[str, typer.Argument(metavar="TOOL", help="The tool's name.")],
    arguments: Arguments = "{}",
    tainted: Annotated[
        list[str] | None,
        typer.Option("--tainted", metavar="ORIGIN", help="An origin of what the model has read, like web; repeatable."),
    ] = None,
) -> None:
    """What the agent's policy says of one call, and why: every rule up to the one that counts."""
    from rockbot.agents.roster import AgentSet
    from rockbot.cli.render import Facts, Grid
    from rockbot.errors import ConfigError
    from rockbot.policies import evaluate
    from rockbot.policies.rulings import explain as explained

    settings = call.settings()
    found = AgentSet.read(settings).agents
    if agent not in found:
        raise ConfigError(f"there is no agent {agent!r} (configured: {', '.join(sorted(found))})")
    policy, tool, given = found[agent].settings.policy, _spec(settings, name), _object(arguments)
    origins = tuple(tainted or ())
    ruling = evaluate(policy, tool, given, origins=origins)
    rows = tuple(
        RuleRow(rule=number, then=rule.then, about=", ".join(rule.tool), misfit=misfit)
        for number, rule, misfit in explained(policy, tool, given, origins=origins)
    )
    told = Explanation(agent=agent, tool=name, verdict=ruling.verdict, reason=ruling.reason, rules=rows)
    grid = Grid(
        ("RULE", "THEN", "TOOLS", "FITS"),
        [(str(row.rule), row.then, row.about, f"no: {row.misfit}" if row.misfit else "yes") for row in rows],
        empty="the policy has no rules",
    )
    verdict = ruling.verdict if ruling.rule is not None else f"{ruling.verdict} (no rule fits)"
    call.screen.show(told, [grid, Facts([("verdict", verdict), ("reason", ruling.reason)])])


def _specs(settings: Settings) -> tuple[ToolSpec, ...]:
    from rockbot.processes import compose_host

    container = compose_host(settings)
    container.contributions()
    return tuple(sorted(container.toolbox().tools, key=lambda tool: (tool.toolset, tool.name)))


def _spec(settings: Settings, name: str) -> ToolSpec:
    tools = _specs(settings)
    for tool in tools:
        if tool.name == name:
            return tool
    known = ", ".join(tool.name for tool in tools) or "none"
    raise typer.BadParameter(f"there is no tool {name!r} (there are: {known})")


def _function(settings: Settings, name: str) -> FunctionTool:
    from rockbot.tools.loading import load_toolsets

    toolsets = load_toolsets(settings.tools).values()
    for toolset in toolsets:
        if (tool := toolset.get(name)) is not None:
            return tool
    known = ", ".join(tool.spec.name for toolset in toolsets for tool in toolset)
    raise typer.BadParameter(f"{name!r} is no function that can be called here (those are: {known})")


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as exc:
        raise typer.BadParameter(f"--arguments is no JSON: {exc}") from None
    if not isinstance(value, dict):
        raise typer.BadParameter('--arguments has to be an object, like {"name": "value"}')
    return value


def _artifacts(settings: Settings) -> tuple[ArtifactStore, Any]:
    """Where artifacts lie by the settings; the state store is only opened when one is needed."""
    from rockbot.state.artifacts import OwnStateArtifacts
    from rockbot.state.open import open_store
    from rockbot_messaging.artifacts_folder import FolderArtifacts
    from rockbot_messaging.clock import SystemClock

    own = OwnStateArtifacts(open_store(settings.state_address, SystemClock()), keep_days=settings.artifacts.keep_days)
    folder = settings.artifacts.folder
    return (own if folder is None else FolderArtifacts(folder)), own.close


def _tell(call: Invocation, outcome: Outcome) -> None:
    from rockbot.events.content import TextPart

    for part in outcome.parts:
        if isinstance(part, TextPart) and not call.screen.json:
            call.screen.text(part.text)
        else:
            call.screen.text(part.model_dump_json(exclude_none=True))


def _flags(tool: ToolSpec) -> str:
    names = {
        "read-only": tool.read_only,
        "idempotent": tool.idempotent,
        "needs approval": tool.needs_approval,
    }
    return ", ".join(name for name, on in names.items() if on)


def _concurrency(tool: ToolSpec) -> str:
    if tool.max_concurrency is None:
        return ""
    return f"{tool.max_concurrency} {'in all processes together' if tool.across_replicas else 'in each process'}"
