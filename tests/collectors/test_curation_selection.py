"""Which trajectories a dataset looks at: new ones, labels, duplicates, and what is held out."""

import pytest
import sqlalchemy as sa

from appliance.core.database import Database
from appliance.core.errors import UsageError
from appliance.core.records import Dataset, Target, decode
from appliance.core.tables import rounds
from tests.collectors.desk import Desk


def test_duplicates_and_caps(desk: Desk) -> None:
    for number, session in enumerate(["a", "b", "c", "d"]):
        desk.gold(session, [5 + number // 2, 2], session=session)
        desk.say(Target(session=session), "ok")
    made, _ = desk.curate()
    assert (made.examples, made.excluded) == (2, {"duplicate": 2})
    made, _ = desk.curate('loss = "outcome_pg"')
    assert made.examples == 4, "each attempt is a sample of its own"
    made, _ = desk.curate(cap=1)
    assert (made.examples, made.excluded) == (1, {"duplicate": 2, "over_cap": 1})


def test_labels_above_the_limit_stay_out(desk: Desk) -> None:
    desk.gold("a", [5, 2], session="a", label="public")
    desk.gold("b", [6, 2], session="b", label="internal")
    for session in "ab":
        desk.say(Target(session=session), "ok")
    made, dataset = desk.curate()
    assert dataset.label == "internal"
    made, dataset = desk.curate(label="public")
    assert (dataset.label, made.excluded) == ("public", {"label": 1})


def test_new_means_in_no_other_rounds_dataset(desk: Desk) -> None:
    desk.gold("a", [5, 2], session="a")
    desk.say(Target(session="a"), "ok")
    first, _ = desk.curate(trajectories="new", round=1)
    assert first.examples == 1
    desk.gold("b", [6, 2], session="b")
    desk.say(Target(session="b"), "ok")
    second, _ = desk.curate(trajectories="new", round=2)
    assert (second.examples, second.trajectories) == (1, 1)
    # A step that was killed after sealing finds its dataset, whatever came since.
    assert desk.curate(trajectories="new", round=1)[0] == first
    assert desk.curate()[0].examples == 2


def test_what_a_person_curated_is_still_new_for_a_round(desk: Desk) -> None:
    desk.gold("a", [5, 2], session="a")
    desk.say(Target(session="a"), "ok")
    by_hand, _ = desk.curate()
    of_the_round, _ = desk.curate(trajectories="new", round=1)
    assert of_the_round == by_hand
    assert desk.curate(trajectories="new", round=2)[0].examples == 0
    assert desk.curate(trajectories="new", round=1)[0] == of_the_round


def test_what_a_failed_round_looked_at_is_still_new(desk: Desk) -> None:
    desk.gold("a", [5, 2], session="a")
    desk.say(Target(session="a"), "ok")
    failed, _ = desk.curate(trajectories="new", round=1)
    assert desk.curate(trajectories="new", round=2)[0].examples == 0
    database = Database.open(desk.home.database)
    row = {"round": 1, "state": "failed", "authors": "[]", "order": "{}"}
    with database.write() as connection:
        connection.execute(sa.insert(rounds).values(**row, created_at=0.0, changed_at=0.0))
    database.close()
    again, _ = desk.curate(trajectories="new", round=3)
    assert again == failed
    # The same dataset belongs to round 3 now, and counts as looked at.
    assert desk.curate(trajectories="new", round=4)[0].examples == 0


def test_held_out_tasks_never_train(desk: Desk) -> None:
    for number in range(40):
        session, task = f"s{number}", f"task-{number % 20}"
        desk.gold(session, [number + 3, number % 7 + 3, 2], session=session)
        desk.say(Target(session=session), "ok" if number % 5 else "failed", tags={"task": task})
    made, dataset = desk.curate(hold_out_share=0.4)
    assert made.held_out is not None
    aside = decode(desk.store.get(made.held_out), Dataset)
    train, test = ({e.task for e in d.examples} for d in (dataset, aside))
    assert train
    assert test
    assert not train & test
    assert {e.kind for e in aside.examples} == {"success"}
    assert made.held_out_examples == len(aside.examples)
    given = {trajectory for trajectory, _ in dataset.trajectories}
    named = [e.subject.partition("#")[0] for e in dataset.exclusions]
    assert len(set(named)) == len(named), "one reason for each that is left out"
    assert len(named) + made.examples == len(given)
    with pytest.raises(UsageError):
        desk.curate(hold_out_share=1.0)


def test_nothing_held_out_is_no_dataset(desk: Desk) -> None:
    desk.gold("a", [5, 2], session="a")
    desk.say(Target(session="a"), "failed", tags={"task": "t"})
    assert desk.curate(hold_out_share=0.999)[0].held_out is None


def test_what_is_held_out_may_be_longer_than_what_is_trained_on(desk: Desk) -> None:
    desk.gold("a", [5] * 60 + [2], session="s")
    desk.say(Target(session="s"), "ok")
    made, _ = desk.curate("max_tokens = 40", hold_out_share=0.999)
    assert (made.examples, made.held_out_examples, made.excluded) == (0, 1, {"held_out": 1})
