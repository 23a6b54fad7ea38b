"""Which model a call goes to: equal arguments choose alike, and the choice says why."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rockbot.catalogue.routes import CallLane, ModelRoute, ModelStep, choose

SMALL = ModelStep(model="a/small", context_window=100)
LARGE = ModelStep(model="b/large", context_window=1000)
ENDLESS = ModelStep(model="c/endless")


def test_the_first_route_that_fits_counts() -> None:
    routes = (
        ModelRoute(steps=(SMALL,), lanes=("scheduled",), why="scheduled work"),
        ModelRoute(steps=(LARGE,), min_input_tokens=50, why="long ones"),
        ModelRoute(steps=(ENDLESS,), why="the rest"),
    )
    assert choose(routes, lane="scheduled", tokens=80).why == "scheduled work"
    assert choose(routes, lane="interactive", tokens=80).model == "b/large"
    assert choose(routes, lane="interactive", tokens=49).model == "c/endless"


def test_the_last_route_takes_what_fits_none() -> None:
    routes = (ModelRoute(steps=(SMALL,), max_input_tokens=5), ModelRoute(steps=(LARGE,), lanes=("delegated",)))
    assert choose(routes, lane="interactive", tokens=6).model == "b/large"
    with pytest.raises(ValueError, match="no routes"):
        choose((), lane="interactive", tokens=6)


def test_input_that_does_not_fit_goes_to_the_first_fallback_that_it_fits_into() -> None:
    route = ModelRoute(steps=(SMALL, LARGE, ENDLESS), fall_on=("transient",), why="models.x")
    assert choose([route], lane="interactive", tokens=100).fallbacks == ("b/large", "c/endless")
    choice = choose([route], lane="interactive", tokens=101)
    assert (choice.model, choice.fallbacks, choice.fall_on) == ("b/large", ("c/endless",), ("transient",))
    assert choice.why == "models.x; 101 input tokens do not fit a/small (100)"
    assert choose([route], lane="interactive", tokens=2000).fall_on == ()


def test_what_fits_nowhere_is_sent_to_the_first_model_whose_answer_says_so() -> None:
    route = ModelRoute(steps=(SMALL, LARGE))
    assert choose([route], lane="interactive", tokens=5000).model == "a/small"


_ROUTE = st.builds(
    ModelRoute,
    steps=st.lists(st.sampled_from([SMALL, LARGE, ENDLESS]), min_size=1, max_size=3, unique=True).map(tuple),
    lanes=st.lists(st.sampled_from(["interactive", "delegated", "scheduled"]), max_size=2, unique=True).map(tuple),
    min_input_tokens=st.integers(0, 200),
    max_input_tokens=st.none() | st.integers(0, 2000),
)


@settings(max_examples=60)
@given(st.lists(_ROUTE, min_size=1, max_size=4), st.sampled_from(["interactive", "scheduled"]), st.integers(0, 2000))
def test_a_choice_is_of_the_first_fitting_route_and_never_too_small_when_another_step_is_not(
    routes: list[ModelRoute], lane: CallLane, tokens: int
) -> None:
    choice = choose(routes, lane=lane, tokens=tokens)
    chosen = next((route for route in routes if not route.misses(lane, tokens)), routes[-1])
    chain = [step.model for step in chosen.steps]
    assert chain[-len(choice.fallbacks) - 1 :] == [choice.model, *choice.fallbacks]
    assert (
        choose([ModelRoute.model_validate_json(it.model_dump_json()) for it in routes], lane=lane, tokens=tokens)
        == choice
    )
    if any(step.holds(tokens) for step in chosen.steps):
        assert next(step for step in chosen.steps if step.model == choice.model).holds(tokens)
