"""The life of a round: its states, and the one table of moves between them.

What is not here: leases, fencing and the database. Control moves a row; this says whether it may.
"""

from enum import StrEnum
from types import MappingProxyType

from appliance.core.errors import RefusedError


class State(StrEnum):
    """Where a round stands. The last five are the verdicts; nothing leaves them."""

    CREATED = "created"
    COLLECTING = "collecting"
    CURATING = "curating"
    TRAINING = "training"
    EVALUATING = "evaluating"
    AWAITING_APPROVAL = "awaiting_approval"
    RELEASING = "releasing"
    RELEASED = "released"
    REFUSED = "refused"
    """A bound shows harm."""
    INCONCLUSIVE = "inconclusive"
    """No harm shown, but a bound that is needed was not met."""
    REJECTED = "rejected"
    """A person said no."""
    FAILED = "failed"
    """Nothing to train, an approval that nobody gave in time, or an error."""

    @property
    def terminal(self) -> bool:
        """Whether the round is over."""
        return not MOVES[self]


MOVES: MappingProxyType[State, frozenset[State]] = MappingProxyType(
    {
        State.CREATED: frozenset({State.COLLECTING, State.FAILED}),
        State.COLLECTING: frozenset({State.CURATING, State.FAILED}),
        State.CURATING: frozenset({State.TRAINING, State.FAILED}),
        State.TRAINING: frozenset({State.EVALUATING, State.FAILED}),
        State.EVALUATING: frozenset(
            {State.AWAITING_APPROVAL, State.REFUSED, State.INCONCLUSIVE, State.FAILED}
        ),
        State.AWAITING_APPROVAL: frozenset({State.RELEASING, State.REJECTED, State.FAILED}),
        State.RELEASING: frozenset({State.RELEASED, State.FAILED}),
        State.RELEASED: frozenset(),
        State.REFUSED: frozenset(),
        State.INCONCLUSIVE: frozenset(),
        State.REJECTED: frozenset(),
        State.FAILED: frozenset(),
    }
)


def move(state: State, to: State) -> State:
    """The state that a round in `state` is in after moving to `to`.

    Raises:
        RefusedError: the table has no such move.
    """
    if to not in MOVES[state]:
        legal = ", ".join(sorted(MOVES[state])) or "nothing, the round is over"
        raise RefusedError(f"a round cannot go from {state} to {to}; from {state}: {legal}")
    return to
