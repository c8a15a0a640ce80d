"""A round that is judged by what it did not train on: curation keeps it, evaluation gets it, a
person reads it."""

from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from appliance.control import programs, show
from appliance.control.review import review
from appliance.control.rounds import Order, Round
from appliance.control.steps import Ground, curate, evaluate
from appliance.core.database import Database
from appliance.core.digests import Digest, digest_bytes
from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.records import Dataset, Exclusion, Scorecard, SuiteResult, encode
from appliance.core.settings import Settings
from appliance.core.tables import datasets
from policies.lifecycle import State

GATES = """schema = "gates/1"
name = "g"
hold_out_share = 0.25
[[gate]]
name = "likelier"
kind = "target"
metric = "lower_95"
op = ">"
threshold = 0.0
max_void_share = 0.5
"""
HELD_OUT = digest_bytes(b"held out")


class Called:
    """Stands where programs are started: keeps what they were told, and answers."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self.answer = answer
        self.words: list[str] = []

    def __call__(self, module: str, *words: str, **_: object) -> dict[str, Any]:
        self.words = [module, *words]
        return self.answer

    def option(self, name: str) -> str | None:
        return self.words[self.words.index(name) + 1] if name in self.words else None


@pytest.fixture
def ground(home: Home, database: Database, store: ObjectStore) -> Ground:
    return Ground(home, Settings(), database, store)


def dataset_of(ground: Ground, held_out: Digest | None) -> Digest:
    left = [("failure_in_supervised", "t1"), ("held_out", "t2"), ("held_out", "t3")]
    dataset = Dataset(
        base=digest_bytes(b"base"),
        template=digest_bytes(b"template"),
        recipe=digest_bytes(b"recipe"),
        label="internal",
        trajectories=(("t1", 1), ("t2", 1), ("t3", 1)),
        examples=(),
        exclusions=tuple(Exclusion(reason=reason, subject=subject) for reason, subject in left),
        counts={},
    )
    digest = ground.store.put(encode(dataset))
    row = {"digest": digest, "object": digest, "held_out": held_out, "created_at": 0.0}
    with ground.database.write() as connection:
        connection.execute(sa.insert(datasets).values(row))
    return digest


def scorecard_of(ground: Ground) -> Digest:
    def answer(item: str, logprob: float | None) -> dict[str, Any]:
        outcome = "ok" if logprob is not None else "void"
        return {"item_id": item, "text": "", "outcome": outcome, "logprob": logprob}

    name = "held-out successes"
    lines = [
        {"suite": name, "side": "champion"},
        *(answer(item, at) for item, at in [("a", -2.0), ("b", -1.0), ("c", None)]),
        {"suite": name, "side": "candidate"},
        *(answer(item, at) for item, at in [("a", -1.5), ("b", -0.9), ("c", -0.1)]),
    ]
    result = SuiteResult(
        suite=name,
        suite_digest=digest_bytes(b"suite"),
        kind="target",
        num_items=2,
        champion_passed=0,
        candidate_passed=2,
        gained=2,
        lost=0,
        void=1,
        mcnemar_p=0.5,
        delta=0.3,
        lower_95=0.05,
        upper_95=0.45,
        smallest_effect=0.2,
        metric="nats_per_token",
    )
    scorecard = Scorecard(
        candidate=digest_bytes(b"candidate"),
        champion=None,
        base=digest_bytes(b"base"),
        suites=(result,),
        seed=0,
        outputs=ground.store.put(b"\n".join(msgspec.json.encode(line) for line in lines)),
    )
    return ground.store.put(encode(scorecard))


def a_round(ground: Ground, **made: Digest | None) -> Round:
    fields: dict[str, Any] = {"dataset": None, "adapter": digest_bytes(b"a"), "scorecard": None}
    return Round(
        round=1,
        state=State.EVALUATING,
        verdict=None,
        reason="",
        authors=("olga",),
        order=Order(
            recipe=ground.store.put(b"name = 'r'"),
            gates=ground.store.put(GATES.encode()),
            suites={"public": ground.store.put(b"suite")},
            idle_s=0.0,
        ),
        champion=None,
        fencing=1,
        created_at=0.0,
        changed_at=0.0,
        **{**fields, **made},
    )


def test_curation_keeps_out_what_the_gates_ask_for(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = Called({"dataset": "sha256:" + "0" * 64, "examples": 3, "excluded": {}})
    monkeypatch.setattr(programs, "run", called)
    following = curate(ground, a_round(ground), lambda: None)
    assert following.state is State.TRAINING
    assert called.option("--hold-out-share") == "0.25"


@pytest.mark.parametrize("held_out", [HELD_OUT, None])
def test_evaluation_gets_what_was_held_out(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, held_out: Digest | None
) -> None:
    called = Called({"scorecard": scorecard_of(ground)})
    monkeypatch.setattr(programs, "run", called)
    following = evaluate(
        ground, a_round(ground, dataset=dataset_of(ground, held_out)), lambda: None
    )
    assert called.option("--held-out") == held_out
    assert following.state is State.AWAITING_APPROVAL


def test_a_person_reads_how_likely_each_side_finds_the_answers(
    ground: Ground, capsys: pytest.CaptureFixture[str]
) -> None:
    made = {"dataset": dataset_of(ground, HELD_OUT), "scorecard": scorecard_of(ground)}
    shown = review(ground, a_round(ground, **made))
    # Only pairs that could be judged on both sides count, as in the difference.
    assert shown["likelihoods"]["held-out successes"] == {
        "champion": pytest.approx(-1.5),
        "candidate": pytest.approx(-1.2),
    }
    assert shown["data"]["reasons"] == {"held_out": 2, "failure_in_supervised": 1}
    show.review(shown)
    text = capsys.readouterr().out
    assert "left out: 2 held_out, 1 failure_in_supervised" in text
    (line,) = [line for line in text.splitlines() if line.startswith("held-out successes")]
    for number in ("nats per token", "-1.500", "-1.200", "+0.300", "[+0.050, +0.450]"):
        assert number in line


def test_a_round_without_a_scorecard_can_be_reviewed(ground: Ground) -> None:
    shown = review(ground, a_round(ground))
    assert (shown["scorecard"], shown["likelihoods"], shown["data"]) == (None, {}, None)
