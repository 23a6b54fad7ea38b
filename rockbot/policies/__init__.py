"""What an agent's tools may be called with: rules as data, judged by pure functions.

The turn asks before it sends a call, the worker asks again before it runs one; both get the same answer from the same rules.
"""

from __future__ import annotations

from rockbot.policies.approvals import Approval, argument_hash
from rockbot.policies.matchers import ArgumentMatcher
from rockbot.policies.rules import Policy, PolicyRule
from rockbot.policies.rulings import Ruling, Verdict, evaluate, stricter

__all__ = [
    "Approval",
    "ArgumentMatcher",
    "Policy",
    "PolicyRule",
    "Ruling",
    "Verdict",
    "argument_hash",
    "evaluate",
    "stricter",
]
