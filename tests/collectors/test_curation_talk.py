"""What people try out in the console is in the log like anything else, and never teaches."""

import pytest

from appliance.core.records import Target, Who
from policies.teaching import TALK, may_teach
from tests.collectors.desk import Desk

TALKING = Who(key_id="key-talk", team=TALK[0], project=TALK[1], agent="console")


def test_talk_is_left_out_even_with_an_outcome_and_a_correction(desk: Desk) -> None:
    desk.gold("a", [5, 2], session="a")
    desk.gold("b", [6, 2], session="b", key_id="key-talk", who=TALKING)
    for session in "ab":
        desk.say(Target(session=session), "ok", source="human")
    desk.say(Target(turn_id="b"), kind="correction", correction="x", actor="person:bela")
    made, dataset = desk.curate()
    assert [e.trajectory_id for e in dataset.examples] == [dataset.examples[0].trajectory_id]
    assert (made.examples, made.excluded, made.trajectories) == (1, {"talk": 1}, 2)
    assert desk.curate('loss = "outcome_pg"')[0].excluded == {"talk": 1}
    assert desk.curate(hold_out_share=0.999)[1].examples == ()


def test_a_correction_that_a_person_gives_an_agent_teaches(desk: Desk) -> None:
    desk.gold("a", [5, 2], session="a")
    desk.say(Target(turn_id="a"), kind="correction", correction="no", actor="person:bela")
    made, dataset = desk.curate()
    assert (made.kinds, made.excluded.get("talk")) == ({"correction": 1}, None)
    assert desk.trained(dataset.examples[0])


@pytest.mark.parametrize(
    ("team", "project", "teaches"),
    [
        ("console", "talk", False),
        ("console", "default", True),
        ("default", "talk", True),
        ("", "", True),
    ],
)
def test_only_the_consoles_own_talk_is_meant(team: str, project: str, teaches: bool) -> None:
    assert may_teach(team, project) is teaches
