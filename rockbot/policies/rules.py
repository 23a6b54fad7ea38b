"""A policy as people write it down: rules about tools, their arguments and what the context holds; the first that fits counts."""

from __future__ import annotations

from typing import Annotated, Literal, final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from rockbot.policies.matchers import ArgumentMatcher, any_glob

__all__ = ["Policy", "PolicyRule", "Verdict"]

Verdict = Literal["allow", "ask", "deny"]


def _several(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Globs = Annotated[tuple[str, ...], BeforeValidator(_several)]


@final
class PolicyRule(BaseModel):
    """One line of a policy.

    `tool` are globs of names. `arguments` maps names, or JSON pointers (``/to/address``), to what is asked of them. `read_only`
    looks at the tool's flag. `when_tainted` are globs of origins (``web``, ``tool:*``, ``agent:*``): the rule is only for calls
    whose context holds content of one of them. `reason` is told to whoever is asked, and to the model.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tool: Annotated[Globs, Field(min_length=1)] = ("*",)
    then: Verdict
    arguments: dict[str, ArgumentMatcher] = Field(default_factory=dict)
    read_only: bool | None = None
    when_tainted: Globs = ()
    reason: str = ""

    def names(self, tool: str) -> bool:
        """Whether it is about this tool at all."""
        return any_glob(self.tool, tool)


@final
class Policy(BaseModel):
    """The rules of an agent; `default` is for calls that none fits, and that need no approval by the tool's own flag."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    default: Verdict = "allow"
    rules: tuple[PolicyRule, ...] = ()

    def about(self, tool: str) -> Policy:
        """The policy without the rules that are about other tools: what a call has to carry."""
        return self.model_copy(update={"rules": tuple(rule for rule in self.rules if rule.names(tool))})
