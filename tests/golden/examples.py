"""One example of every record kind, every field filled in, as this version writes it."""

from pathlib import Path

from appliance.core.decisions import Approval, Release, Rollout
from appliance.core.digests import Digest, digest_bytes
from appliance.core.recipe import LeaveOut, Recipe
from appliance.core.records import (
    Adapter,
    ArrayRef,
    Dataset,
    Event,
    Example,
    Exclusion,
    Feedback,
    Node,
    Probe,
    Record,
    Sampling,
    Scorecard,
    SuiteResult,
    Target,
    Trajectory,
    Turn,
    Who,
)


def path_of(record: Record) -> Path:
    """Its golden file: ``turn/1`` is in ``turn-1.json``."""
    name = str(record.schema).replace("/", "-")  # type: ignore[attr-defined]
    return Path(__file__).parent / f"{name}.json"


def _digest(name: str) -> Digest:
    return digest_bytes(name.encode())


_WHO = Who(key_id="k-1", team="payments", project="ledger", agent="fixer")
_IDS = ArrayRef(digest_of_bytes=_digest("ids"), dtype="int32", count=3)
_LOGPROBS = ArrayRef(digest_of_bytes=_digest("logprobs"), dtype="float32", count=3)
_MASK = ArrayRef(digest_of_bytes=_digest("mask"), dtype="uint8", count=3)

_TURN = Turn(
    turn_id="chatcmpl-1",
    who=_WHO,
    label="internal",
    session="s-1",
    base=_digest("base"),
    adapter=_digest("adapter"),
    template=_digest("template"),
    messages=({"role": "user", "content": "Überweise 3 €, bitte."},),
    tools=({"type": "function", "function": {"name": "pay", "parameters": {}}},),
    answer={
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "pay", "arguments": '{"eur": 3}'}}
        ],
    },
    finish_reason="tool_calls",
    sampling=Sampling(temperature=0.7, top_p=0.95, top_k=40, max_tokens=64, seed=7),
    prompt_ids=_IDS,
    answer_ids=_IDS,
    logprobs=_LOGPROBS,
    redacted=("aws-access-key",),
    started_at=1763700000.25,
    ended_at=1763700001.5,
    choice=1,
    origin="gateway",
)

EXAMPLES: tuple[Record, ...] = (
    _TURN,
    Trajectory(
        trajectory_id="t-1",
        version=2,
        who=_WHO,
        label="internal",
        nodes=(Node(turn=_TURN, parent=None, tier="gold", trainable=True),),
        tier="gold",
        outcome="ok",
        feedback=(_digest("feedback"),),
        task="tau-bench/airline/12",
        family="airline",
        sealed_at=1763700900.0,
    ),
    Feedback(
        feedback_id="f-1",
        target=Target(turn_id="chatcmpl-1"),
        kind="correction",
        source="human",
        actor="ada",
        outcome="failed",
        correction="Es sind 3 €.",
        comment="wrong currency",
        tags={"task": "12", "family": "airline"},
        at=1763700100.0,
    ),
    Event(
        collector="gateway",
        epoch=3,
        sequence=17,
        key="s-1",
        kind="turn",
        record={"object": _digest("turn")},
        blobs={_digest("ids"): b"\x01\x00\x00\x00\x02\x00\x00\x00\x03\x00\x00\x00"},
    ),
    Dataset(
        base=_digest("base"),
        template=_digest("template"),
        recipe=_digest("recipe"),
        label="internal",
        trajectories=(("t-1", 2),),
        examples=(
            Example(
                trajectory_id="t-1",
                version=2,
                node=0,
                kind="success",
                tier="gold",
                family="airline",
                task="12",
                reward=1.0,
                ids=_IDS,
                mask=_MASK,
                logprobs=_LOGPROBS,
                adapter=_digest("adapter"),
            ),
        ),
        exclusions=(Exclusion(reason="too_long", subject="t-2#0"),),
        counts={"trajectories": 2, "examples": 1},
    ),
    Adapter(
        content=_digest("adapter"),
        base=_digest("base"),
        parent=_digest("parent"),
        dataset=_digest("dataset"),
        recipe=_digest("recipe"),
        rank=8,
        alpha=16,
        target_modules=("q_proj", "v_proj"),
        seed=0,
        num_threads=1,
        versions={"torch": "2.13.0"},
        probe=_digest("probe"),
        metrics={"loss": 0.125, "tokens": 30000.0},
    ),
    Probe(
        ids=((1, 2, 3), (4, 5)),
        logprobs=((-0.5, -1.25), (-2.0,)),
        base_logprobs=((-3.0, -4.5), (-0.125,)),
    ),
    Scorecard(
        candidate=_digest("adapter"),
        champion=_digest("champion"),
        base=_digest("base"),
        suites=(
            SuiteResult(
                suite="protected",
                suite_digest=_digest("suite"),
                kind="protected",
                num_items=200,
                champion_passed=150,
                candidate_passed=149,
                gained=2,
                lost=3,
                void=1,
                mcnemar_p=1.0,
                delta=-0.005,
                lower_95=-0.02,
                upper_95=0.01,
                smallest_effect=0.03,
                by_family={"arithmetic": (100, 80, 79)},
                metric="pass",
            ),
        ),
        seed=0,
        outputs=_digest("outputs"),
        overlap={"protected": 1},
    ),
    Approval(
        round=1,
        adapter=_digest("adapter"),
        scorecard=_digest("scorecard"),
        order=_digest("order"),
        approver="ada",
        decision="approve",
        comment="read the scorecard",
        at=1763701000.0,
    ),
    Release(
        alias="company-model",
        generation=2,
        adapter=_digest("adapter"),
        previous=_digest("champion"),
        reason="canary",
        approvals=(_digest("approval-1"), _digest("approval-2")),
        actor="ada",
        at=1763701100.0,
        rollout=Rollout(candidate=_digest("candidate"), share=5, salt="7f3a"),
    ),
    # Every number is given, so that another default does not look like another schema.
    Recipe(
        name="tiny",
        loss="supervised",
        rank=8,
        alpha=16,
        learning_rate=0.002,
        epochs=3,
        batch_tokens=4096,
        max_tokens=2048,
        token_budget=30000,
        clip_norm=1.0,
        warmup_share=0.05,
        corrections=True,
        correction_weight=2.0,
        replay_share=0.3,
        kl_weight=0.1,
        kl_every=2,
        negative_weight=0.3,
        importance_cap=2.0,
        leave_out=(
            LeaveOut(
                role="system",
                positions=(0,),
                before_last_user=False,
                mark=("<manual>", "</manual>"),
            ),
        ),
        keep_share=0.25,
        seed=1,
    ),
)
