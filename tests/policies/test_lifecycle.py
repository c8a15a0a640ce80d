"""The life cycle of a round, walked at random."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.core.errors import RefusedError
from policies.lifecycle import MOVES, State, move

VERDICTS = {
    State.CANCELLED,
    State.RELEASED,
    State.REFUSED,
    State.INCONCLUSIVE,
    State.REJECTED,
    State.FAILED,
}


def test_every_state_stands_in_the_table() -> None:
    assert set(MOVES) == set(State)


def test_the_six_verdicts_are_the_only_ends() -> None:
    assert {state for state in State if state.terminal} == VERDICTS


@given(st.lists(st.sampled_from(State), max_size=40))
def test_a_release_was_evaluated_and_waited_for_approval(wishes: list[State]) -> None:
    state, path = State.CREATED, [State.CREATED]
    for wish in wishes:
        try:
            state = move(state, wish)
        except RefusedError:
            continue
        path.append(state)
    if State.RELEASED in path:
        assert path[-4:] == [
            State.EVALUATING,
            State.AWAITING_APPROVAL,
            State.RELEASING,
            State.RELEASED,
        ]
        first = list(dict.fromkeys(path))
        assert first == [state for state in State if state in first], "each step after the last one"
        assert {State.COLLECTING, State.CURATING, State.TRAINING} < set(path)
    # A candidate that is made again is evaluated again before anybody may sign.
    for before, after in pairwise(path):
        assert after is not State.AWAITING_APPROVAL or before is State.EVALUATING
    if State.REJECTED in path:
        assert path[-2] == State.AWAITING_APPROVAL
    if {State.REFUSED, State.INCONCLUSIVE} & set(path):
        assert path[-2] == State.EVALUATING


@pytest.mark.parametrize("end", sorted(VERDICTS))
def test_nothing_leaves_a_verdict(end: State) -> None:
    for to in State:
        with pytest.raises(RefusedError, match="the round is over"):
            move(end, to)


def test_every_running_state_can_fail() -> None:
    for state in set(State) - VERDICTS:
        assert move(state, State.FAILED) == State.FAILED


def test_a_refusal_names_the_legal_moves() -> None:
    with pytest.raises(RefusedError, match="from created to released; from created: cancelled, "):
        move(State.CREATED, State.RELEASED)
