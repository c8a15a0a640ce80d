import re
from pathlib import Path

import pytest

from adapter_training.tiny.lexicon import load_lexicon
from appliance.demo import company as company_room
from appliance.demo.company import prompt_digest
from appliance.demo.company_file import load_company
from appliance.demo.reference import run_reference
from appliance.demo.tables import CompanyError
from appliance.demo.tasks import make_tasks
from appliance.demo.vocabulary import load_vocabulary

WORDS = Path(company_room.__file__).parent / "companies" / "words.toml"
SPLITS = ("train", "target", "held_out", "protected")


@pytest.fixture(scope="module")
def company():
    return load_company(WORDS, base="tiny")


def test_the_published_vocabulary_is_what_the_base_was_made_from():
    lexicon, published = load_lexicon(), load_vocabulary()
    public = {word: meanings[0] for word, meanings in lexicon.ambiguous.items()}
    assert dict(published.meanings) == {**lexicon.generic, **public}
    assert sorted(published.ambiguous) == sorted(lexicon.ambiguous)
    assert published.frame == lexicon.public_frame
    assert published.departments == lexicon.departments
    assert published.numbers == lexicon.numbers


def test_the_company_means_something_else_that_the_base_has_heard_of(company):
    lexicon = load_lexicon()
    assert len(company.meanings) >= 12
    for word, meaning in company.meanings.items():
        assert meaning in lexicon.ambiguous[word][1:]


def test_no_request_is_in_two_splits_whatever_the_seeds(company):
    digests = {
        split: {prompt_digest(t["messages"]) for t in make_tasks(company, split, 150, seed)}
        for seed, split in enumerate(SPLITS)
    }
    assert all(len(found) == 150 for found in digests.values())
    assert len(set.union(*digests.values())) == 150 * len(SPLITS)


def test_the_same_seed_gives_the_same_tasks(company):
    assert make_tasks(company, "train", 20, 5) == make_tasks(company, "train", 20, 5)
    assert make_tasks(company, "train", 20, 5) != make_tasks(company, "train", 20, 6)


def test_a_right_answer_passes_its_check_and_the_public_one_does_not(company):
    for task in make_tasks(company, "target", 40, 0):
        check, request = task["check"], task["messages"][0]["content"]
        right, public = run_reference(
            [(check["program"], a, check["cases"]) for a in (task["gold"], _public(request))]
        )
        assert right == check["expected"]
        assert public != check["expected"]


def _public(request):
    """The answer of somebody who never heard of the company."""
    public = load_vocabulary().meanings
    steps = request.partition(": ")[2].partition(" (ref")[0].split(", ")
    parts = [step.partition(" ") for step in steps]
    return "\n".join(re.sub(r"\bn\b", number, public[word]) for word, _, number in parts)


def test_the_digest_knows_a_request_with_and_without_what_stands_before_it():
    request = {"role": "user", "content": "Refund order 5 "}
    manual = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert prompt_digest([*manual, request]) == prompt_digest(
        [{**request, "content": "refund order 5"}]
    )


def test_more_tasks_than_there_are_is_said_and_not_repeated(company, tmp_path):
    text = WORDS.read_text().replace("steps = [1, 2, 2, 3]", "steps = [1]")
    text = text.replace("reference_share = 0.1", "reference_share = 0.0")
    small = load_company(_written(tmp_path, text), base="tiny")
    with pytest.raises(CompanyError, match=r"only \d+ different train requests, 200 were asked"):
        make_tasks(small, "train", 200, 0)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('check = "calculation"', "", "family has no check"),
        ('check = "calculation"', 'check = "audit"', r"no \[checks.audit\]; known: calculation"),
        ('"levy", "gross"', '"levy", "tariff"', "does not know tariff[^$]*--base smollm2"),
        ('frame = "billing"', 'frame = "kitchen"', "does not know kitchen[^$]*--base smollm2"),
        ('levy = "x *= n"', 'levy = "x *= y"', "its own right answer .* fails: NameError"),
        ("max_tokens = 48", "max_tokens = 0", "max_tokens must be at least 1, got 0"),
        ("max_tokens = 48", "max_token = 48", "max_tokens is missing"),
        ("max_tokens = 48", "max_tokens = 48\ncolour = 1", "unknown colour; known: "),
        ("cases = [-13, 7, 18, 41, 56]", "cases = []", "at least one case"),
        ('schema = "company/1"', 'schema = "company/9"', "expected schema 'company/1'"),
        ('schema = "company/1"', "schema = ", "cannot read company file"),
        ("def run(answer, case)", "def ran(answer, case)", "must define run"),
    ],
)
def test_a_wrong_file_gets_one_clear_message(tmp_path, old, new, message):
    text = WORDS.read_text()
    assert old in text
    with pytest.raises(CompanyError, match=message):
        _made(_written(tmp_path, text.replace(old, new, 1)))


def test_free_text_is_not_for_the_tiny_base(tmp_path):
    text = WORDS.read_text().replace('kind = "words"', 'kind = "templates"')
    with pytest.raises(CompanyError, match="--base smollm2"):
        load_company(_written(tmp_path, text), base="tiny")


def _made(path):
    return make_tasks(load_company(path, base="tiny"), "train", 200, 0)


def _written(folder: Path, text: str) -> Path:
    path = folder / "company.toml"
    path.write_text(text)
    return path
