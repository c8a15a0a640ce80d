"""Which change of a suite a second person must accept, and who that may be.

A protected suite says what must not get worse. Whoever could thin it out alone could make any
candidate pass, so a change of one that is in force takes two people; a new one only asks for more.
"""

from enum import StrEnum

from appliance.core.errors import ConflictError, ForbiddenError, RefusedError

_FREE = frozenset({"target", "canary", "living"})
"""Kinds of suites in force that whoever may change the law changes alone."""


class ProposalState(StrEnum):
    """Where a proposed change stands. Nothing leaves the last three."""

    OPEN = "open"
    ACCEPTED = "accepted"
    DECLINED = "declined"
    OVERTAKEN = "overtaken"
    """The suite that it was made from is no longer in force."""


def needs_approver(in_force: str | None) -> bool:
    """Whether changing or repealing a suite of this kind takes somebody else's signature.

    `in_force` is the kind that the suite has now, whatever it is to become; None where no suite of
    that name is in force. A kind that is not known counts as protected.
    """
    return in_force is not None and in_force not in _FREE


def require_alone(in_force: str | None, *, name: str) -> None:
    """Raise where the change takes an approver.

    Raises:
        RefusedError: the suite in force is protected.
    """
    if needs_approver(in_force):
        raise RefusedError(
            f"suite {name} is {in_force} and in force: a change of it takes an approver",
            next_step=f"propose it: espalier law set suite FILE --name {name!r}",
        )


def require_accepter(*, proposer: str, accepter: str) -> None:
    """Raise unless this is another person than whoever proposed it.

    Raises:
        ForbiddenError: nobody accepts their own proposal.
    """
    if proposer == accepter:
        raise ForbiddenError(
            f"{accepter} proposed this change: nobody accepts their own",
            next_step="another approver accepts it",
        )


def require_open(state: str, *, number: int) -> None:
    """Raise unless the proposal still waits.

    Raises:
        ConflictError: it was decided, or overtaken.
    """
    if state != ProposalState.OPEN:
        raise ConflictError(
            f"proposal {number} is {state}: there is nothing to decide any more",
            next_step="look at the suite as it is now, and propose again if it is still wanted",
        )
