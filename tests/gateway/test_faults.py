"""The table that makes an error the same error on the other side of a socket."""

from __future__ import annotations

import pytest

from rockbot.errors import MissingExtra
from rockbot.operators.faults import FAULTS, ExitCode, Fault, error_of, fault_of, problem_of
from rockbot.state.ports import StateUnavailable
from rockbot_messaging.errors import BrokerUnreachable, NotConfirmed


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.code}-{fault.error.__name__}")
def test_an_error_survives_the_way_over_the_wire(fault: Fault) -> None:
    problem = problem_of(fault.make("what happened"))
    assert (problem.code, problem.message) == (fault.code, "what happened")
    again = error_of(problem)
    assert str(again) == "what happened"
    assert fault_of(again).exit_code == fault.exit_code


def test_an_unforeseen_error_does_not_tell_internals() -> None:
    problem = problem_of(KeyError("password=secret"))
    assert problem.code == "internal"
    assert "secret" not in problem.message
    assert "KeyError" in problem.message


def test_subclasses_take_the_row_of_their_family() -> None:
    assert fault_of(MissingExtra("x", "wasm")).exit_code is ExitCode.CONFIG
    assert fault_of(StateUnavailable("gone")).code == "state_unavailable"
    assert fault_of(BrokerUnreachable("gone")).exit_code is ExitCode.UNREACHABLE
    assert fault_of(NotConfirmed("gone")).exit_code is ExitCode.UNREACHABLE


def test_a_code_from_a_newer_host_is_still_an_error() -> None:
    from rockbot.operators.faults import Problem

    assert str(error_of(Problem(code="from_the_future", message="new"))) == "new"
