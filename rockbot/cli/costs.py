"""``costs``: what model calls took, by day, agent and model."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

import typer

from rockbot.cli.invocation import Invocation, command

__all__ = ["register"]


class By(StrEnum):
    """What sums are by."""

    DAY = "day"
    AGENT = "agent"
    MODEL = "model"


_ALL: Final = (By.DAY, By.AGENT, By.MODEL)


def register(app: typer.Typer) -> None:
    """Add these commands."""
    command(app, "costs")(costs)


async def costs(
    call: Invocation,
    by: Annotated[
        list[By] | None,
        typer.Option("--by", help="Sum by this; may be given several times.", show_default="all of them"),
    ] = None,
    days: Annotated[int, typer.Option("--days", min=1, max=400, help="How many days (UTC), today included.")] = 7,
    tenant: Annotated[str, typer.Option("--tenant", help="Whose calls.")] = "default",
) -> None:
    """What model calls took. Calls without a known price are counted apart, never as free."""
    import datetime

    from rockbot.catalogue.prices import PriceTable, today
    from rockbot.catalogue.spending import Spending, summed
    from rockbot.cli.render import Grid
    from rockbot.state.open import open_store
    from rockbot_messaging.clock import SystemClock

    settings = call.settings()
    currency = PriceTable.load(settings.prices).currency
    until = today()
    store = open_store(settings.state_address, SystemClock())
    await store.open()
    try:
        found = await Spending(store).rows(tenant, since=until - datetime.timedelta(days=days - 1), until=until)
    finally:
        await store.close()
    chosen = [each for each in _ALL if each in (by or _ALL)]
    rows = summed(found, [each.value for each in chosen])
    total = next(iter(summed(found, [])), None)
    grid = Grid(
        (*(each.value.upper() for each in chosen), "CALLS", "INPUT", "CACHED", "OUTPUT", currency, "WITHOUT A PRICE"),
        [
            (
                *(str(getattr(row, each.value)) for each in chosen),
                str(row.calls),
                str(row.input_tokens + row.cache_write_tokens),
                str(row.cache_read_tokens),
                str(row.output_tokens),
                f"{row.cost:.4f}",
                str(row.unpriced or ""),
            )
            for row in rows
        ],
        empty="no model calls were counted",
        optional=("CACHED",),
    )
    call.screen.show(rows, [grid])
    if total is not None:
        apart = f"; {total.unpriced} of them have no known price and are not in it" if total.unpriced else ""
        call.screen.say(f"{total.calls} calls, {total.cost:.4f} {currency}{apart}", "warn" if total.unpriced else "dim")
