"""What an operator should know of a store: how it keeps things, and what in it waits longer than it should."""

from __future__ import annotations

from typing import Final

from rockbot.operators.models import Check
from rockbot.presence import processes
from rockbot.state.desk.moving import unfinished
from rockbot.state.items import Census, RowItem
from rockbot.state.ports import StateStore
from rockbot_messaging.clock import Clock
from rockbot_messaging.errors import Undecodable
from rockbot_messaging.packing import unpack
from rockbot_messaging.retries import span

__all__ = ["check_store"]

#: Milliseconds by which clocks may differ, timers may be late, and claims may have been lost, before it is a finding.
_SKEW_MS: Final = 2000
_LATE_MS: Final = 60_000
#: Seconds after which an open row is old: a call that takes longer than most.
_OLD_ROW_MS: Final = 15 * 60_000
_LONG_AGO: Final = "is a host running? `rockbot run`, or look at its log"


async def check_store(store: StateStore, clock: Clock) -> list[Check]:
    """Every check of an open store.

    Raises:
        StateUnavailable: it does not answer.
    """
    before_ms = clock.now_ms()
    its_ms = await store.now_ms()
    after_ms = clock.now_ms()
    census = await store.census()
    running = await processes(store)
    checks = [
        Check(name="store", status="ok", detail=f"{census.server}, form {census.schema}"),
        _durability(census),
        _skew(its_ms, before_ms, after_ms),
        Check(name="hosts", status="ok", detail=f"{len(running)} process(es) run on it"),
        await _outbox(store, census, its_ms),
        _claims(census),
        _timers(census, its_ms),
        _contents(census),
    ]
    if await unfinished(store):
        advice = "empty it and do it again; do not run hosts on it"
        checks.insert(1, Check(name="copy", status="fail", detail="a copy into this store was cut off", advice=advice))
    return checks


def _durability(census: Census) -> Check:
    if census.doubts:
        advice = "see docs/state.md for what a server has to be set to"
        return Check(name="durability", status="warn", detail=f"lossy: {'; '.join(census.doubts)}", advice=advice)
    return Check(name="durability", status="ok", detail="what was acknowledged is on disk")


def _skew(its_ms: int, before_ms: int, after_ms: int) -> Check:
    skew = its_ms - after_ms if its_ms > after_ms else its_ms - before_ms if its_ms < before_ms else 0
    if abs(skew) > _SKEW_MS:
        detail = f"the store's clock is {span(abs(skew) / 1000)} {'ahead of' if skew > 0 else 'behind'} this machine's"
        advice = "set both by NTP: deadlines are compared by the clocks of hosts, claims and leases by the store's"
        return Check(name="clock", status="warn", detail=detail, advice=advice)
    return Check(name="clock", status="ok", detail="within two seconds of this machine's")


async def _outbox(store: StateStore, census: Census, now_ms: int) -> Check:
    open_rows = census.counts.get("row", 0)
    if not open_rows:
        return Check(name="outbox", status="ok", detail="no open rows")
    [first] = (await store.dump("row", limit=1)).items or (None,)
    age_ms = now_ms - _written_ms(first, now_ms) if isinstance(first, RowItem) else 0
    detail = f"{open_rows} open rows, the oldest of {span(round(max(age_ms, 0) / 1000))} ago"
    if age_ms > _OLD_ROW_MS:
        advice = "a call has had no answer for long: rockbot tasks list --status open, rockbot dlq list"
        return Check(name="outbox", status="warn", detail=detail, advice=advice)
    return Check(name="outbox", status="ok", detail=detail)


def _written_ms(row: RowItem, now_ms: int) -> int:
    """When the message of a row was made; when it was touched last, if it does not say so."""
    try:
        return unpack(row.row.message).timestamp_ms or row.touched_ms
    except Undecodable:
        return min(row.touched_ms, now_ms)


def _claims(census: Census) -> Check:
    if census.lost_claims:
        detail = f"{census.lost_claims} rows were claimed by processes that did not publish them"
        return Check(name="claims", status="warn", detail=detail, advice=_LONG_AGO)
    return Check(name="claims", status="ok", detail="none ran out")


def _timers(census: Census, now_ms: int) -> Check:
    detail = f"{census.counts.get('timer', 0)} timers, {census.due_timers} of them due"
    if census.oldest_due_ms is not None and now_ms - census.oldest_due_ms > _LATE_MS:
        detail += f", the first since {span(round((now_ms - census.oldest_due_ms) / 1000))}"
        return Check(name="timers", status="warn", detail=detail, advice=_LONG_AGO)
    return Check(name="timers", status="ok", detail=detail)


def _contents(census: Census) -> Check:
    counts = census.counts
    told = [
        f"{counts.get('stream', 0)} conversations",
        f"{counts.get('record', 0)} records",
        f"{counts.get('value', 0)} values",
        f"{census.over} of them over and not removed yet" if census.over else "",
        f"{census.size / 1_048_576:.1f} MiB" if census.size is not None else "",
    ]
    return Check(name="contents", status="ok", detail=", ".join(part for part in told if part))
