"""Signing for a candidate: what counts, what is refused, and what dismisses it."""

import threading
from collections.abc import Callable

import msgspec
import pytest
import sqlalchemy as sa

from appliance.control.acting.decisions import Decision, decide
from appliance.control.acting.law import Text, set_article
from appliance.control.acting.rounds import Why, cancel, revise
from appliance.control.identity import Person
from appliance.control.rounds import Rounds
from appliance.control.steps import Ground, approvals_of, await_approval, require_release
from appliance.core import audit
from appliance.core.database import Database
from appliance.core.digests import digest_bytes
from appliance.core.errors import (
    ConflictError,
    EspalierError,
    ForbiddenError,
    NotApprovedError,
    NotFoundError,
    RefusedError,
    SignatureError,
    UsageError,
)
from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.settings import Settings
from appliance.core.tables import users
from policies.lifecycle import State
from tests.control.reviewing import GATES, Asked, a_round, said

OTHER = digest_bytes(b"another")
STAFF = [
    ("bela", "approver", "secret/finance"),
    ("carl", "approver", "secret/finance"),
    ("paul", "approver", "public"),
    ("olga", "operator", "secret/finance"),
    ("otto", "operator", "secret/finance"),
]


@pytest.fixture
def ground(home: Home, database: Database, store: ObjectStore) -> Ground:
    rows = [
        {"name": name, "role": role, "label": label, "passphrase_hash": "", "created_at": 0.0}
        for name, role, label in STAFF
    ]
    with database.write() as connection:
        connection.execute(sa.insert(users), rows)
    return Ground(home, Settings(), database, store)


@pytest.fixture
def number(ground: Ground) -> int:
    asked = Asked("quality").add("1", said("b", "failed"), said("a"))
    return a_round(ground, [asked], authors=("olga",))


def person(name: str, role: str = "approver", label: str = "secret/finance") -> Person:
    return Person(name=name, role=role, label=label, fresh=True)


BELA, CARL, OLGA = person("bela"), person("carl"), person("olga", "operator")
APPROVE = Decision(decision="approve")


def test_two_people_are_enough_for_the_worker(ground: Ground, number: int) -> None:
    decide(ground, BELA, number, APPROVE)
    round_ = Rounds(ground.database).get(number)
    assert await_approval(ground, round_, lambda: None) is None
    decide(ground, CARL, number, APPROVE)
    following = await_approval(ground, round_, lambda: None)
    assert following is not None
    assert following.state is State.RELEASING


def test_it_is_in_the_audit_log_with_what_was_signed(ground: Ground, number: int) -> None:
    made = decide(ground, BELA, number, Decision(decision="approve", comment=" read it "))
    with ground.database.read() as connection:
        (entry,) = audit.newest(connection, act="round.approve")
    assert (entry.actor, entry.subject) == ("bela", str(number))
    assert entry.detail["adapter"] == made.adapter
    assert entry.detail["scorecard"] == made.scorecard
    assert entry.detail["comment"] == "read it"


REFUSED: dict[str, tuple[Person, Decision, type[EspalierError]]] = {
    "an operator": (person("otto", "operator"), APPROVE, ForbiddenError),
    "an admin": (person("ada", "admin"), APPROVE, ForbiddenError),
    "a viewer who says no": (
        person("vera", "viewer"),
        Decision(decision="reject", comment="no"),
        ForbiddenError,
    ),
    "a session alone": (msgspec.structs.replace(BELA, fresh=False), APPROVE, SignatureError),
    "a token": (
        msgspec.structs.replace(BELA, acts=frozenset({"view"})),
        APPROVE,
        ForbiddenError,
    ),
    "below the label": (person("paul", label="public"), APPROVE, ForbiddenError),
    "was somebody else just now": (person("olga"), APPROVE, ForbiddenError),
    "nobody any more": (person("dora"), APPROVE, ForbiddenError),
    "another adapter": (BELA, Decision(decision="approve", adapter=OTHER), ConflictError),
    "other figures": (BELA, Decision(decision="approve", scorecard=OTHER), ConflictError),
    "no without a word": (BELA, Decision(decision="reject", comment=" "), UsageError),
    "changes without a word": (BELA, Decision(decision="request_changes"), UsageError),
    "a novel": (BELA, Decision(decision="approve", comment="x" * 10_001), UsageError),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_leaves_no_trace(ground: Ground, number: int, case: str) -> None:
    who, ask, error = REFUSED[case]
    with pytest.raises(error):
        decide(ground, who, number, ask)
    assert approvals_of(ground.database, number) == []
    with ground.database.read() as connection:
        assert audit.newest(connection, act="round.") == []


def test_an_author_is_refused(ground: Ground) -> None:
    asked = Asked("quality").add("1", said("b", "failed"), said("a"))
    number = a_round(ground, [asked], authors=("bela", "olga"))
    with pytest.raises(ForbiddenError, match="nobody approves their own work"):
        decide(ground, BELA, number, APPROVE)
    decide(ground, BELA, number, Decision(decision="reject", comment="I was wrong"))


def test_there_must_be_a_round_that_waits(ground: Ground, number: int) -> None:
    with pytest.raises(NotFoundError):
        decide(ground, BELA, 99, APPROVE)
    cancel(ground, OLGA, number, Why(reason="not now"))
    with pytest.raises(ConflictError, match="cancelled, nothing waits"):
        decide(ground, BELA, number, APPROVE)


def test_a_double_click_is_one_decision(ground: Ground, number: int) -> None:
    decide(ground, BELA, number, APPROVE)
    with pytest.raises(ConflictError, match="already decided"):
        decide(ground, BELA, number, APPROVE)
    assert len(approvals_of(ground.database, number)) == 1


def test_many_clicks_at_once_are_one_decision_a_person(ground: Ground, number: int) -> None:
    """Four browsers of two people press at the same moment."""
    results: list[object] = []
    gate = threading.Barrier(8)

    def press(who: Person) -> None:
        gate.wait()
        try:
            results.append(decide(ground, who, number, APPROVE))
        except ConflictError as error:
            results.append(error)

    threads = [threading.Thread(target=press, args=(who,)) for who in (BELA, CARL) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(a.approver for a in approvals_of(ground.database, number)) == ["bela", "carl"]
    assert sum(isinstance(one, ConflictError) for one in results) == 6
    assert len(require_release(ground, Rounds(ground.database).get(number), at=now(ground))) == 2


def test_who_changes_their_mind_is_heard(ground: Ground, number: int) -> None:
    decide(ground, BELA, number, APPROVE)
    decide(ground, CARL, number, Decision(decision="request_changes", comment="item 1"))
    round_ = Rounds(ground.database).get(number)
    decide(ground, BELA, number, Decision(decision="request_changes", comment="item 1, yes"))
    with pytest.raises(NotApprovedError, match="requested by bela, carl"):
        require_release(ground, round_, at=now(ground))
    decide(ground, BELA, number, APPROVE)
    decide(ground, CARL, number, APPROVE)
    require_release(ground, round_, at=now(ground))


def change_gates(ground: Ground) -> None:
    with_name = GATES.replace(b"schema", b"# again\nschema", 1).decode()
    set_article(ground, OLGA, "gates", "gates", Text(text=with_name))


def have_law(ground: Ground) -> None:
    """A round can only be revised under a law that could judge it."""
    suite = (
        '{"suite": "quality", "kind": "target"}\n{"item_id": "1", "family": "f", "messages": '
        '[{"role": "user", "content": "q"}], "check": {"kind": "exact", "expected": "a"}}\n'
    )
    set_article(ground, OLGA, "suite", "quality", Text(text=suite))


def test_a_candidate_that_is_made_again_dismisses_what_was_signed(
    ground: Ground, number: int
) -> None:
    decide(ground, BELA, number, APPROVE)
    have_law(ground)
    change_gates(ground)
    before = Rounds(ground.database).get(number)
    after = revise(ground, person("otto", "operator"), number, Why(reason="new gates"))
    assert after.state is State.EVALUATING
    assert after.scorecard is None
    assert after.adapter == before.adapter
    assert {"olga", "otto"} <= set(after.authors)
    with pytest.raises(ConflictError):
        decide(ground, CARL, number, APPROVE)
    # The figures are the same; it is the law that judges them otherwise.
    again = Rounds(ground.database).advance(
        after, State.AWAITING_APPROVAL, actor="espalier", at=now(ground), scorecard=before.scorecard
    )
    # The browser of somebody who had opened the page before sends what it had shown.
    stale = Decision(
        decision="approve",
        adapter=before.adapter,
        scorecard=before.scorecard,
        order=before.order.digest,
    )
    with pytest.raises(ConflictError, match="judged again"):
        decide(ground, CARL, number, stale)
    decide(ground, CARL, number, APPROVE)
    with pytest.raises(NotApprovedError, match="1 of 2"):
        require_release(ground, again, at=now(ground))
    decide(ground, BELA, number, APPROVE)
    require_release(ground, again, at=now(ground))


def test_the_same_candidate_is_not_made_again(ground: Ground, number: int) -> None:
    have_law(ground)
    round_ = Rounds(ground.database).get(number)
    with ground.database.write() as connection:
        same = msgspec.structs.replace(round_.order, suites={"quality": _in_force(ground, "suite")})
        connection.exec_driver_sql(
            'UPDATE rounds SET "order" = ?', (msgspec.json.encode(same).decode(),)
        )
    with pytest.raises(ConflictError, match="has not changed"):
        revise(ground, OLGA, number, Why(reason="once more"))


def _in_force(ground: Ground, kind: str) -> str:
    from appliance.control import law

    return next(one.object for one in law.in_force(ground.database) if one.kind == kind)


ENDS: list[tuple[Callable[..., object], Person]] = [
    (cancel, person("vera", "viewer")),
    (revise, BELA),
    (revise, person("vera", "viewer")),
]


@pytest.mark.parametrize(("act", "who"), ENDS)
def test_not_everybody_ends_or_revises(
    ground: Ground, number: int, act: Callable[..., object], who: Person
) -> None:
    with pytest.raises(ForbiddenError):
        act(ground, who, number, Why(reason="because"))
    assert Rounds(ground.database).get(number).state is State.AWAITING_APPROVAL


@pytest.mark.parametrize("act", [cancel, revise])
def test_a_reason_is_needed(ground: Ground, number: int, act: Callable[..., object]) -> None:
    with pytest.raises(UsageError, match="say why"):
        act(ground, OLGA, number, Why(reason="  "))


def test_what_is_over_is_over(ground: Ground, number: int) -> None:
    have_law(ground)
    cancel(ground, OLGA, number, Why(reason="enough"))
    with pytest.raises(RefusedError):
        cancel(ground, OLGA, number, Why(reason="enough"))
    with pytest.raises(RefusedError):
        revise(ground, OLGA, number, Why(reason="once more"))


def test_a_worker_that_was_at_it_cannot_bring_a_cancelled_round_back(
    ground: Ground, number: int
) -> None:
    rounds = Rounds(ground.database)
    held = rounds.lease(number, owner="worker", at=now(ground))
    assert held is not None
    cancel(ground, OLGA, number, Why(reason="enough"))
    with pytest.raises(ConflictError):
        rounds.renew(held, at=now(ground))
    with pytest.raises(EspalierError):
        rounds.advance(held, State.RELEASING, actor="worker", at=now(ground))
    assert rounds.get(number).state is State.CANCELLED


def now(ground: Ground) -> float:
    """A moment within the approvals' life."""
    cast = [a.at for a in approvals_of(ground.database, 1)]
    return max(cast, default=1.0) + 1
