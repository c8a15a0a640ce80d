"""Curation: what becomes a row, what is left out and why, and that the same gives the same."""

from typing import Any

import pytest

from appliance.core.digests import Digest
from appliance.core.errors import RecordError
from appliance.core.recipe import LeaveOut
from appliance.core.records import Target
from collectors.curation.leave_out import without
from collectors.curation.run import show
from tests.collectors.desk import USER, Desk


def test_gold_ids_are_never_encoded_again(desk: Desk) -> None:
    prompt, answer = [300, 301, 302], [5, 6, 2]
    desk.gold("a", answer, session="s", prompt=prompt)
    desk.say(Target(session="s"), "ok", tags={"task": "t", "family": "f"})
    _, dataset = desk.curate()
    (one,) = dataset.examples
    assert desk.array(one.ids) == prompt + answer
    assert desk.array(one.mask) == [0, 0, 0, 1, 1, 1]
    assert desk.array(one.logprobs) == [-0.5] * 3
    assert (one.kind, one.tier, one.task, one.family, one.reward) == (
        "success",
        "gold",
        "t",
        "f",
        1.0,
    )


def test_a_repair_trains_its_last_answer_after_the_prompt_with_the_failure(desk: Desk) -> None:
    first = desk.template.encode([USER])
    second = [*first, 5, 2, 300, 301]
    desk.gold("try", [5, 2], session="s", prompt=first, at=1.0)
    desk.gold("repair", [6, 2], session="s", prompt=second, at=2.0)
    desk.say(Target(turn_id="try"), "failed")
    desk.say(Target(turn_id="repair"), "ok")
    made, dataset = desk.curate()
    (one,) = dataset.examples
    assert desk.array(one.ids) == [*second, 6, 2]
    assert desk.trained(one) == [6, 2]
    assert made.excluded == {"answer_failed": 1}


def test_earlier_answers_count_only_where_they_were_judged(desk: Desk) -> None:
    first = desk.template.encode([USER])
    for number, name in enumerate(["unjudged", "judged", "last"]):
        desk.gold(name, [5, 2], session="s", prompt=first, at=float(number))
        first = [*first, 5, 2, 300]
    desk.say(Target(turn_id="judged"), "ok")
    desk.say(Target(session="s"), "ok")
    made, dataset = desk.curate()
    assert [example.node for example in dataset.examples] == [1, 2]
    assert made.excluded == {"unknown_outcome": 1}


@pytest.mark.parametrize(
    ("loss", "kinds", "excluded"),
    [
        ("supervised", {"success": 1}, {"failure_in_supervised": 1, "unknown_outcome": 1}),
        ("outcome_pg", {"success": 1, "failure": 1}, {"unknown_outcome": 1}),
    ],
)
def test_failures_are_for_policy_gradient_only(
    desk: Desk, loss: str, kinds: dict[str, int], excluded: dict[str, int]
) -> None:
    for number, said in enumerate(["ok", "failed", "unknown"]):
        desk.gold(said, [5 + number, 2], session=said)
        desk.say(Target(session=said), said)
    made, dataset = desk.curate(f'loss = "{loss}"')
    assert made.kinds == kinds
    assert made.excluded == excluded
    assert {e.kind: e.reward for e in dataset.examples} == {
        kind: float(kind == "success") for kind in kinds
    }


def test_text_is_encoded_once_by_the_template(desk: Desk) -> None:
    desk.ingest.turn(desk.make.silver("a", [USER], "the answer", session="s"), {})
    desk.say(Target(session="s"), "ok")
    _, dataset = desk.curate()
    (one,) = dataset.examples
    assert desk.template.decode(desk.trained(one), skip_special_tokens=False) == (
        "the answer<|im_end|>"
    )
    assert (one.tier, one.logprobs) == ("silver", None)
    assert dataset.template == desk.template.digest


def test_an_example_in_the_prompt_and_a_redacted_answer_are_not_trained_on(desk: Desk) -> None:
    secret = "sk-ant-api03-" + "Zk9" * 31 + "AA"
    shown = [USER, {"role": "assistant", "content": "an example"}, USER]
    told = [*shown, {"role": "assistant", "content": f"take {secret}"}, USER]
    imported = {"session": "s", "origin": "openai-chat"}
    desk.ingest.turn(desk.make.silver("a", shown, f"take {secret}", at=1.0, **imported), {})
    desk.ingest.turn(desk.make.silver("b", told, "the answer", at=2.0, **imported), {})
    desk.say(Target(session="s"), "ok")
    made, dataset = desk.curate()
    (one,) = dataset.examples
    assert desk.template.decode(desk.trained(one), skip_special_tokens=False) == (
        "the answer<|im_end|>"
    )
    assert made.excluded == {"redacted": 1}


def test_a_correction_takes_the_place_of_the_answer(desk: Desk) -> None:
    desk.gold("a", [5, 2], session="s")
    desk.say(Target(session="s"), "failed")
    desk.say(Target(turn_id="a"), kind="correction", correction="better")
    made, dataset = desk.curate()
    (one,) = dataset.examples
    assert one.kind == "correction"
    expected = desk.template.spans([USER, {"role": "assistant", "content": "better"}])
    assert desk.trained(one) == [
        token for token, on in zip(expected.ids, expected.mask, strict=True) if on
    ]
    assert desk.array(one.ids)[: len(desk.template.encode([USER]))] == desk.template.encode([USER])
    assert made.excluded == {"corrected": 1}
    assert desk.curate("corrections = false")[0].examples == 0


def refuse_long(desk: Desk) -> str:
    desk.gold("a", [5] * 60 + [2], session="s")
    desk.say(Target(session="s"), "ok")
    return "max_tokens = 40"


def refuse_unencodable(desk: Desk) -> str:
    picture = [{"type": "image_url", "image_url": {"url": "data:"}}]
    asked = [{"role": "user", "content": picture}]
    desk.ingest.turn(desk.make.silver("a", asked, "seen", session="s"), {})
    desk.say(Target(session="s"), "ok")
    return ""


def refuse_other_base(desk: Desk) -> str:
    desk.gold("a", [5, 2], session="s", base=Digest("sha256:" + "0" * 64))
    desk.say(Target(session="s"), "ok")
    return 'loss = "outcome_pg"'


def refuse_no_logprobs(desk: Desk) -> str:
    desk.ingest.turn(desk.make.silver("a", [USER], "b", session="s"), {})
    desk.say(Target(session="s"), "ok")
    return 'loss = "outcome_pg"'


def refuse_redacted(desk: Desk) -> str:
    secret = "sk-ant-api03-" + "Zk9" * 31 + "AA"
    desk.ingest.turn(desk.make.silver("a", [USER], secret, session="s"), {})
    desk.say(Target(session="s"), "ok")
    return ""


def refuse_no_text(desk: Desk) -> str:
    desk.ingest.turn(desk.make.silver("a", [], "", session="s"), {})
    desk.say(Target(session="s"), "ok")
    return ""


def refuse_broken_off(desk: Desk) -> str:
    desk.gold("a", [5, 6], session="s", finish_reason="error")
    desk.say(Target(session="s"), "ok")
    return ""


def refuse_several_choices(desk: Desk) -> str:
    for choice in (0, 1):
        desk.gold("a", [5 + choice, 2], session="s", choice=choice)
    desk.say(Target(session="s"), "ok")
    return ""


@pytest.mark.parametrize(
    ("reason", "arrange"),
    [
        ("too_long", refuse_long),
        ("cannot_encode", refuse_unencodable),
        ("other_base", refuse_other_base),
        ("no_logprobs", refuse_no_logprobs),
        ("redacted", refuse_redacted),
        ("no_text", refuse_no_text),
        ("broken_off", refuse_broken_off),
        ("several_choices", refuse_several_choices),
    ],
)
def test_what_is_left_out_has_a_reason(desk: Desk, reason: str, arrange: Any) -> None:
    made, dataset = desk.curate(arrange(desk))
    assert (made.examples, made.excluded) == (0, {reason: 1})
    assert [exclusion.reason for exclusion in dataset.exclusions] == [reason]
    assert f"1  {reason}" in show(made)


def test_another_bases_gold_is_encoded_anew_for_supervised(desk: Desk) -> None:
    refuse_other_base(desk)
    _, dataset = desk.curate()
    assert [(e.tier, e.logprobs) for e in dataset.examples] == [("silver", None)]


def test_a_left_out_part_changes_the_prompt_and_not_the_answer(desk: Desk) -> None:
    manual = {"role": "system", "content": "<manual>long</manual>"}
    desk.gold("a", [5, 6, 2], session="s", prompt=[300] * 9, messages=(manual, USER))
    desk.say(Target(session="s"), "ok")
    recipe = '[[leave_out]]\nrole = "system"\n'
    made, dataset = desk.curate(recipe)
    (one,) = dataset.examples
    assert desk.array(one.ids) == [*desk.template.encode([USER]), 5, 6, 2]
    assert desk.trained(one) == [5, 6, 2]
    assert one.logprobs is None, "sampled from another prompt"
    assert made.rewritten_prompts == 1
    kept, dataset = desk.curate("keep_share = 1.0\n" + recipe)
    assert kept.rewritten_prompts == 0
    assert desk.array(dataset.examples[0].ids)[:9] == [300] * 9
    with pytest.raises(RecordError, match="supervised"):
        desk.curate('loss = "outcome_pg"\n' + recipe)


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (LeaveOut(role="system"), ["few", "shot", "<m>x</m>ask", "done"]),
        (LeaveOut(positions=(1, 2)), ["manual", "<m>x</m>ask", "done"]),
        (LeaveOut(before_last_user=True), ["<m>x</m>ask", "done"]),
        (LeaveOut(role="user", before_last_user=True), ["manual", "shot", "<m>x</m>ask", "done"]),
        (LeaveOut(mark=("<m>", "</m>")), ["manual", "few", "shot", "ask", "done"]),
        (LeaveOut(role="system", mark=("<m>", "</m>")), "all"),
        (LeaveOut(role="assistant"), ["manual", "few", "<m>x</m>ask", "done"]),
    ],
)
def test_every_field_that_is_set_must_match(part: LeaveOut, expected: Any) -> None:
    texts = ["manual", "few", "shot", "<m>x</m>ask", "done"]
    roles = ["system", "user", "assistant", "user", "assistant"]
    messages = [{"role": r, "content": t} for r, t in zip(roles, texts, strict=True)]
    left = without(messages, [part], keep=[4])
    assert [m["content"] for m in left if m] == (texts if expected == "all" else expected)


def test_the_same_input_gives_the_same_dataset(desk: Desk) -> None:
    for session in ("a", "b", "c"):
        desk.gold(session, [5, ord(session), 2], session=session)
        desk.say(Target(session=session), "ok")
    first, dataset = desk.curate()
    assert desk.curate()[0] == first
    assert dataset.digest == first.dataset
    assert list(dataset.trajectories) == sorted(dataset.trajectories)
