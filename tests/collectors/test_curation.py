"""Curation: what becomes a row, what is left out and why, and that the same gives the same."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from appliance.core.database import Database
from appliance.core.digests import Digest
from appliance.core.errors import RecordError, UsageError
from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.recipe import LeaveOut
from appliance.core.records import ArrayRef, Dataset, Example, Feedback, Target, decode
from appliance.core.settings import Settings
from appliance.core.tables import rounds
from appliance.engine.bases import Base
from appliance.engine.template import Template
from appliance.ingest import Ingest
from collectors.collector import Collector
from collectors.curation.leave_out import without
from collectors.curation.run import Made, Order, curate, show

USER = {"role": "user", "content": "q"}


class Desk:
    """Sends turns and feedback, curates, and reads the dataset back."""

    def __init__(
        self, home: Home, base: Base, ingest: Ingest, collector: Collector, make: Any, root: Path
    ) -> None:
        self.home, self.base, self.make = home, base, make
        self.ingest, self.collector = ingest, collector
        self.store = ObjectStore(home.objects)
        self.template = Template.load(base.path)
        self.recipe = root / "recipe.toml"
        self.count = 0

    def gold(
        self, name: str, answer: list[int], *, session: str, prompt: Any = None, **other: Any
    ) -> None:
        prompt = self.template.encode([USER]) if prompt is None else prompt
        fields = {"base": self.base.digest, "messages": (USER,), **other}
        self.ingest.turn(*self.make.gold(name, prompt, answer, session=session, **fields))

    def say(self, target: Target, outcome: str = "unknown", **other: Any) -> None:
        self.count += 1
        fields = {"kind": "outcome", "source": "code", "actor": "key-1", "at": float(self.count)}
        self.ingest.feedback(
            Feedback(
                feedback_id=f"f{self.count}",
                target=target,
                outcome=outcome,
                **{**fields, **other},
            )
        )

    def curate(self, recipe: str = "", **order: Any) -> tuple[Made, Dataset]:
        self.recipe.write_text(recipe)
        self.collector.flush(0.0)
        made = curate(
            self.home, Settings(), Order(recipe=self.recipe, base=self.base.digest, **order)
        )
        return made, decode(self.store.get(made.dataset), Dataset)

    def array(self, ref: ArrayRef | None) -> list[Any]:
        assert ref is not None
        kinds = {"int32": "<i4", "uint8": "u1", "float32": "<f4"}
        return np.frombuffer(self.store.get(ref.digest_of_bytes), kinds[ref.dtype]).tolist()

    def trained(self, example: Example) -> list[int]:
        pairs = zip(self.array(example.ids), self.array(example.mask), strict=True)
        return [token for token, on in pairs if on]


@pytest.fixture
def desk(
    home: Home, base: Base, ingest: Ingest, collector: Collector, make: Any, tmp_path: Path
) -> Desk:
    return Desk(home, base, ingest, collector, make, tmp_path)


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
    refuse_long(desk)
    made, _ = desk.curate("max_tokens = 40", hold_out_share=0.999)
    assert (made.examples, made.held_out_examples, made.excluded) == (0, 1, {"held_out": 1})
