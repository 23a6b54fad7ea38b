"""Policies: the first fitting rule counts, and what cannot be said never counts as permission."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rockbot.events import ToolInvoke, ToolSpec
from rockbot.policies import Approval, ArgumentMatcher, Policy, Ruling, argument_hash, evaluate, stricter
from rockbot.policies.rulings import explain

SCHEMA = {
    "type": "object",
    "properties": {
        "amount": {"type": "integer"},
        "to": {"type": "string"},
        "force": {"type": "boolean", "default": True},
        "options": {"$ref": "#/$defs/Options", "default": {}},
    },
    "$defs": {"Options": {"type": "object", "properties": {"depth": {"type": "integer", "default": 9}}}},
}
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "a", "5", "true"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2),
    max_leaves=5,
)
MATCHERS = st.one_of(
    st.builds(lambda value: {"equals": value}, VALUES.filter(lambda value: value is not None)),
    st.builds(lambda values: {"one_of": values}, st.lists(VALUES, min_size=1, max_size=3)),
    st.sampled_from(
        [{"glob": "a*"}, {"regex": "[a-z]"}, {"gt": 1}, {"le": 3.5}, {"present": True}, {"present": False}]
    ),
)


def tool(name: str = "pay", **flags: Any) -> ToolSpec:
    return ToolSpec(name=name, description="", input_schema=SCHEMA, toolset="desk", **flags)


def policy(*rules: dict[str, Any], **fields: Any) -> Policy:
    return Policy.model_validate({"rules": rules, **fields})


def verdict(rules: Policy, *, origins: tuple[str, ...] = (), spec: ToolSpec | None = None, **arguments: Any) -> str:
    return evaluate(rules, spec or tool(), arguments, origins=origins).verdict


def test_the_first_rule_that_fits_counts() -> None:
    rules = policy(
        {"tool": "pay", "arguments": {"amount": {"gt": 1000}}, "then": "deny", "reason": "too much"},
        {"tool": ["pay", "send_*"], "then": "ask"},
        {"then": "deny"},
    )
    assert evaluate(rules, tool(), {"amount": 2000}) == Ruling("deny", "too much", 1)
    assert verdict(rules, amount=1000) == "ask"
    assert verdict(rules, spec=tool("send_mail")) == "ask"
    assert verdict(rules, spec=tool("resend_mail")) == "deny"


def test_without_a_rule_the_default_counts_and_a_tool_may_ask_for_itself() -> None:
    assert verdict(policy()) == "allow"
    assert verdict(policy(default="deny")) == "deny"
    assert verdict(policy(), spec=tool(needs_approval=True)) == "ask"
    assert verdict(policy(default="deny"), spec=tool(needs_approval=True)) == "deny"
    assert verdict(policy({"tool": "pay", "then": "allow"}), spec=tool(needs_approval=True)) == "allow"


@pytest.mark.parametrize(
    ("asked", "value", "answer"),
    [
        ("EUR", "EUR", True),
        ("EUR", "eur", False),
        (5, 5.0, True),
        (5, "5", None),
        (True, "true", None),
        (True, 1, None),
        (5, {"a": 5}, False),
        ({"equals": {"a": 1}}, {"a": 1}, True),
        ({"equals": ["a"]}, ["a"], True),
        ({"equals": ["a"]}, ["a", "b"], False),
        ("a", ["a", "a"], True),
        ("a", ["b"], False),
        ("a", ["a", "b"], None),
        ("a", [], False),
        ({"one_of": ["a", "b"]}, ["b", "a"], True),
        ({"glob": "*@example.org"}, "me@example.org", True),
        ({"glob": "*@example.org"}, "me@example.org\nme@evil.test", False),
        ({"glob": "*@example.org"}, ["a@example.org", "b@evil.test"], None),
        ({"glob": "/data/*"}, "/data/a/b", True),
        ({"regex": "[a-z]+"}, "abc", True),
        ({"regex": "[a-z]+"}, "abc1", False),
        ({"regex": "[a-z]+"}, "a" * 20_000, None),
        ({"regex": "[a-z]+"}, 5, None),
        ({"gt": 1, "le": 3}, 3, True),
        ({"gt": 1, "le": 3}, 1, False),
        ({"ge": 1, "lt": 3}, 1, True),
        ({"ge": 1, "lt": 3}, 3, False),
        ({"gt": 1}, "2000", None),
        ({"gt": 0}, True, None),
        ({"present": True}, None, True),
    ],
)
def test_what_a_matcher_says_of_a_value(asked: Any, value: Any, answer: bool | None) -> None:
    assert ArgumentMatcher.model_validate(asked).fits([value]) is answer


@pytest.mark.parametrize("value", ["2000", [1, 2000], None, {}])
def test_where_it_cannot_be_said_a_prohibition_holds_and_a_permission_does_not(value: Any) -> None:
    high = {"arguments": {"amount": {"gt": 1000}}}
    low = {"arguments": {"amount": {"le": 1000}}}
    assert verdict(policy({**high, "then": "deny"}), amount=value) == "deny"
    assert verdict(policy({**high, "then": "ask"}), amount=value) == "ask"
    assert verdict(policy({**low, "then": "allow"}, default="deny"), amount=value) == "deny"


def test_an_argument_that_is_left_out_has_the_default_of_the_schema() -> None:
    assert verdict(policy({"arguments": {"force": True}, "then": "deny"})) == "deny"
    assert verdict(policy({"arguments": {"force": True}, "then": "deny"}), force=False) == "allow"
    assert verdict(policy({"arguments": {"/options/depth": {"gt": 5}}, "then": "deny"})) == "deny"
    assert (
        verdict(policy({"arguments": {"/options/depth": {"gt": 5}}, "then": "deny"}), options={"depth": 1}) == "allow"
    )
    assert verdict(policy({"arguments": {"to": {"present": False}}, "then": "deny"})) == "deny"
    assert verdict(policy({"arguments": {"to": {"glob": "*"}}, "then": "deny"})) == "allow"


def test_a_pointer_reaches_into_objects_and_lists() -> None:
    rules = policy({"arguments": {"/mails/0/to": "boss", "/a~1b": 1}, "then": "ask"})
    assert verdict(rules, mails=[{"to": "boss"}], **{"a/b": 1}) == "ask"
    assert verdict(rules, mails=[{"to": "me"}], **{"a/b": 1}) == "allow"
    assert verdict(rules, mails=[], **{"a/b": 1}) == "allow"


def test_a_rule_may_look_at_where_the_context_came_from_and_at_what_the_tool_does() -> None:
    rules = policy({"when_tainted": ["web", "tool:fetch_*"], "read_only": False, "then": "ask"})
    assert verdict(rules, origins=("user", "web")) == "ask"
    assert verdict(rules, origins=("tool:fetch_page",)) == "ask"
    assert verdict(rules, origins=("user", "model", "tool:add")) == "allow"
    assert verdict(rules, origins=("web",), spec=tool(read_only=True)) == "allow"


def test_what_a_call_carries_of_a_policy_judges_it_alike() -> None:
    rules = policy(
        {"tool": "other", "then": "deny"},
        {"tool": "p*", "arguments": {"amount": {"gt": 5}}, "then": "ask", "reason": "costs"},
        default="deny",
    )
    carried = ToolInvoke(tool="pay", policy=rules.about("pay")).to_body()
    again = ToolInvoke.model_validate_json(carried).policy
    assert again is not None
    assert len(again.rules) == 1
    for amount in (1, 10):
        here, there = (evaluate(one, tool(), {"amount": amount}) for one in (rules, again))
        assert (here.verdict, here.reason) == (there.verdict, there.reason)


def test_an_explanation_says_of_each_rule_why_it_does_not_fit() -> None:
    rules = policy(
        {"tool": "add", "then": "deny"},
        {"when_tainted": "web", "then": "deny"},
        {"read_only": True, "then": "allow"},
        {"arguments": {"amount": {"gt": 10}}, "then": "deny"},
        {"arguments": {"to": {"glob": "*"}}, "then": "allow"},
        {"then": "ask"},
        {"then": "deny"},
    )
    assert [why for _, _, why in explain(rules, tool(), {"amount": 5, "to": 7})] == [
        "it is about other tools",
        "the context holds nothing from web",
        "the tool is not read-only",
        "amount is not what it asks for",
        "it cannot be said whether to is what it asks for",
        "",
    ]


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ({"then": "maybe"}, "'allow', 'ask' or 'deny'"),
        ({"then": "deny", "args": {}}, "Extra inputs"),
        ({"then": "deny", "tool": []}, "at least 1 item"),
        ({"then": "deny", "arguments": {"a": {}}}, "says nothing"),
        ({"then": "deny", "arguments": {"a": {"regex": "("}}}, "not a regular expression"),
        ({"then": "deny", "arguments": {"a": {"above": 1}}}, "Extra inputs"),
        ({"then": "deny", "arguments": {"a": float("inf")}}, "no argument can be that"),
        ({"then": "deny", "arguments": {"a": date(2026, 1, 1)}}, "write dates as text"),
    ],
)
def test_a_rule_that_says_nothing_sensible_is_refused(rule: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        policy(rule)


def test_an_approval_covers_exactly_the_arguments_that_were_shown() -> None:
    shown = {"amount": 5, "to": {"name": "Zoë", "iban": "DE1"}}
    approval = Approval(approval_id="a1", argument_hash=argument_hash("pay", shown), by="anna")
    assert approval.covers("pay", {"to": {"iban": "DE1", "name": "Zoë"}, "amount": 5})
    assert not approval.covers("pay", {**shown, "amount": 6})
    assert not approval.covers("refund", shown)


def test_of_two_rulings_the_stricter_counts() -> None:
    allow, ask, deny = Ruling("allow"), Ruling("ask"), Ruling("deny")
    assert stricter(allow, ask) is stricter(ask, allow) is ask
    assert stricter(ask, deny) is stricter(deny, ask) is deny
    assert stricter(ask, Ruling("ask", "another")) is ask


@given(MATCHERS, VALUES)
def test_a_permission_and_a_prohibition_never_both_let_a_call_pass(asked: dict[str, Any], value: Any) -> None:
    """What an allowing rule lets through is caught by the same rule when it denies, whatever the value is."""
    arguments = {"amount": value}
    allowed = verdict(policy({"arguments": {"amount": asked}, "then": "allow"}, default="deny"), **arguments)
    denied = verdict(policy({"arguments": {"amount": asked}, "then": "deny"}), **arguments)
    assert (allowed, denied) != ("allow", "allow")
    matcher = ArgumentMatcher.model_validate(asked)
    assert ArgumentMatcher.model_validate_json(matcher.model_dump_json(exclude_none=True)).fits(
        [value]
    ) is matcher.fits([value])
