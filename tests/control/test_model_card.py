"""The model card: Hugging Face's own reader takes it, and nothing that people name breaks it."""

import re

import pytest
import yaml
from huggingface_hub import ModelCard

from appliance.control.reading import card
from appliance.control.steps import Ground
from appliance.core.database import Database
from appliance.core.digests import digest_bytes
from appliance.core.errors import ForbiddenError, NotFoundError
from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.settings import Settings
from tests.control.reviewing import Asked, a_round, ada, said

ODD = 'a "suite": \\u0000 | <b>x</b> `y` [z](w) #\n- k: v\x07\u2028\u202e 東京 👩‍💻'


@pytest.fixture
def ground(home: Home, database: Database, store: ObjectStore) -> Ground:
    return Ground(home, Settings(), database, store)


@pytest.fixture
def text(ground: Ground) -> str:
    job = Asked("job")
    for i in range(40):
        outcomes = ("ok" if i < 5 else "failed", "ok" if i < 35 else "failed")
        job.add(f"i{i}", *(said("a", one) for one in outcomes), language=("de", "en")[i % 2])
    odd = Asked(ODD, "protected").add("x", said("a"), said("a"))
    void = Asked("void", "canary").add("x", said("", "void"), said("", "void"))
    known = Asked("known", check={"kind": "likelihood", "answer": "x"})
    known.add("x", said("", logprob=-2.0), said("", logprob=-1.5))
    (ground.home.bases / "names.json").write_text(f'{{"tiny": "{digest_bytes(b"base")}"}}')
    return card.of(ground, ada(), a_round(ground, [job, odd, void, known]))


def test_the_front_matter_is_what_hugging_face_expects(text: str) -> None:
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["library_name"] == "peft"
    assert (front["base_model"], front["base_model_relation"]) == ("tiny", "adapter")
    assert front["language"] == ["de", "en"]
    assert "label:internal" in front["tags"]
    (model,) = front["model-index"]
    job, odd, void, known = model["results"]
    assert job["dataset"]["name"] == "job"
    assert job["metrics"][0] == {
        "type": "pass_rate",
        "value": 0.875,
        "name": "share of items passed",
    }
    assert odd["dataset"]["name"] == ODD
    assert void["metrics"][0]["value"] != void["metrics"][0]["value"], "not a number"
    assert known["metrics"][0]["type"] == "mean_logprob_gain"
    assert known["metrics"][0]["value"] == 0.5


def test_hugging_faces_own_reader_takes_it(text: str) -> None:
    read = ModelCard(text).data
    assert read.library_name == "peft"
    assert read.eval_results is not None
    results = {one.dataset_name: one.metric_value for one in read.eval_results}
    assert results["job"] == 0.875


def test_the_body_has_every_part_and_stays_text(text: str) -> None:
    body = text.split("---\n", 2)[2]
    parts = re.findall(r"^## (.*)$", body, re.MULTILINE)
    assert parts == [
        "Data",
        "Evaluation",
        "Gates",
        "Provenance",
        "Approvals",
        "Limits",
    ]
    for line in body.splitlines():
        if line.startswith("|"):
            cells = len(re.findall(r"(?<!\\)\|", line))
            assert cells in (3, 4, 6, 10), line
    assert "<b>" not in body
    assert "Signed by: nobody yet." in body


def test_a_card_is_for_those_who_may_see_the_candidate(ground: Ground) -> None:
    number = a_round(ground, [Asked("job").add("x", said("a"), said("b"))], label="secret")
    with pytest.raises(ForbiddenError, match="labelled secret"):
        card.of(ground, ada("internal"), number)


def test_a_round_without_a_scorecard_has_no_card(ground: Ground) -> None:
    with pytest.raises(NotFoundError, match="no scorecard"):
        card.of(ground, ada(), a_round(ground, state="training"))
