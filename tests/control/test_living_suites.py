"""Living suites: a test kept is a change of the law, and a protected suite takes two people."""

import json
import threading
from collections.abc import Iterator

import msgspec
import pytest
import sqlalchemy as sa

from appliance.control import law
from appliance.control.acting import law as law_acts
from appliance.control.acting import proposals as deciding
from appliance.control.acting import suites
from appliance.control.acting.proposals import Proposed
from appliance.control.acting.suites import Keep, Kept
from appliance.control.identity import Person
from appliance.control.reading import suite_history
from appliance.control.reading import suites as reading
from appliance.control.steps import Ground
from appliance.core import audit
from appliance.core.database import Database
from appliance.core.errors import (
    ConflictError,
    EspalierError,
    ForbiddenError,
    NotFoundError,
    RecordError,
    RefusedError,
    SignatureError,
    UsageError,
)
from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.settings import Settings
from appliance.core.tables import law as law_table
from appliance.core.tables import rounds, users

USER = {"role": "user", "content": "6 * 7?"}
EXACT = {"kind": "exact", "expected": "42"}


def person(name: str, role: str = "operator", *, fresh: bool = False, label: str = "internal"):
    return Person(name=name, role=role, label=label, fresh=fresh)


OLGA = person("olga")
BELA = person("bela", "approver", fresh=True)
CARL = person("carl", "approver", fresh=True)


_LONG_HERE = {"passphrase_hash": "", "created_at": 0.0}


@pytest.fixture
def ground(home: Home, database: Database, store: ObjectStore) -> Ground:
    staff = [
        {"name": one.name, "role": one.role, "label": one.label, **_LONG_HERE}
        for one in (OLGA, BELA, CARL)
    ]
    with database.write() as connection:
        connection.execute(sa.insert(users), staff)
    return Ground(home, Settings(), database, store)


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Without the program that reads a suite as evaluation does; which suites it was asked."""
    asked: list[str] = []
    for module in (suites, deciding):
        monkeypatch.setattr(
            module, "require_sound_suite", lambda ground, name, text: asked.append(name)
        )
    return asked


def item(number: int) -> str:
    fields = {"item_id": str(number), "family": "f", "messages": [USER], "check": EXACT}
    return json.dumps(fields)


def text_of(kind: str, *numbers: int, suite: str = "sums") -> str:
    return "\n".join([json.dumps({"suite": suite, "kind": kind}), *map(item, numbers), ""])


def ask(content: str = "1 + 1?", suite: str = "sums", **change: object) -> Keep:
    message = {"role": "user", "content": content}
    return msgspec.convert({"suite": suite, "messages": [message], "check": EXACT, **change}, Keep)


def ids(ground: Ground, name: str = "sums") -> list[str]:
    return [one.item_id for one in reading.items(ground, OLGA, name)]


def test_a_kept_test_makes_a_suite_and_its_keeper_its_owner_and_author(ground: Ground) -> None:
    kept = suites.keep(ground, BELA, ask())
    assert kept.added
    (line,) = reading.in_force(ground, OLGA)
    assert (line.name, line.suite, line.kind, line.num_items) == ("sums", "sums", "living", 1)
    assert (line.owner, line.actor, line.object) == ("bela", "bela", kept.object)
    (shown,) = reading.items(ground, OLGA, "sums")
    assert (shown.messages, shown.check) == (({"role": "user", "content": "1 + 1?"},), EXACT)
    assert reading.item(ground, OLGA, "sums", kept.item_id) == shown
    assert law.in_force_and_authors(ground.database)[1] == {"bela"}
    with ground.database.read() as connection:
        (entry,) = audit.entries(connection)
    assert (entry.actor, entry.act, entry.subject) == ("bela", "law.change", "suite/sums")
    assert entry.detail["kept"] == kept.item_id


def test_the_same_test_twice_is_one(ground: Ground, unchecked: list[str]) -> None:
    first = suites.keep(ground, OLGA, ask())
    suites.keep(ground, OLGA, ask("2 + 2?"))
    again = suites.keep(ground, BELA, ask())
    assert (again.item_id, again.added) == (first.item_id, False)
    assert len(ids(ground)) == 2
    assert len(suite_history.history(ground, OLGA, "sums")) == 2


def test_another_check_is_another_test(ground: Ground, unchecked: list[str]) -> None:
    suites.keep(ground, OLGA, ask())
    suites.keep(ground, OLGA, ask(check={"kind": "exact", "expected": "2"}))
    assert len(set(ids(ground))) == 2


def test_tests_kept_at_the_same_moment_all_survive(ground: Ground, unchecked: list[str]) -> None:
    start = threading.Barrier(8)
    kept: list[Kept] = []

    def keep(number: int) -> None:
        start.wait()
        kept.append(suites.keep(ground, person(f"p{number}"), ask(f"{number}?")))

    threads = [threading.Thread(target=keep, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ids(ground)) == sorted(one.item_id for one in kept)
    assert len(kept) == 8
    changes = suite_history.history(ground, OLGA, "sums")
    assert [(c.added, c.removed, c.changed) for c in changes] == [(1, 0, 0)] * 8
    assert {c.actor for c in changes} == {f"p{n}" for n in range(8)}
    assert law.in_force_and_authors(ground.database)[1] == {f"p{n}" for n in range(8)}


def test_all_who_kept_a_test_since_the_last_judged_round_are_authors(
    ground: Ground, unchecked: list[str]
) -> None:
    suites.keep(ground, CARL, ask("0?"))
    judged(ground)
    suites.keep(ground, BELA, ask("1?"))
    suites.keep(ground, OLGA, ask("2?"))
    assert law.in_force_and_authors(ground.database)[1] == {"bela", "olga"}
    judged(ground)
    assert law.in_force_and_authors(ground.database)[1] == {"olga"}, "the last word stays hers"
    law_acts.repeal_article(ground, OLGA, "suite", "sums")
    suites.keep(ground, BELA, ask("3?", suite="other"))
    assert law.in_force_and_authors(ground.database)[1] == {"bela", "olga"}


def judged(ground: Ground) -> None:
    with ground.database.write() as connection:
        at = connection.scalar(sa.select(sa.func.max(law_table.c.at)))
        connection.execute(
            sa.insert(rounds).values(
                state="refused", reason="", authors="[]", order="{}", scorecard="sha256:x",
                lease_until=0.0, fencing=0, created_at=at, changed_at=at,
            )
        )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"check": {"kind": "exact", "expected": " "}}, UsageError, "empty"),
        ({"check": {"kind": "program", "program": "def (", "cases": [1], "expected": [1]}},
         RecordError, "not Python"),
        ({"check": {"kind": "program", "program": "x = 1", "cases": [], "expected": []}},
         RecordError, "at least one case"),
        ({"check": {"kind": "magic"}}, RecordError, "magic"),
        ({"check": None}, RecordError, "check"),
        ({"suite": "../up"}, UsageError, "name"),
        ({"suite": ""}, UsageError, "name"),
        ({"messages": [{"role": "king", "content": "x"}]}, RecordError, "role"),
        ({"messages": [USER, {"role": "assistant", "content": "x"}]}, RecordError, "prompt ends"),
        ({"check": {"kind": "exact", "expected": "x" * (1 << 20)}}, RecordError, "at most 1 MiB"),
        ({"check": {"kind": "exact", "expected": "\ud800"}}, EspalierError, "canonical"),
    ],
)  # fmt: skip
def test_what_is_no_test_changes_nothing(
    ground: Ground, change: dict[str, object], error: type[EspalierError], says: str
) -> None:
    with pytest.raises(error, match=says):
        suites.keep(ground, OLGA, ask(**change))
    assert reading.in_force(ground, OLGA) == []


def test_a_viewer_keeps_nothing(ground: Ground, unchecked: list[str]) -> None:
    viewer = person("vera", "viewer")
    with pytest.raises(ForbiddenError):
        suites.keep(ground, viewer, ask())
    with pytest.raises(ForbiddenError):
        suites.change(ground, viewer, "sums", text_of("target", 1))
    with pytest.raises(ForbiddenError):
        suites.repeal(ground, viewer, "sums")


def test_a_test_cannot_stand_beside_likelihoods(ground: Ground, unchecked: list[str]) -> None:
    scored = {"item_id": "1", "family": "f", "messages": [USER],
              "check": {"kind": "likelihood", "answer": "x"}}  # fmt: skip
    head = json.dumps({"suite": "sums", "kind": "target"})
    suites.change(ground, OLGA, "sums", f"{head}\n{json.dumps(scored)}\n")
    with pytest.raises(RecordError, match="likelihood"):
        suites.keep(ground, OLGA, ask())


@pytest.fixture
def protected(ground: Ground, unchecked: list[str]) -> law.Entry:
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


def in_force(ground: Ground, name: str = "sums") -> law.Entry | None:
    with ground.database.read() as connection:
        return law.in_force_now(connection, "suite", name)


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


def test_the_real_check_reads_what_is_set_and_accepted(ground: Ground) -> None:
    bad = text_of("target", 1).replace('"exact"', '"inexact"')
    with pytest.raises(RecordError, match="inexact"):
        suites.change(ground, OLGA, "sums", bad)
    suites.change(ground, OLGA, "sums", text_of("target", 1))
    with pytest.raises(RecordError, match="in force as article 'sums'"):
        suites.change(ground, OLGA, "twin", text_of("target", 1))


def test_a_difference_names_what_came_went_and_changed(
    ground: Ground, unchecked: list[str]
) -> None:
    first = suites.change(ground, OLGA, "sums", text_of("target", 1, 2, 3))
    changed = text_of("canary", 2, 3, 4).replace(
        '"item_id": "3"', '"language": "de", "item_id": "3"'
    )
    second = suites.change(ground, OLGA, "sums", changed)
    assert isinstance(first, law.Entry)
    assert isinstance(second, law.Entry)
    found = suite_history.difference(ground, OLGA, "sums", first.object, second.object)
    assert [i.item_id for i in found.added] == ["4"]
    assert [i.item_id for i in found.removed] == ["1"]
    assert [(a.language, b.language) for a, b in found.changed] == [("", "de")]
    assert (found.kind_before, found.kind_after) == ("target", "canary")
    (newest, oldest) = suite_history.history(ground, OLGA, "sums")
    assert (newest.added, newest.removed, newest.changed) == (1, 1, 1)
    assert (oldest.added, oldest.before) == (3, "")
    whole = suite_history.difference(ground, OLGA, "sums", "", first.object)
    assert whole.num_added == 3


def test_an_object_that_is_no_version_of_it_is_not_shown(
    ground: Ground, unchecked: list[str]
) -> None:
    entry = suites.change(ground, OLGA, "sums", text_of("target", 1))
    secret = ground.store.put(text_of("target", 9).encode())
    with pytest.raises(NotFoundError, match="no version"):
        suite_history.difference(ground, OLGA, "sums", "", secret)
    with pytest.raises(NotFoundError, match="no version"):
        suite_history.difference(ground, OLGA, "other", "", entry.object)


def test_items_have_the_endpoints_label(ground: Ground, unchecked: list[str]) -> None:
    entry = suites.change(ground, OLGA, "sums", text_of("target", 1))
    public = person("paul", label="public")
    assert reading.one(ground, public, "sums").num_items == 1
    for read in (
        lambda: reading.items(ground, public, "sums"),
        lambda: reading.item(ground, public, "sums", "1"),
        lambda: suite_history.difference(ground, public, "sums", "", entry.object),
    ):
        with pytest.raises(ForbiddenError, match="label"):
            read()


def test_pages_of_items_and_of_history(ground: Ground, unchecked: list[str]) -> None:
    suites.change(ground, OLGA, "sums", text_of("target", *range(120)))
    pages = [reading.items(ground, OLGA, "sums", after=after) for after in (0, 50, 100, 150)]
    assert [len(page) for page in pages] == [50, 50, 20, 0]
    assert [p.place for p in pages[1][:2]] == [51, 52]
    for number in range(60):
        suites.change(ground, OLGA, "sums", text_of("target", *range(121 + number)))
    first = suite_history.history(ground, OLGA, "sums")
    rest = suite_history.history(ground, OLGA, "sums", before=first[-1].sequence)
    assert (len(first), len(rest)) == (50, 11)
    assert first[-1].before == rest[0].object
    assert first[-1].added == 1, "counted against the version on the next page"


def test_the_owner_is_whoever_began_it_since_it_was_last_repealed(
    ground: Ground, unchecked: list[str]
) -> None:
    suites.change(ground, person("ann"), "sums", text_of("target", 1))
    suites.change(ground, person("ben"), "sums", text_of("target", 1, 2))
    assert reading.one(ground, OLGA, "sums").owner == "ann"
    suites.repeal(ground, OLGA, "sums")
    assert reading.in_force(ground, OLGA) == []
    suites.change(ground, person("cid"), "sums", text_of("target", 1))
    suites.change(ground, person("dee"), "sums", text_of("target", 2))
    assert reading.one(ground, OLGA, "sums").owner == "cid"
