"""What people say about an answer becomes feedback, once, about exactly that turn."""

from typing import Any

import msgspec
import pytest

from appliance.control.acting import corrections
from appliance.control.acting.corrections import Correction, Judgement
from appliance.control.reading import trajectory as one_reading
from appliance.control.steps import Ground
from appliance.core import audit
from appliance.core.errors import ForbiddenError, NotFoundError, UnavailableError, UsageError
from tests.collectors.desk import Desk
from tests.control.trajectories.work import TEACHER, VIEWER, branching, only, say, who


def test_a_correction_becomes_the_example_of_its_turn(
    ground: Ground,
    desk: Desk,
    serving: list[dict[str, Any]],
) -> None:
    desk.gold("a", [5, 2], session="s")
    desk.collector.flush(0.0)
    ask = Correction(node=0, turn_id="a", text="the better answer", comment="policy 7")
    given = corrections.correct(ground, TEACHER, only(ground), ask)
    assert given.target == {"turn_id": "a"}
    assert serving[0]["actor"] == "person:olga"
    _, dataset = desk.curate()
    (example,) = dataset.examples
    assert example.kind == "correction"
    assert desk.template.decode(desk.trained(example)) == "the better answer"
    (opinion,) = one_reading.get(ground, VIEWER, only(ground)).opinions
    assert (opinion.source, opinion.actor, opinion.node) == ("human", "person:olga", 0)
    assert (opinion.correction, opinion.comment) == ("the better answer", "policy 7")


def test_a_correction_is_of_its_turn_and_of_no_other(
    ground: Ground,
    desk: Desk,
    serving: list[dict[str, Any]],
) -> None:
    branching(desk)
    desk.collector.flush(0.0)
    one = only(ground)
    corrections.correct(ground, TEACHER, one, Correction(node=2, turn_id="c", text="better"))
    assert serving[-1]["target"] == {"turn_id": "c"}
    desk.collector.flush(0.0)
    (opinion,) = one_reading.get(ground, VIEWER, one).opinions
    assert opinion.node == 2
    with pytest.raises(UsageError, match="another one by now"):
        corrections.correct(ground, TEACHER, one, Correction(node=1, turn_id="c", text="better"))
    for node, text, error in (
        (9, "x", NotFoundError),
        (1, "", UsageError),
        (1, "done", UsageError),
    ):
        with pytest.raises(error):
            corrections.correct(ground, TEACHER, one, Correction(node=node, text=text))
    assert len(serving) == 1


def test_a_double_click_is_one_feedback_and_a_change_of_mind_is_another(
    ground: Ground,
    desk: Desk,
    serving: list[dict[str, Any]],
) -> None:
    say(desk, "s")
    desk.collector.flush(0.0)
    one = only(ground)
    for said in ("ok", "ok", "failed", "failed", "ok"):
        corrections.judge(ground, TEACHER, one, Judgement(outcome=said))
        desk.collector.flush(0.0)
    opinions = one_reading.get(ground, VIEWER, one).opinions
    assert [opinion.outcome for opinion in opinions] == ["ok", "failed", "ok"]
    with ground.database.read() as connection:
        acts = [(e.actor, e.act, e.subject) for e in audit.entries(connection)]
    assert acts == [("olga", "feedback.judge", one)] * 3
    other = msgspec.structs.replace(TEACHER, name="ivo")
    corrections.judge(ground, other, one, Judgement(outcome="ok"))
    assert len({body["feedback_id"] for body in serving}) == 4


def test_the_audit_log_has_it_first_and_without_the_words(ground: Ground, desk: Desk) -> None:
    say(desk, "s")
    desk.collector.flush(0.0)
    with pytest.raises(UnavailableError):
        corrections.correct(ground, TEACHER, only(ground), Correction(node=0, text="very private"))
    with ground.database.read() as connection:
        (entry,) = audit.entries(connection)
    assert (entry.act, entry.subject) == ("feedback.correct", only(ground))
    assert entry.detail["target"] == {"turn_id": "s"}
    assert "private" not in str(entry.detail)


def test_a_viewer_teaches_nothing(ground: Ground, desk: Desk) -> None:
    say(desk, "s")
    desk.collector.flush(0.0)
    with pytest.raises(ForbiddenError):
        corrections.correct(ground, VIEWER, only(ground), Correction(node=0, text="x"))
    with pytest.raises(ForbiddenError):
        corrections.judge(ground, VIEWER, only(ground), Judgement(outcome="ok"))


def test_what_was_tried_out_in_the_console_does_not_teach(
    ground: Ground,
    desk: Desk,
    serving: list[dict[str, Any]],
) -> None:
    say(desk, "s", who=who(desk, team="console", project="talk"))
    desk.collector.flush(0.0)
    given = corrections.correct(ground, TEACHER, only(ground), Correction(node=0, text="x"))
    assert given.teaches is False
    assert desk.curate()[0].examples == 0
