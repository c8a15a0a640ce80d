"""A change of a protected suite takes two people: one proposes it, an approver accepts it."""

import threading

import msgspec
import pytest
import sqlalchemy as sa

from appliance.control import law
from appliance.control.acting import law as law_acts
from appliance.control.acting import proposals as deciding
from appliance.control.acting import suites
from appliance.control.acting.proposals import Proposed
from appliance.control.identity import Person
from appliance.control.reading import suite_history
from appliance.control.reading import suites as reading
from appliance.control.steps import Ground
from appliance.core import audit
from appliance.core.errors import (
    ConflictError,
    EspalierError,
    ForbiddenError,
    NotFoundError,
    RecordError,
    RefusedError,
    SignatureError,
)
from appliance.core.tables import users
from tests.control.keeping import BELA, CARL, OLGA, ask, ids, in_force, person, text_of


@pytest.fixture
def staff(ground: Ground) -> None:
    rest = {"passphrase_hash": "", "created_at": 0.0}
    rows = [
        {"name": one.name, "role": one.role, "label": one.label, **rest}
        for one in (OLGA, BELA, CARL)
    ]
    with ground.database.write() as connection:
        connection.execute(sa.insert(users), rows)


@pytest.fixture
def protected(ground: Ground, staff: None, unchecked: None) -> law.Entry:
    entry = law_acts.set_article(
        ground, OLGA, "suite", "sums", law_acts.Text(text=text_of("protected", 1, 2))
    )
    assert isinstance(entry, law.Entry), "a new protected suite only adds demands"
    return entry


CHANGES = {
    "thinner": text_of("protected", 1),
    "another kind": text_of("target", 1, 2),
    "one more": text_of("protected", 1, 2, 3),
    "repealed": None,
}


def propose(ground: Ground, change: str | None, who: Person = OLGA) -> Proposed:
    if change is None:
        made = law_acts.repeal_article(ground, who, "suite", "sums")
    else:
        made = law_acts.set_article(ground, who, "suite", "sums", law_acts.Text(text=change))
    assert isinstance(made, Proposed)
    return made


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_a_protected_suite_waits_for_an_approver(
    ground: Ground, protected: law.Entry, name: str
) -> None:
    made = propose(ground, CHANGES[name])
    assert made.next_step.endswith(f"espalier law accept {made.proposed}")
    assert in_force(ground) == protected, "nothing has changed yet"
    assert reading.one(ground, OLGA, "sums").open_proposals == [made.proposed]
    entry = deciding.accept(ground, BELA, made.proposed)
    assert (entry.actor, entry.accepted_by, entry.object) == ("olga", "bela", made.object)
    assert in_force(ground) == (None if CHANGES[name] is None else entry)
    assert law.in_force_and_authors(ground.database)[1] == {"olga"}
    newest = suite_history.history(ground, OLGA, "sums")[0]
    assert (newest.actor, newest.accepted_by) == ("olga", "bela")
    found = suite_history.proposal(ground, OLGA, made.proposed)
    assert (found.state, found.decided_by) == ("accepted", "bela")
    with ground.database.read() as connection:
        audit.verify(connection)
        acts = [(e.actor, e.act) for e in audit.entries(connection)]
    assert acts[-2:] == [("olga", "suite.propose"), ("bela", "suite.accept")]


def test_no_other_door_changes_a_protected_suite(ground: Ground, protected: law.Entry) -> None:
    """Not the function that writes the law, whoever calls it."""
    with pytest.raises(RefusedError, match="takes an approver"):
        law.change(
            ground.database, ground.store, kind="suite", name="sums",
            text=text_of("protected", 1).encode(), actor="olga", at=1.0,
        )  # fmt: skip
    with pytest.raises(RefusedError, match="takes an approver"):
        law.repeal(ground.database, ground.store, kind="suite", name="sums", actor="olga", at=1.0)
    assert in_force(ground) == protected


@pytest.mark.parametrize(
    ("who", "error"),
    [
        (person("olga", "approver", fresh=True), ForbiddenError),
        (person("piet", "operator", fresh=True), ForbiddenError),
        (person("ada", "admin", fresh=True), ForbiddenError),
        (person("vera", "viewer", fresh=True), ForbiddenError),
        (person("bela", "approver"), SignatureError),
    ],
)
def test_who_may_not_accept(
    ground: Ground, protected: law.Entry, who: Person, error: type[EspalierError]
) -> None:
    made = propose(ground, CHANGES["thinner"])
    with pytest.raises(error):
        deciding.accept(ground, who, made.proposed)
    assert in_force(ground) == protected
    assert suite_history.proposal(ground, OLGA, made.proposed).state == "open"


def test_nobody_accepts_what_is_decided_or_not_there(ground: Ground, protected: law.Entry) -> None:
    made = propose(ground, CHANGES["thinner"])
    deciding.decline(ground, BELA, made.proposed, reason="too thin")
    for decide in (deciding.accept, deciding.decline):
        with pytest.raises(ConflictError, match="declined"):
            decide(ground, CARL, made.proposed)
        with pytest.raises(NotFoundError):
            decide(ground, CARL, 99)
    assert in_force(ground) == protected
    assert suite_history.open_proposals(ground, OLGA) == []


def test_two_approvers_at_once_accept_once(ground: Ground, protected: law.Entry) -> None:
    made = propose(ground, CHANGES["thinner"])
    start, refused = threading.Barrier(2), []

    def accept(who: Person) -> None:
        start.wait()
        try:
            deciding.accept(ground, who, made.proposed)
        except ConflictError as error:
            refused.append(error.message)

    threads = [threading.Thread(target=accept, args=(who,)) for who in (BELA, CARL)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused == [f"proposal {made.proposed} is accepted: there is nothing to decide any more"]
    assert len(suite_history.history(ground, OLGA, "sums")) == 2


def test_its_proposer_takes_a_proposal_back(ground: Ground, protected: law.Entry) -> None:
    made = propose(ground, CHANGES["thinner"])
    with pytest.raises(ForbiddenError):
        deciding.decline(ground, person("piet"), made.proposed)
    deciding.decline(ground, OLGA, made.proposed)
    assert suite_history.proposal(ground, OLGA, made.proposed).state == "declined"


def test_what_was_made_from_an_older_version_is_overtaken(
    ground: Ground, protected: law.Entry
) -> None:
    first = propose(ground, CHANGES["one more"])
    second = propose(ground, CHANGES["thinner"], person("piet"))
    deciding.accept(ground, BELA, first.proposed)
    assert suite_history.proposal(ground, OLGA, second.proposed).state == "overtaken"
    with pytest.raises(ConflictError, match="overtaken"):
        deciding.accept(ground, BELA, second.proposed)
    assert ids(ground) == ["1", "2", "3"]


def test_a_version_that_changed_unseen_overtakes_too(ground: Ground, protected: law.Entry) -> None:
    """Even where nobody marked the proposal: what it replaces must be what is in force."""
    made = propose(ground, CHANGES["thinner"])
    other = ground.store.put(text_of("protected", 7).encode())
    with ground.database.write() as connection:
        law.enact(connection, msgspec.structs.replace(protected, object=other))
    with pytest.raises(ConflictError, match="overtaken: suite sums was changed since"):
        deciding.accept(ground, BELA, made.proposed)
    assert suite_history.proposal(ground, OLGA, made.proposed).state == "overtaken"
    assert ids(ground) == ["7"]


def test_the_same_proposal_twice_is_one(ground: Ground, protected: law.Entry) -> None:
    assert propose(ground, CHANGES["thinner"]) == propose(ground, CHANGES["thinner"])
    assert len(suite_history.open_proposals(ground, OLGA)) == 1
    with pytest.raises(ConflictError, match="says the same"):
        suites.change(ground, person("mallory"), "sums", text_of("protected", 1, 2))


def test_tests_kept_in_a_protected_suite_become_one_proposal(
    ground: Ground, protected: law.Entry
) -> None:
    first = suites.keep(ground, CARL, ask("1?"))
    second = suites.keep(ground, CARL, ask("2?"))
    again = suites.keep(ground, CARL, ask("1?"))
    assert (again.added, again.proposed) == (False, second.proposed)
    assert in_force(ground) == protected
    assert [p.number for p in suite_history.open_proposals(ground, OLGA)] == [second.proposed]
    with pytest.raises(ForbiddenError, match="nobody accepts their own"):
        deciding.accept(ground, CARL, second.proposed or 0)
    deciding.accept(ground, BELA, second.proposed or 0)
    assert ids(ground) == ["1", "2", first.item_id, second.item_id]
    assert law.in_force_and_authors(ground.database)[1] >= {"carl"}


def test_a_suite_that_is_unsound_by_now_is_not_accepted(
    ground: Ground, protected: law.Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = propose(ground, CHANGES["thinner"])

    def refuse(*_: object) -> None:
        raise RecordError("not sound")

    monkeypatch.setattr(deciding, "require_sound_suite", refuse)
    with pytest.raises(RecordError, match="not sound"):
        deciding.accept(ground, BELA, made.proposed)
    assert in_force(ground) == protected
