"""The quorum: different people, not the author, this digest, in time, nobody against."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.core.decisions import Approval, Candidate
from appliance.core.digests import Digest, digest_bytes
from appliance.core.errors import NotApprovedError, PolicyError
from policies.quorum import require_quorum

ADAPTER = digest_bytes(b"adapter")
OTHER = digest_bytes(b"another adapter")
SCORECARD = digest_bytes(b"scorecard")
OTHER_FIGURES = digest_bytes(b"judged again")
ORDER, OTHER_LAW = digest_bytes(b"order"), digest_bytes(b"other gates")
SIGNERS = dict.fromkeys(("ann", "ben", "cyd", "olga", "otto"), 0.0)
CANDIDATE = Candidate(adapter=ADAPTER, scorecard=SCORECARD, order=ORDER)
NOW = 1_000_000.0
DAY = 86_400.0


def approval(
    approver: str,
    *,
    adapter: Digest = ADAPTER,
    scorecard: Digest = SCORECARD,
    order: Digest | None = ORDER,
    decision: str = "approve",
    age_s: float = 60.0,
) -> Approval:
    return Approval(
        round=1,
        adapter=adapter,
        scorecard=scorecard,
        order=order or msgspec.UNSET,
        approver=approver,
        decision=decision,  # type: ignore[arg-type]
        comment="",
        at=NOW - age_s,
    )


def require(*approvals: Approval, needed: int = 2, signers: dict[str, float] = SIGNERS) -> None:
    require_quorum(
        approvals,
        candidate=CANDIDATE,
        authors={"olga"},
        signers=signers,
        needed=needed,
        now=NOW,
        valid_s=DAY,
    )


def test_two_different_people_are_enough() -> None:
    require(approval("ann"), approval("ben"))


def test_one_person_twice_counts_once() -> None:
    with pytest.raises(NotApprovedError, match="1 of 2 approvals"):
        require(approval("ann", age_s=90.0), approval("ann"))


def test_the_author_does_not_count() -> None:
    with pytest.raises(NotApprovedError, match=r"1 of 2 approvals.*1 by the round's author"):
        require(approval("ann"), approval("olga"))


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (approval("ben", adapter=OTHER), "1 of 2 approvals"),
        (approval("ben", age_s=DAY + 1), "1 expired"),
        (approval("ben", age_s=-5.0), "1 of 2 approvals"),
        (approval("cyd", decision="reject"), "was rejected by cyd"),
        (approval("olga", decision="reject"), "was rejected by olga"),
        (approval("ann", decision="reject", age_s=DAY * 9), "was rejected by ann"),
    ],
    ids=["other digest", "expired", "from the future", "reject", "author rejects", "old reject"],
)
def test_what_does_not_add_up(extra: Approval, says: str) -> None:
    with pytest.raises(NotApprovedError, match=says):
        require(approval("ann"), extra)


def test_one_rejection_outweighs_a_full_quorum() -> None:
    with pytest.raises(NotApprovedError, match="rejected by cyd"):
        require(approval("ann"), approval("ben"), approval("cyd", decision="reject"))


def test_a_rejection_of_another_adapter_is_not_about_this_one() -> None:
    require(approval("ann"), approval("ben"), approval("cyd", adapter=OTHER, decision="reject"))


def test_an_approval_of_other_figures_is_dismissed() -> None:
    with pytest.raises(NotApprovedError, match="1 of 2 approvals"):
        require(approval("ann"), approval("ben", scorecard=OTHER_FIGURES))


@pytest.mark.parametrize("order", [OTHER_LAW, None], ids=["other gates", "before orders"])
def test_an_approval_under_another_law_is_dismissed(order: Digest | None) -> None:
    """The figures may be the same, and be judged by less."""
    with pytest.raises(NotApprovedError, match="1 of 2 approvals"):
        require(approval("ann"), approval("ben", order=order))


def test_a_rejection_stands_also_when_it_is_judged_again() -> None:
    no = approval("cyd", decision="reject", scorecard=OTHER_FIGURES)
    with pytest.raises(NotApprovedError, match="rejected by cyd"):
        require(no, approval("ann"), approval("ben"))


def test_an_approval_from_before_the_person_changed_does_not_count() -> None:
    changed = {**SIGNERS, "ben": NOW - 30.0}
    with pytest.raises(NotApprovedError, match="1 by people who do not sign, or changed since"):
        require(approval("ann"), approval("ben", age_s=31.0), signers=changed)
    require(approval("ann"), approval("ben", age_s=29.0), signers=changed)


def test_who_does_not_sign_does_not_count() -> None:
    with pytest.raises(NotApprovedError, match=r"1 of 2 approvals.*1 by people who do not sign"):
        require(approval("ann"), approval("lea"))
    with pytest.raises(NotApprovedError, match="rejected by lea"):
        require(approval("ann"), approval("ben"), approval("lea", decision="reject"))


def test_a_request_for_changes_holds_until_the_same_person_approves() -> None:
    wants = approval("cyd", decision="request_changes")
    with pytest.raises(NotApprovedError, match="changes were requested by cyd"):
        require(wants, approval("ann"), approval("ben"))
    require(wants, approval("ann"), approval("cyd"))
    with pytest.raises(NotApprovedError, match="changes were requested by cyd"):
        require(approval("cyd"), approval("ann"), approval("ben"), wants)


def test_a_request_for_changes_of_other_figures_is_dismissed() -> None:
    wants = approval("cyd", decision="request_changes", scorecard=OTHER_FIGURES)
    require(wants, approval("ann"), approval("ben"))


@pytest.mark.parametrize("needed", [-1, 0, 1])
def test_a_quorum_below_two_is_an_error_not_a_setting(needed: int) -> None:
    with pytest.raises(PolicyError, match=f"at least 2, got {needed}"):
        require(approval("ann"), approval("ben"), needed=needed)


def test_a_round_without_an_author_is_an_error() -> None:
    with pytest.raises(PolicyError, match="name its author"):
        require_quorum(
            [approval("ann")],
            candidate=CANDIDATE,
            authors=set(),
            signers=SIGNERS,
            needed=2,
            now=NOW,
            valid_s=DAY,
        )


def test_the_error_explains_itself() -> None:
    with pytest.raises(NotApprovedError) as caught:
        require()
    assert caught.value.next_step.startswith("another signed-in person")


PEOPLE = st.sampled_from(["ann", "ben", "cyd", "olga", "otto"])


@given(
    cast=st.lists(
        st.builds(
            approval,
            PEOPLE,
            adapter=st.sampled_from([ADAPTER, OTHER]),
            scorecard=st.sampled_from([SCORECARD, SCORECARD, OTHER_FIGURES]),
            order=st.sampled_from([ORDER, ORDER, OTHER_LAW]),
            decision=st.sampled_from(
                ["approve", "approve", "approve", "request_changes", "reject"]
            ),
            age_s=st.sampled_from([0.0, DAY, DAY + 1, -1.0]),
        ),
        max_size=8,
    ),
    needed=st.integers(2, 4),
)
def test_whatever_was_cast_the_rule_is_the_sentence(cast: list[Approval], needed: int) -> None:
    """Against the rule written a second time, walking backwards from the last decision."""
    heard: set[str] = set()
    yes, held = 0, False
    for one in reversed(cast):
        about = (one.adapter, one.scorecard, one.order)
        if about != (ADAPTER, SCORECARD, ORDER) or one.approver in heard:
            continue
        heard.add(one.approver)
        held = held or one.decision == "request_changes"
        others = one.approver in ("ann", "ben")  # olga and otto are authors, cyd signs no more
        yes += one.decision == "approve" and others and one.at in (NOW, NOW - DAY)
    rejected = any(a.decision == "reject" and a.adapter == ADAPTER for a in cast)
    lawful = yes >= needed and not held and not rejected
    try:
        require_quorum(
            cast,
            candidate=CANDIDATE,
            authors=("olga", "otto"),
            signers={"ann": 0.0, "ben": 0.0, "olga": 0.0, "otto": 0.0},
            needed=needed,
            now=NOW,
            valid_s=DAY,
        )
    except NotApprovedError:
        assert not lawful
    else:
        assert lawful
