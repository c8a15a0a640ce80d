"""The life of a round: its states, and the one table of moves between them.

What is not here: leases, fencing and the database. Control moves a row; this says whether it may.
"""

from enum import StrEnum
from types import MappingProxyType

from appliance.core.errors import RefusedError


class State(StrEnum):
    """Where a round stands. The last six are the verdicts; nothing leaves them."""

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
    CANCELLED = "cancelled"
    """A person ended it before its verdict."""

    @property
    def terminal(self) -> bool:
        """Whether the round is over."""
        return not MOVES[self]


_ENDS = frozenset({State.FAILED, State.CANCELLED})

MOVES: MappingProxyType[State, frozenset[State]] = MappingProxyType(
    {
        State.CREATED: _ENDS | {State.COLLECTING},
        State.COLLECTING: _ENDS | {State.CURATING},
        State.CURATING: _ENDS | {State.TRAINING},
        State.TRAINING: _ENDS | {State.EVALUATING},
        State.EVALUATING: _ENDS | {State.AWAITING_APPROVAL, State.REFUSED, State.INCONCLUSIVE},
        # Back to an earlier step: the candidate is made again, and what was signed is dismissed.
        State.AWAITING_APPROVAL: _ENDS
        | {State.RELEASING, State.REJECTED}
        | {State.CURATING, State.TRAINING, State.EVALUATING},
        # What people have approved is carried out, or fails; it is undone by a rollback.
        State.RELEASING: frozenset({State.RELEASED, State.FAILED}),
        State.RELEASED: frozenset(),
        State.REFUSED: frozenset(),
        State.INCONCLUSIVE: frozenset(),
        State.REJECTED: frozenset(),
        State.FAILED: frozenset(),
        State.CANCELLED: frozenset(),
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
