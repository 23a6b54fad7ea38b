"""Toolsets: functions become tools by a decorator that leaves them as they are."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, final, overload

from pydantic import ValidationError

from rockbot.events.registry import explain
from rockbot.events.tools import ToolSpec
from rockbot.tools.errors import ToolDefinitionError
from rockbot.tools.signature import Signature
from rockbot_messaging.topics import check_word

__all__ = ["FunctionTool", "Toolset"]

F = TypeVar("F", bound=Callable[..., Any])


@final
@dataclass(frozen=True, slots=True)
class FunctionTool:
    """A tool and the function behind it. `origin` is where its results come from."""

    spec: ToolSpec
    function: Callable[..., Any]
    signature: Signature
    origin: str

    @property
    def in_thread(self) -> bool:
        """Whether it runs in a thread, because it is no coroutine function."""
        return not inspect.iscoroutinefunction(self.function)


@final
class Toolset:
    """Tools that run together: one queue, ``tool.<name>``, and its competing workers.

    Raises:
        InvalidTopic: the name is no word of a topic.
    """

    def __init__(self, name: str) -> None:
        self.name = check_word(name)
        self._tools: dict[str, FunctionTool] = {}

    def __iter__(self) -> Iterator[FunctionTool]:
        return iter(self._tools.values())

    def __repr__(self) -> str:
        return f"Toolset({self.name!r}: {', '.join(self._tools) or 'empty'})"

    def get(self, name: str) -> FunctionTool | None:
        """The tool of that name."""
        return self._tools.get(name)

    @overload
    def tool(self, function: F, /) -> F: ...

    @overload
    def tool(
        self,
        function: None = None,
        /,
        *,
        name: str | None = None,
        description: str | None = None,
        idempotent: bool = False,
        read_only: bool = False,
        needs_approval: bool = False,
        on_exhausted: Literal["stall", "tell_model"] = "stall",
        timeout: float = 60,
        deadline: float | None = None,
        max_concurrency: int | None = None,
        across_replicas: bool = False,
        output_limit: int | None = None,
        origin: str | None = None,
    ) -> Callable[[F], F]: ...

    def tool(
        self,
        function: F | None = None,
        /,
        *,
        name: str | None = None,
        description: str | None = None,
        idempotent: bool = False,
        read_only: bool = False,
        needs_approval: bool = False,
        on_exhausted: Literal["stall", "tell_model"] = "stall",
        timeout: float = 60,
        deadline: float | None = None,
        max_concurrency: int | None = None,
        across_replicas: bool = False,
        output_limit: int | None = None,
        origin: str | None = None,
    ) -> F | Callable[[F], F]:
        """Make a function a tool; it stays callable as before. A function that is no coroutine function runs in a thread.

        Its name, docstring and annotations become name, description and schema; a parameter annotated `ToolContext` gets the
        call's context and is not part of the schema. `idempotent` and `read_only` allow that a call whose end is unknown is
        made again. `timeout` bounds one call, `deadline` the wait for its answer with the time in the queue (seconds).
        `max_concurrency` counts per process, or over all with `across_replicas`. `output_limit` is in characters. `origin`
        says where results come from when that is not the tool itself (``web``). All others: see `ToolSpec`.

        Raises:
            ToolDefinitionError: it cannot be a tool; the text says why.
        """

        def register(function: F) -> F:
            signature = Signature.of(function)
            own = name or function.__name__
            if own in self._tools:
                raise ToolDefinitionError(f"the toolset {self.name!r} has a tool {own!r} already")
            if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
                raise ToolDefinitionError(f"{own} cannot be a tool: it is a generator; return a list, or a File")
            said = description if description is not None else signature.description
            if not said:
                raise ToolDefinitionError(
                    f"{own} cannot be a tool without a docstring: it is how a model knows what it does"
                )
            if across_replicas and max_concurrency is None:
                raise ToolDefinitionError(
                    f"{own}: across_replicas says where max_concurrency counts, and there is none"
                )
            try:
                spec = ToolSpec(
                    name=own,
                    description=said,
                    input_schema=signature.schema,
                    toolset=self.name,
                    idempotent=idempotent,
                    read_only=read_only,
                    needs_approval=needs_approval,
                    on_exhausted=on_exhausted,
                    timeout_seconds=timeout,
                    deadline_seconds=deadline,
                    max_concurrency=max_concurrency,
                    across_replicas=across_replicas,
                    output_limit=output_limit,
                )
            except ValidationError as exc:
                raise ToolDefinitionError(f"{own} cannot be a tool: {explain(exc)}") from None
            self._tools[own] = FunctionTool(spec, function, signature, origin or f"tool:{own}")
            return function

        return register if function is None else register(function)
