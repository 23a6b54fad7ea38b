"""When a backend is left alone: a pure machine, driven by instants."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rockbot.settings_models import BackendSettings
from rockbot_handlers.llm.circuit import Circuit, Closed, Probing, Shut

SETTINGS = BackendSettings(breaker_failures=3, breaker_seconds=10, breaker_longest_seconds=60)


def failing(circuit: Circuit, now_ms: int, times: int = 1) -> Circuit:
    for _ in range(times):
        circuit = circuit.failed("down", now_ms, SETTINGS)
    return circuit


def test_it_opens_after_so_many_failures_in_a_row_and_a_success_between_them_counts() -> None:
    circuit = failing(failing(Circuit(), 0, 2).succeeded(), 0, 2)
    assert circuit.admit("a", 0) == Closed()
    assert failing(circuit, 0).admit("a", 0) == Shut(10, "breaker")


def test_after_the_wait_one_call_is_tried_while_the_others_wait_for_it() -> None:
    circuit = failing(Circuit(), 0, 3)
    tried = circuit.admit("a", 10_000)
    assert isinstance(tried, Probing)
    assert tried.then.admit("b", 10_001) == Shut(1, "breaker")
    assert isinstance(tried.then.admit("a", 10_001), Probing)
    assert isinstance(tried.then.admit("b", 40_000), Probing), "the first one is not heard of any more"
    assert isinstance(tried.then.gave_up("a").admit("b", 10_001), Probing)
    assert tried.then.succeeded().admit("b", 10_001) == Closed()


def test_each_failed_try_doubles_the_wait_up_to_the_longest() -> None:
    circuit, now_ms, waits = failing(Circuit(), 0, 3), 0, []
    for _ in range(5):
        shut = circuit.admit("a", now_ms)
        assert isinstance(shut, Shut)
        waits.append(shut.seconds)
        now_ms += round(shut.seconds * 1000)
        tried = circuit.admit("a", now_ms)
        assert isinstance(tried, Probing)
        circuit = failing(tried.then, now_ms)
    assert waits == [10, 20, 40, 60, 60]


def test_failures_of_calls_that_were_under_way_when_it_opened_do_not_prolong_it() -> None:
    circuit = failing(Circuit(), 0, 3)
    assert failing(circuit, 5_000, 10) == circuit


def test_it_is_left_alone_as_long_as_it_asks_and_no_failure_is_counted() -> None:
    circuit = Circuit().throttled("too much", 0, 30).throttled("too much", 1_000, 5)
    assert circuit.admit("a", 1_000) == Shut(29, "throttled")
    assert isinstance(circuit.admit("a", 30_000), Probing)
    assert (circuit.failures, circuit.opened) == (0, 0)


def test_without_a_number_of_failures_it_never_opens() -> None:
    circuit = Circuit()
    for _ in range(100):
        circuit = circuit.failed("down", 0, BackendSettings(breaker_failures=0))
    assert circuit.admit("a", 0) == Closed()


@given(st.lists(st.sampled_from(["fail", "throttle", "succeed", "ask", "wait"]), max_size=40))
def test_whatever_happens_a_call_is_tried_within_the_longest_wait(steps: list[str]) -> None:
    circuit, now_ms = Circuit(), 0
    for step in steps:
        match step:
            case "fail":
                circuit = failing(circuit, now_ms)
            case "throttle":
                circuit = circuit.throttled("", now_ms, 20)
            case "succeed":
                circuit = circuit.succeeded()
            case "ask":
                asked = circuit.admit("a", now_ms)
                circuit = asked.then if isinstance(asked, Probing) else circuit
            case _:
                now_ms += 7_000
        assert Circuit.model_validate_json(circuit.model_dump_json()) == circuit
    assert not isinstance(circuit.admit("b", now_ms + 90_000), Shut)
