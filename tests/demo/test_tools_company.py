from pathlib import Path

import pytest

from adapter_training.replay.rows import general_prompts
from appliance.core.recipe import load_recipe
from appliance.demo import company as company_room
from appliance.demo.company import prompt_digest
from appliance.demo.company_file import load_company
from appliance.demo.plan import PLANS
from appliance.demo.tables import CompanyError
from appliance.demo.tasks import make_tasks
from collectors.curation.leave_out import without

TOOLS = Path(company_room.__file__).parent / "companies" / "tools.toml"


@pytest.fixture(scope="module")
def company():
    return load_company(TOOLS, base="smollm2")


def test_five_families_work_with_a_manual_and_are_examined_without_it(company):
    assert len(company.families) == 5
    work, examined = make_tasks(company, "train", 60, 0), make_tasks(company, "held_out", 60, 0)
    assert {len(t["messages"]) for t in work} == {7}
    assert {len(t["messages"]) for t in examined} == {1}


def test_the_same_requests_are_asked_with_and_without_the_manual(company):
    plain, manual = (
        [t["messages"][-1] for t in make_tasks(company, split, 60, 0)]
        for split in ("held_out", "held_out_with_manual")
    )
    assert plain == manual


def test_held_out_requests_are_worded_as_no_request_at_work(company):
    for family in company.families:
        assert not set(family.phrasings) & set(family.held_out_phrasings)
    work, examined = (
        {prompt_digest(t["messages"]) for t in make_tasks(company, split, 100, 0)}
        for split in ("train", "held_out")
    )
    assert not work & examined


def test_no_request_of_the_manual_is_examined(company):
    shown = {request for family in company.families for request, _ in family.manual}
    assert not shown & {
        t["messages"][-1]["content"] for t in make_tasks(company, "held_out", 100, 0)
    }


def test_a_slot_may_mean_something_else_than_it_says(company):
    for task in make_tasks(company, "train", 60, 0):
        if task["family"] == "stock":
            said = {"1": "north", "2": "south", "3": "east", "4": "west"}[task["gold"][-2]]
            assert f"{said} room" in task["messages"][-1]["content"]


def test_the_recipe_leaves_out_the_manual_and_nothing_else(company):
    (part,) = load_recipe(PLANS["smollm2"].recipe).leave_out
    *manual, request = make_tasks(company, "train", 1, 0)[0]["messages"]
    repaired = [*manual, request, {"role": "assistant"}, {"role": "user"}]
    assert without([*manual, request], [part])[len(manual) :] == [request]
    assert without(repaired, [part]) == [None] * len(manual) + repaired[len(manual) :]


def test_no_protected_question_is_one_that_training_replays():
    questions = ("capital of", "opposite of", "on which continent", "language is spoken")
    replayed = [talk.messages[0]["content"].lower() for talk in general_prompts()]
    assert not [text for text in replayed if any(part in text for part in questions)]


def test_at_least_200_protected_items_whose_check_wants_the_answer(company):
    tasks = make_tasks(company, "protected", 200, 0)
    assert len({prompt_digest(t["messages"]) for t in tasks}) == 200
    assert all(t["check"]["cases"][0] and t["check"]["expected"] == [True] for t in tasks)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "{amount} euros for order {order}, it {reason}.",
            "{sum} euros for order {order}, it {reason}.",
            r"\{sum\} is not one",
        ),
        ('check = "desk"\n', "", "family has no check"),
        ("--role {role}", "--rank {role}", "its own right answer .* fails"),
    ],
)
def test_a_wrong_file_gets_one_clear_message(tmp_path, old, new, message):
    text = TOOLS.read_text()
    assert old in text
    path = tmp_path / "company.toml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(CompanyError, match=message):
        load_company(path, base="smollm2")
