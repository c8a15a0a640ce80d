"""A test kept is a change of the law, and its keeper an author of it."""

import json
import threading

import pytest
import sqlalchemy as sa

from appliance.control import law
from appliance.control.acting import law as law_acts
from appliance.control.acting import suites
from appliance.control.acting.suites import Kept
from appliance.control.reading import suite_history
from appliance.control.reading import suites as reading
from appliance.control.steps import Ground
from appliance.core import audit
from appliance.core.errors import EspalierError, ForbiddenError, RecordError, UsageError
from appliance.core.tables import law as law_table
from appliance.core.tables import rounds
from tests.control.keeping import BELA, CARL, EXACT, OLGA, USER, ask, ids, person, text_of


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


def test_the_same_test_twice_is_one(ground: Ground, unchecked: None) -> None:
    first = suites.keep(ground, OLGA, ask())
    suites.keep(ground, OLGA, ask("2 + 2?"))
    again = suites.keep(ground, BELA, ask())
    assert (again.item_id, again.added) == (first.item_id, False)
    assert len(ids(ground)) == 2
    assert len(suite_history.history(ground, OLGA, "sums")) == 2


def test_another_check_is_another_test(ground: Ground, unchecked: None) -> None:
    suites.keep(ground, OLGA, ask())
    suites.keep(ground, OLGA, ask(check={"kind": "exact", "expected": "2"}))
    assert len(set(ids(ground))) == 2


def test_tests_kept_at_the_same_moment_all_survive(ground: Ground, unchecked: None) -> None:
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
    ground: Ground, unchecked: None
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


def test_a_viewer_keeps_nothing(ground: Ground, unchecked: None) -> None:
    viewer = person("vera", "viewer")
    with pytest.raises(ForbiddenError):
        suites.keep(ground, viewer, ask())
    with pytest.raises(ForbiddenError):
        suites.change(ground, viewer, "sums", text_of("target", 1))
    with pytest.raises(ForbiddenError):
        suites.repeal(ground, viewer, "sums")


def test_a_test_cannot_stand_beside_likelihoods(ground: Ground, unchecked: None) -> None:
    scored = {"item_id": "1", "family": "f", "messages": [USER],
              "check": {"kind": "likelihood", "answer": "x"}}  # fmt: skip
    head = json.dumps({"suite": "sums", "kind": "target"})
    suites.change(ground, OLGA, "sums", f"{head}\n{json.dumps(scored)}\n")
    with pytest.raises(RecordError, match="likelihood"):
        suites.keep(ground, OLGA, ask())


def test_the_real_check_reads_what_is_set_and_accepted(ground: Ground) -> None:
    bad = text_of("target", 1).replace('"exact"', '"inexact"')
    with pytest.raises(RecordError, match="inexact"):
        suites.change(ground, OLGA, "sums", bad)
    suites.change(ground, OLGA, "sums", text_of("target", 1))
    with pytest.raises(RecordError, match="in force as article 'sums'"):
        suites.change(ground, OLGA, "twin", text_of("target", 1))
