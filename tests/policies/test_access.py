"""Who may do what."""

import pytest

from appliance.core.errors import ForbiddenError
from policies.access import MAY, Act, Role, require


@pytest.mark.parametrize(
    ("role", "act"),
    [
        ("viewer", Act.START_ROUND),
        ("viewer", Act.KILL),
        ("operator", Act.APPROVE),
        ("operator", Act.MANAGE_PEOPLE),
        ("approver", Act.START_ROUND),
        ("approver", Act.CHANGE_LAW),
        ("admin", Act.APPROVE),
        ("Approver", Act.APPROVE),
        ("", Act.VIEW),
        ("root", Act.VIEW),
    ],
)
def test_what_is_not_in_the_table_is_forbidden(role: str, act: Act) -> None:
    with pytest.raises(ForbiddenError, match=f"may not do {act}"):
        require(role, act)


@pytest.mark.parametrize(("role", "act"), [(r, a) for r in Role for a in sorted(MAY[r])])
def test_what_is_in_the_table_is_allowed(role: Role, act: Act) -> None:
    require(role.value, act)


def test_whoever_can_sign_can_neither_start_a_round_nor_make_people_up() -> None:
    for role in Role:
        if Act.APPROVE in MAY[role]:
            made_up = {Act.MANAGE_PEOPLE, Act.ADD_KEY}
            assert not MAY[role] & {Act.START_ROUND, Act.REVISE_ROUND, Act.CHANGE_LAW, *made_up}


def test_every_act_can_be_done_by_somebody() -> None:
    assert set().union(*MAY.values()) == set(Act)


def test_the_error_says_whom_to_ask() -> None:
    with pytest.raises(ForbiddenError) as caught:
        require("operator", Act.APPROVE)
    assert caught.value.next_step == "ask somebody who is: approver"
