"""Reading one trajectory: the tree of turns, its texts, tokens and mask."""

import json
from typing import Any

import msgspec
import pytest

from appliance.control.reading import tokens as token_reading
from appliance.control.reading import trajectory as one_reading
from appliance.control.steps import Ground
from appliance.core.errors import NotFoundError
from appliance.core.records import Target
from tests.collectors.desk import USER, Desk
from tests.control.trajectories.work import CALL, VIEWER, branching, id_of, only, say, user


@pytest.mark.parametrize("idle_s", [0.0, 3600.0])
def test_a_tree_says_each_thing_once_open_or_sealed(
    ground: Ground,
    desk: Desk,
    idle_s: float,
) -> None:
    branching(desk)
    desk.say(Target(turn_id="b"), "failed", comment="no")
    desk.collector.flush(idle_s)
    found = one_reading.get(ground, VIEWER, only(ground))
    assert [(t.turn_id, t.parent, t.num_children, t.is_branch) for t in found.turns] == [
        ("a", None, 2, False),
        ("b", 0, 0, False),
        ("c", 0, 0, True),
    ]
    assert [[(m.role, m.text, m.place) for m in t.new] for t in found.turns] == [
        [("user", "q", 0)],
        [("tool", "r", 2)],
        [("tool", "other", 2)],
    ]
    assert found.turns[0].answer.calls == (("look", '{\n  "a": "ü"\n}'),)
    assert [t.answer.text for t in found.turns] == ["", "done", "too"]
    sealed = idle_s == 0.0
    assert {t.tier for t in found.turns} == {"silver" if sealed else None}
    assert {t.trainable for t in found.turns} == {True if sealed else None}
    ((kind, node, outcome, comment),) = [
        (o.kind, o.node, o.outcome, o.comment) for o in found.opinions
    ]
    assert (kind, node, outcome, comment) == ("outcome", 1, "failed", "no")


def test_a_reopened_one_has_its_sealed_turns_and_the_new_ones(
    ground: Ground,
    desk: Desk,
) -> None:
    branching(desk)
    desk.collector.flush(0.0)
    whole = [user("q"), {"role": "assistant", "tool_calls": [CALL]}]
    whole += [{"role": "tool", "tool_call_id": "c", "content": "r"}]
    whole += [{"role": "assistant", "content": "done"}, user("thanks")]
    desk.ingest.turn(desk.make.silver("d", whole, "bye", session="s", at=4.0), {})
    desk.collector.flush(3600.0)
    found = one_reading.get(ground, VIEWER, only(ground))
    assert [(t.turn_id, t.parent, t.tier) for t in found.turns] == [
        ("a", None, "silver"),
        ("b", 0, "silver"),
        ("d", 1, None),
        ("c", 0, "silver"),
    ]
    assert [m.text for m in found.turns[2].new] == ["thanks"]
    assert [(v.version, v.state) for v in found.versions] == [(2, "open"), (1, "sealed")]
    assert one_reading.get(ground, VIEWER, only(ground), 1).num_turns == 3
    record, version = one_reading.as_json(ground, VIEWER, only(ground))
    assert (version, len(json.loads(record)["turns"])) == (2, 4)
    record, _ = one_reading.as_json(ground, VIEWER, only(ground), 1)
    assert json.loads(record)["schema"] == "trajectory/1"


def test_feedback_about_a_session_counts_for_the_key_that_gave_it(
    ground: Ground,
    desk: Desk,
) -> None:
    say(desk, "s")
    desk.ingest.turn(desk.make.silver("2", [user("q")], "a", session="s", key_id="key-2"), {})
    desk.say(Target(session="s"), "ok", actor="key-2")
    desk.collector.flush(3600.0)
    own, other = id_of(ground, "2"), id_of(ground, "s")
    assert len(one_reading.get(ground, VIEWER, own).opinions) == 1
    assert one_reading.get(ground, VIEWER, other).opinions == ()


def test_turns_are_paged_and_long_texts_are_cut_to_fit(
    ground: Ground,
    desk: Desk,
) -> None:
    asked: list[Any] = []
    for number in range(45):
        asked = [*asked, user(f"q{number}")]
        answer = "<&>" * 20_000 if number == 22 else f"a{number}"
        desk.ingest.turn(
            desk.make.silver(f"{number}", asked, answer, session="s", at=float(number)), {}
        )
        asked.append({"role": "assistant", "content": answer})
    desk.collector.flush(0.0)
    one = only(ground)
    shown: list[int] = []
    after: int | None = 0
    while after is not None:
        view = one_reading.get(ground, VIEWER, one, after=after)
        assert 0 < len(view.turns) <= 20
        shown += [turn.node for turn in view.turns]
        after = view.after
    assert shown == list(range(45))
    (turn,) = one_reading.get(ground, VIEWER, one, after=22, most=1).turns
    assert (len(turn.answer.text), turn.answer.num_characters) == (4000, 60_000)
    assert one_reading.whole_text(ground, VIEWER, one, 22) == "<&>" * 20_000
    assert one_reading.whole_text(ground, VIEWER, one, 22, message=0) == "q0"
    for node, message in ((45, None), (0, 7)):
        with pytest.raises(NotFoundError):
            one_reading.whole_text(ground, VIEWER, one, node, message=message)


def test_tokens_have_pieces_probabilities_and_the_mask(
    ground: Ground,
    desk: Desk,
) -> None:
    prompt = desk.template.encode([USER])
    answer = desk.template.encode([user("退货 ok")])[3:-4]
    desk.gold("a", answer, session="s", prompt=prompt)
    desk.collector.flush(0.0)
    found = token_reading.tokens(ground, VIEWER, only(ground), 0)
    assert (found.num_prompt, found.num_tokens) == (len(prompt), len(prompt) + len(answer))
    said = [token for token in found.tokens if token.trained]
    assert [token.id for token in said] == answer
    assert "退货" in "".join(token.text for token in said)
    assert {token.logprob for token in said} == {-0.5}
    assert said[0].prob == pytest.approx(0.6065, abs=1e-4)
    before = [token for token in found.tokens if not token.trained]
    assert [token.id for token in before] == prompt
    assert {token.prob for token in before} == {None}
    later = token_reading.tokens(ground, VIEWER, only(ground), 0, start=len(prompt) + 1)
    assert [token.id for token in later.tokens] == answer[1:]


def test_a_redacted_answer_is_out_of_the_mask_and_a_silver_one_has_no_tokens(
    ground: Ground,
    desk: Desk,
) -> None:
    say(desk, "silver", at=1.0)
    secret = "sk-ant-api03-" + "Zk9" * 31 + "AA"
    leaked = desk.make.silver("leaked", [user("q")], f"take {secret}", session="leaked", at=2.0)
    desk.ingest.turn(leaked, {})
    desk.collector.flush(0.0)
    with pytest.raises(NotFoundError, match="not gold"):
        token_reading.tokens(ground, VIEWER, id_of(ground, "silver"), 0)
    (turn,) = one_reading.get(ground, VIEWER, id_of(ground, "leaked")).turns
    assert turn.trainable is False
    assert turn.redacted
    assert secret not in turn.answer.text


def test_a_gold_answer_that_is_masked_out_has_no_trained_token(ground: Ground, desk: Desk) -> None:
    hidden = {"role": "assistant", "content": "take [redacted:key]"}
    turn, arrays = desk.make.gold("a", [7], [5, 2], session="s", base=desk.base.digest)
    desk.ingest.turn(msgspec.structs.replace(turn, answer=hidden, redacted=("key",)), arrays)
    desk.collector.flush(0.0)
    found = token_reading.tokens(ground, VIEWER, only(ground), 0)
    assert {token.trained for token in found.tokens} == {False}
