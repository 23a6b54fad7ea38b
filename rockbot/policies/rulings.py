"""The judgement of one call: pure, the same wherever it is made, and able to say why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

from rockbot.policies.matchers import any_glob
from rockbot.policies.rules import Policy, PolicyRule, Verdict

if TYPE_CHECKING:
    from rockbot.events.tools import ToolSpec

__all__ = ["Ruling", "Verdict", "evaluate", "explain", "stricter"]

_STRICTNESS: Final[Mapping[Verdict, int]] = {"allow": 0, "ask": 1, "deny": 2}


@final
@dataclass(frozen=True, slots=True)
class Ruling:
    """What is to become of a call. `rule` counts from 1; None: no rule fitted. `reason` is for people and models alike."""

    verdict: Verdict
    reason: str = ""
    rule: int | None = None


def evaluate(policy: Policy, tool: ToolSpec, arguments: Mapping[str, Any], *, origins: Iterable[str] = ()) -> Ruling:
    """Whether this call may be made, by the first rule that fits. `origins` are those of the content the model has seen.

    An argument that is absent has the default of the tool's schema. Where it cannot be said whether an argument is what a rule
    asks for, a rule that allows does not fit, and any other does.
    """
    seen = tuple(origins)
    for number, rule in enumerate(policy.rules, start=1):
        if not _misfit(rule, tool, arguments, seen):
            return Ruling(rule.then, rule.reason or "the agent's policy says so", number)
    if tool.needs_approval and policy.default == "allow":
        return Ruling("ask", "the tool itself asks for approval")
    return Ruling(policy.default, "no rule of the policy fits" if policy.rules else "")


def explain(
    policy: Policy, tool: ToolSpec, arguments: Mapping[str, Any], *, origins: Iterable[str] = ()
) -> Sequence[tuple[int, PolicyRule, str]]:
    """For every rule up to the one that fits: its number, itself, and why it does not fit ("" for the one that does)."""
    seen = tuple(origins)
    looked: list[tuple[int, PolicyRule, str]] = []
    for number, rule in enumerate(policy.rules, start=1):
        misfit = _misfit(rule, tool, arguments, seen)
        looked.append((number, rule, misfit))
        if not misfit:
            break
    return looked


def stricter(one: Ruling, other: Ruling) -> Ruling:
    """The one that permits less; the first when they permit the same."""
    return other if _STRICTNESS[other.verdict] > _STRICTNESS[one.verdict] else one


def _misfit(rule: PolicyRule, tool: ToolSpec, arguments: Mapping[str, Any], origins: Sequence[str]) -> str:
    """Why a rule does not fit a call; empty when it does."""
    if not rule.names(tool.name):
        return "it is about other tools"
    if rule.read_only is not None and rule.read_only is not tool.read_only:
        return f"the tool is {'' if tool.read_only else 'not '}read-only"
    if rule.when_tainted and not any(any_glob(rule.when_tainted, origin) for origin in origins):
        return f"the context holds nothing from {', '.join(rule.when_tainted)}"
    for name, matcher in rule.arguments.items():
        answer = matcher.fits(_found(name, arguments, tool.input_schema))
        if answer is False:
            return f"{name} is not what it asks for"
        if answer is None and rule.then == "allow":
            return f"it cannot be said whether {name} is what it asks for"
    return ""


def _found(name: str, arguments: Mapping[str, Any], schema: Mapping[str, Any]) -> Sequence[Any]:
    """The value under a name or a JSON pointer, given or by default; nothing when it is absent."""
    names = [part.replace("~1", "/").replace("~0", "~") for part in name[1:].split("/")] if name[:1] == "/" else [name]
    at: Any = arguments
    shape: Any = schema
    for step in names:
        inner = _shape_of(step, shape, schema)
        if isinstance(at, Mapping) and step in at:
            at = at[step]
        elif isinstance(at, list) and step.isdecimal() and int(step) < len(at):
            at = at[int(step)]
        elif isinstance(at, Mapping) and isinstance(inner, Mapping) and "default" in inner:
            at = inner["default"]
        else:
            return ()
        shape = inner
    return (at,)


def _shape_of(step: str, shape: Any, schema: Mapping[str, Any]) -> Any:
    """The schema of one property of `shape`, references within the schema followed."""
    shape = _resolved(shape, schema)
    properties = shape.get("properties") if isinstance(shape, Mapping) else None
    inner = properties.get(step) if isinstance(properties, Mapping) else None
    if not isinstance(inner, Mapping):
        return None
    return {**inner, **_resolved(inner, schema)} if "$ref" in inner else inner


def _resolved(shape: Any, schema: Mapping[str, Any]) -> Any:
    reference = shape.get("$ref") if isinstance(shape, Mapping) else None
    if not isinstance(reference, str) or not reference.startswith("#/"):
        return shape
    at: Any = schema
    for step in reference[2:].split("/"):
        at = at.get(step) if isinstance(at, Mapping) else None
    return at if isinstance(at, Mapping) else {}
