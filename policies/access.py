"""Who may do what: one table of roles and acts. What is not in the table is forbidden."""

from collections.abc import Collection
from enum import StrEnum
from types import MappingProxyType

from appliance.core.errors import ForbiddenError, SignatureError


class Role(StrEnum):
    """What a person is here for. One role each, so that duties stay apart."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    APPROVER = "approver"
    ADMIN = "admin"


class Act(StrEnum):
    """Everything that a person can ask the appliance to do."""

    VIEW = "view"
    COMMENT = "comment"
    """Comments, votes and viewed ticks in a review."""
    TALK = "talk"
    """Put prompts to any version, and run what it wrote in the sandbox."""
    CORRECT = "feedback.correct"
    """Say how a turn should have been, or how a trajectory ended: it becomes training data."""
    KEEP_TEST = "suite.keep"
    """Add an item to a living suite. Whoever does it becomes an author of the round."""
    START_ROUND = "round.start"
    CANCEL_ROUND = "round.cancel"
    REVISE_ROUND = "round.revise"
    """Make a candidate again, under the law now in force. Whoever does it becomes an author."""
    CHANGE_LAW = "law.change"
    """Recipe, gates, suites or schedule. Whoever does it becomes an author of the round."""
    ACCEPT_SUITE = "suite.accept"
    """Accept, or decline, somebody else's change of a protected suite."""
    APPROVE = "round.approve"
    REQUEST_CHANGES = "round.request_changes"
    REJECT = "round.reject"
    RELEASE = "release"
    """Carry out a release that the quorum has approved."""
    ROLLBACK = "rollback"
    KILL = "kill"
    """Serve the base alone."""
    MANAGE_PEOPLE = "people.manage"
    """Add a person, change role or label, give a new passphrase, end somebody's access."""
    ADD_KEY = "key.add"


SIGNATURES = frozenset(
    {
        Act.ACCEPT_SUITE,
        Act.APPROVE,
        Act.REQUEST_CHANGES,
        Act.REJECT,
        Act.RELEASE,
        Act.ROLLBACK,
        Act.KILL,
        Act.MANAGE_PEOPLE,
    }
)
"""Acts that need the passphrase with the very request: an unlocked browser, or a token that a
program holds, must not be enough to sign or to change what is served."""

_READERS = frozenset({Act.VIEW})
_WORKERS = _READERS | {Act.COMMENT, Act.TALK, Act.CORRECT, Act.KEEP_TEST}
_UNDOERS = _WORKERS | {Act.CANCEL_ROUND, Act.RELEASE, Act.ROLLBACK, Act.KILL}
_MAKERS = _UNDOERS | {Act.START_ROUND, Act.REVISE_ROUND, Act.CHANGE_LAW}

# An admin hands out credentials and runs the appliance, but signs for no adapter: whoever can
# make people up must not be one of the people who count. Undoing is open to all but viewers.
MAY: MappingProxyType[Role, frozenset[Act]] = MappingProxyType(
    {
        Role.VIEWER: _READERS,
        Role.OPERATOR: _MAKERS,
        Role.APPROVER: _UNDOERS | {Act.ACCEPT_SUITE, Act.APPROVE, Act.REQUEST_CHANGES, Act.REJECT},
        Role.ADMIN: _MAKERS | {Act.MANAGE_PEOPLE, Act.ADD_KEY},
    }
)


def roles_that(act: Act) -> frozenset[str]:
    """Every role that may do `act`."""
    return frozenset(role.value for role in Role if act in MAY[role])


def allows(role: str, act: Act) -> bool:
    """Whether the table says that a person with `role` may do `act`."""
    return role in MAY and act in MAY[Role(role)]


def require(role: str, act: Act) -> None:
    """Raise unless a person with `role` may do `act`.

    Raises:
        ForbiddenError: the table does not say so, or there is no such role.
    """
    if not allows(role, act):
        able = ", ".join(r for r in Role if act in MAY[r])
        raise ForbiddenError(
            f"{str(role)!r} may not do {act}", next_step=f"ask somebody who is: {able}"
        )


def require_in_scope(acts: Collection[str] | None, act: Act) -> None:
    """Raise unless a token limited to `acts` covers `act`. None is no token, so no limit.

    Raises:
        ForbiddenError: it does not.
    """
    if acts is not None and act not in acts:
        raise ForbiddenError(
            f"this token may not do {act}, only: {', '.join(sorted(acts)) or 'nothing'}",
            next_step="make a token with that act, or sign in with your passphrase",
        )


def require_signed(act: Act, *, fresh: bool) -> None:
    """Raise unless what needs a signature has one: the passphrase, given with this request.

    Raises:
        SignatureError: a session or a token alone stands behind it.
    """
    if act in SIGNATURES and not fresh:
        raise SignatureError(
            f"{act} is a signature: it needs your passphrase, not a session or a token",
            next_step="give your passphrase with the request",
        )
