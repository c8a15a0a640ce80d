"""Who may do what: one table of roles and acts. What is not in the table is forbidden."""

from enum import StrEnum
from types import MappingProxyType

from appliance.core.errors import ForbiddenError


class Role(StrEnum):
    """What a person is here for. One role each, so that duties stay apart."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    APPROVER = "approver"
    ADMIN = "admin"


class Act(StrEnum):
    """Everything that a person can ask the appliance to do."""

    VIEW = "view"
    START_ROUND = "round.start"
    CHANGE_LAW = "law.change"
    """Recipe, gates, suites or schedule. Whoever does it becomes an author of the round."""
    APPROVE = "round.approve"
    REJECT = "round.reject"
    RELEASE = "release"
    """Carry out a release that the quorum has approved."""
    ROLLBACK = "rollback"
    KILL = "kill"
    """Serve the base alone."""
    ADD_USER = "user.add"
    ADD_KEY = "key.add"


# An admin hands out credentials and runs the appliance, but signs for no adapter: whoever can
# make people up must not be one of the people who count. Undoing is open to all but viewers.
MAY: MappingProxyType[Role, frozenset[Act]] = MappingProxyType(
    {
        Role.VIEWER: frozenset({Act.VIEW}),
        Role.OPERATOR: frozenset(
            {Act.VIEW, Act.START_ROUND, Act.CHANGE_LAW, Act.RELEASE, Act.ROLLBACK, Act.KILL}
        ),
        Role.APPROVER: frozenset(
            {Act.VIEW, Act.APPROVE, Act.REJECT, Act.RELEASE, Act.ROLLBACK, Act.KILL}
        ),
        Role.ADMIN: frozenset(
            {
                Act.VIEW,
                Act.START_ROUND,
                Act.CHANGE_LAW,
                Act.RELEASE,
                Act.ROLLBACK,
                Act.KILL,
                Act.ADD_USER,
                Act.ADD_KEY,
            }
        ),
    }
)


def require(role: str, act: Act) -> None:
    """Raise unless a person with `role` may do `act`.

    Raises:
        ForbiddenError: the table does not say so, or there is no such role.
    """
    if role not in MAY or act not in MAY[Role(role)]:
        able = ", ".join(r for r in Role if act in MAY[r])
        raise ForbiddenError(
            f"{str(role)!r} may not do {act}", next_step=f"ask somebody who is: {able}"
        )
