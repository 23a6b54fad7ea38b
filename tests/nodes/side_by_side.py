"""How ``pytest -n`` deals out the tests: whole files, the ones with servers and processes first, `alone` ones at the end.

Files stay together because their tests share pools and clusters. What is marked ``alone`` measures time or memory, or loads
every core: it runs when all else is done, on one worker, while the others have ended and taken their servers with them.
Without ``-n`` everything runs one after the other anyway.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, final

import pytest
from xdist.scheduler.loadscope import LoadScopeScheduling
from xdist.workermanage import WorkerController

ALONE: Final = "@alone"
EARLY: Final = "@early"
#: What is quick and plentiful evens out the end; these are neither.
_SLOW_MARKERS: Final = frozenset({"rabbitmq", "sandbox", "crash"})
_SLOW_FIXTURES: Final = frozenset({"amqp_url", "rabbit_node", "managed_node", "postgres", "redis_node"})


@final
class SideBySide(LoadScopeScheduling):
    """Files to whoever is free; when the queue is empty, the lonely tests to the last worker that is left."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        super().__init__(config, log)
        self._alone: dict[str, dict[str, bool]] = {}

    def _split_scope(self, nodeid: str) -> str:
        path, _, test = nodeid.partition("::")
        return path + ALONE if test.endswith(ALONE) else path

    def schedule(self) -> None:
        """Deal out; the first time, in an order that ends with small files and then with the lonely tests."""
        if self.collection is not None or not self._check_nodes_have_same_collection():
            super().schedule()
            return
        units: dict[str, dict[str, bool]] = {}
        self.collection = list(next(iter(self.registered_collections.values())))
        for nodeid in self.collection:
            units.setdefault(self._split_scope(nodeid), {})[nodeid] = False
        for scope, unit in sorted(units.items(), key=lambda item: _place(item[1])):
            (self._alone if scope.endswith(ALONE) else self.workqueue)[scope] = unit
        if not self.workqueue:
            self.workqueue, self._alone = type(self.workqueue)(self._alone), {}
        for node in self.nodes:
            self._reschedule(node)

    @property
    def tests_finished(self) -> bool:
        return not self._alone and super().tests_finished

    @property
    def has_pending(self) -> bool:
        return bool(self._alone) or super().has_pending

    def _reschedule(self, node: WorkerController) -> None:
        if self.workqueue or not self._alone or node.shutting_down:
            super()._reschedule(node)
        elif sum(not other.shutting_down for other in self.nodes) > 1:
            # It finishes what it has, and its servers end with it.
            if self._pending_of(self.assigned_work[node]) <= 2:
                node.shutdown()
        elif len(self.nodes) == 1:
            self.workqueue.update(self._alone)
            self._alone = {}
            super()._reschedule(node)

    def remove_node(self, node: WorkerController) -> str | None:
        item = super().remove_node(node)
        for other in self.nodes:
            self._reschedule(other)
        return None if item is None else _plain(item)


def _place(unit: dict[str, bool]) -> tuple[bool, int]:
    return not any(nodeid.endswith(EARLY) for nodeid in unit), -len(unit)


def _plain(nodeid: str) -> str:
    return nodeid.removesuffix(ALONE).removesuffix(EARLY)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> SideBySide | None:
    """The scheduler, unless the command line asks for one of xdist's own."""
    return SideBySide(config, log) if config.getoption("dist") == "load" else None


@final
class Telling:
    """On a worker: the names told to the scheduler say how a test wants to run; reports and selections see the plain ones."""

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> Iterator[None]:
        names = [item.nodeid for item in session.items]
        for item in session.items:
            item._nodeid = item.nodeid + _wish(item)
        try:
            return (yield)
        finally:
            for item, name in zip(session.items, names, strict=True):
                item._nodeid = name


def _wish(item: pytest.Item) -> str:
    if item.get_closest_marker("alone"):
        return ALONE
    slow = any(map(item.get_closest_marker, _SLOW_MARKERS))
    fixtures: Sequence[str] = getattr(item, "fixturenames", ())
    return EARLY if slow or not _SLOW_FIXTURES.isdisjoint(fixtures) else ""


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        config.pluginmanager.register(Telling(), "rockbot-side-by-side")
