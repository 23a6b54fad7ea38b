"""The last look before a tool runs, where it runs: to list a tool is no permission, and neither is it to have sent a call.

Two policies count, and the stricter one wins: the one that the call carries (the turn's own, from when its task was accepted)
and the one that this process knows by its settings now. So a policy that was tightened counts at once, also for running turns.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import final

from rockbot.events.tasks import APPROVAL_REQUIRED, StepRefused
from rockbot.events.tools import ToolInvoke, ToolResult, ToolSpec
from rockbot.policies import Policy, Ruling, evaluate, stricter

__all__ = ["Admission"]


@final
class Admission:
    """`policy_of` gives the policy of an agent, None when this process knows no such agent."""

    def __init__(self, policy_of: Callable[[str], Policy | None]) -> None:
        self._policy_of = policy_of

    def refusal(self, invoke: ToolInvoke, tool: ToolSpec, *, message_id: str) -> ToolResult | StepRefused | None:
        """The answer to a call that must not be made; None when it may. `message_id` is its command's.

        A turn that did not know that a person has to approve is told so, and asks; anybody else gets a result.
        """
        ruling = self.ruling(invoke, tool)
        if ruling.verdict == "allow":
            return None
        why = f": {ruling.reason}" if ruling.reason else ""
        if ruling.verdict == "deny":
            return ToolResult.failure(invoke, f"the tool was not called, policy denies it{why}")
        if invoke.approval is not None:
            if invoke.approval.covers(invoke.tool, invoke.arguments):
                return None
            return ToolResult.failure(invoke, "the tool was not called, its approval is for other arguments")
        if invoke.agent:
            return StepRefused(
                message_id=message_id,
                code=APPROVAL_REQUIRED,
                message=f"it needs a person's approval{why}",
                limit="policy",
            )
        return ToolResult.failure(invoke, f"the tool was not called, it needs a person's approval{why}")

    def ruling(self, invoke: ToolInvoke, tool: ToolSpec) -> Ruling:
        """The strictest ruling of all policies that count."""
        policies = [policy for policy in (invoke.policy, self._policy_of(invoke.agent)) if policy is not None]
        rulings = [
            evaluate(policy, tool, invoke.arguments, origins=invoke.origins) for policy in policies or [Policy()]
        ]
        return reduce(stricter, rulings)
