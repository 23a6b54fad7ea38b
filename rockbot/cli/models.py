"""``models``: what there is, why a call goes where it goes, and whether it would be answered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import BaseModel

from rockbot.catalogue.routes import CallLane, Role
from rockbot.cli.invocation import Invocation, command, group

if TYPE_CHECKING:
    from rockbot.catalogue.catalogue import Catalogue, Named
    from rockbot.catalogue.prices import PriceTable
    from rockbot.plugins import ModelProbe

__all__ = ["register"]


class ModelRow(BaseModel):
    """One name, for programs. Prices are per million tokens; None is not known."""

    name: str
    kind: str
    models: tuple[str, ...]
    context_window: int | None
    input_price: float | None
    output_price: float | None
    currency: str
    agents: tuple[str, ...]


class ExplainedRow(BaseModel):
    """A choice, for programs."""

    agent: str
    model: str
    fallbacks: tuple[str, ...]
    why: str
    lines: tuple[str, ...]


class CheckedRow(BaseModel):
    """What came of trying one model, for programs."""

    model: str
    ok: bool
    seconds: float
    detail: str


def register(app: typer.Typer) -> None:
    """Add these commands."""
    models = group(app, "models", help="Look at the models that agents use.")
    command(models, "list")(show_all)
    command(models, "explain")(explain)
    command(models, "check")(check)


def show_all(call: Invocation) -> None:
    """Every tier, alias and model: what stands behind it, what it costs, who uses it."""
    from rockbot.catalogue.catalogue import Catalogue
    from rockbot.catalogue.prices import PriceTable
    from rockbot.cli.render import Grid

    settings = call.settings()
    catalogue, prices = Catalogue(settings), PriceTable.load(settings.prices)
    rows = [_row(named, catalogue, prices) for named in catalogue.named]
    grid = Grid(
        ("NAME", "KIND", "MODEL", "THEN", "WINDOW", f"{prices.currency} IN", "OUT", "AGENTS"),
        [
            (
                row.name,
                row.kind,
                row.models[0],
                ", ".join(row.models[1:]),
                str(row.context_window or ""),
                _price(row.input_price),
                _price(row.output_price),
                ", ".join(row.agents),
            )
            for row in rows
        ],
        optional=("WINDOW", "AGENTS"),
    )
    call.screen.show(rows, [grid])


def explain(
    call: Invocation,
    agent: Annotated[str, typer.Argument(metavar="AGENT", help="The agent; the default one when left out.")] = "",
    role: Annotated[Role, typer.Option("--role", help="What the model is called for.")] = "main",
    lane: Annotated[CallLane, typer.Option("--lane", help="How urgent the call is.")] = "interactive",
    input_tokens: Annotated[int, typer.Option("--input-tokens", min=0, help="How long the call is.")] = 1000,
) -> int:
    """Which model a call of an agent goes to, and which rules say so."""
    from rockbot.catalogue.catalogue import Catalogue
    from rockbot.cli.render import Prose
    from rockbot.operators.faults import ExitCode

    settings = call.settings()
    name = agent or settings.default_agent
    if name not in settings.agents:
        call.screen.error("usage", f"there is no agent {name!r} (agents: {', '.join(sorted(settings.agents))})")
        return ExitCode.USAGE
    told = Catalogue(settings).explain(name, role=role, lane=lane, tokens=input_tokens)
    choice = told.choice
    row = ExplainedRow(agent=name, model=choice.model, fallbacks=choice.fallbacks, why=choice.why, lines=told.lines)
    call.screen.show(row, [Prose("\n".join(told.lines), f"{name}: {choice.model}")])
    return ExitCode.OK


async def check(
    call: Invocation,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL", help="Names; all that agents use when left out.")
    ] = None,
) -> int:
    """Try each model with one tiny call, which may cost a little; exits with 6 when one does not answer."""
    from rockbot.cli.render import Grid
    from rockbot.operators.faults import ExitCode
    from rockbot.processes import compose_host

    container = compose_host(call.settings())
    catalogue = container.roster().current.catalogue
    wanted = names or list(catalogue.used)
    known = {named.name: named.route.steps[0].model for named in catalogue.named} | {it: it for it in catalogue.used}
    if unknown := [name for name in wanted if name not in known]:
        call.screen.error("usage", f"no agent uses {unknown[0]!r} (used: {', '.join(sorted(known))})")
        return ExitCode.USAGE
    contributions = container.contributions()
    models = dict.fromkeys(known[name] for name in wanted)
    try:
        rows = [await _tried(model, contributions.model_probe) for model in models]
    finally:
        for close in contributions.closers:
            await close()
    grid = Grid(
        ("MODEL", "ANSWERS", "SECONDS", "WHAT IT SAID"),
        [(row.model, "yes" if row.ok else "no", f"{row.seconds:.2f}", row.detail) for row in rows],
        tones=["" if row.ok else "bad" for row in rows],
    )
    call.screen.show(rows, [grid])
    return ExitCode.OK if all(row.ok for row in rows) else ExitCode.PROBLEMS


async def _tried(model: str, probe: ModelProbe | None) -> CheckedRow:
    import time

    from rockbot.llm import LlmError

    if probe is None:
        return CheckedRow(model=model, ok=False, seconds=0, detail="the handler 'llm' is not among the 'handlers'")
    began = time.monotonic()
    try:
        response = await probe(model)
    except LlmError as exc:
        return CheckedRow(model=model, ok=False, seconds=time.monotonic() - began, detail=str(exc))
    usage = response.usage
    detail = f"{response.model or model}, {usage.input_tokens} tokens in, {usage.output_tokens} out"
    return CheckedRow(model=model, ok=True, seconds=time.monotonic() - began, detail=detail)


def _row(named: Named, catalogue: Catalogue, prices: PriceTable) -> ModelRow:
    from rockbot.catalogue.prices import today

    first = named.route.steps[0]
    price = prices.price(first.model, today())
    return ModelRow(
        name=named.name,
        kind=named.kind,
        models=tuple(step.model for step in named.route.steps),
        context_window=first.context_window,
        input_price=price.input if price else None,
        output_price=price.output if price else None,
        currency=prices.currency,
        agents=tuple(catalogue.used.get(first.model, ())),
    )


def _price(amount: float | None) -> str:
    return "unknown" if amount is None else f"{amount:g}"
