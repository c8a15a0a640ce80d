"""Which change of a suite takes two people."""

import pytest

from appliance.core.errors import ConflictError, ForbiddenError, RefusedError
from policies.suites import (
    ProposalState,
    needs_approver,
    require_accepter,
    require_alone,
    require_open,
)


@pytest.mark.parametrize(
    ("in_force", "needs"),
    [
        (None, False),
        ("target", False),
        ("canary", False),
        ("protected", True),
        ("", True),
        ("Target", True),
        ("something new", True),
    ],
)
def test_a_protected_suite_in_force_takes_an_approver(in_force: str | None, needs: bool) -> None:
    assert needs_approver(in_force) is needs
    if needs:
        with pytest.raises(RefusedError, match="takes an approver") as refusal:
            require_alone(in_force, name="sums")
        assert "espalier law set suite FILE --name 'sums'" in refusal.value.next_step
    else:
        require_alone(in_force, name="sums")


def test_nobody_accepts_their_own_proposal() -> None:
    require_accepter(proposer="olga", accepter="bela")
    with pytest.raises(ForbiddenError, match="nobody accepts their own"):
        require_accepter(proposer="bela", accepter="bela")


@pytest.mark.parametrize("state", [*ProposalState, "unheard of"])
def test_only_what_is_open_is_decided(state: str) -> None:
    if state == "open":
        require_open(state, number=7)
    else:
        with pytest.raises(ConflictError, match=f"proposal 7 is {state}") as refusal:
            require_open(state, number=7)
        assert refusal.value.next_step
