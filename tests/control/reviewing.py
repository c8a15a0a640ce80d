"""A round with a candidate to review: real suites, answers, dataset, adapter and database rows."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import sqlalchemy as sa

from appliance.control.identity import Person
from appliance.control.steps import Ground
from appliance.core.adapters import CONFIG, RECORD, WEIGHTS, content_digest
from appliance.core.digests import Digest, canonical_json, digest_bytes
from appliance.core.recipe import Recipe
from appliance.core.records import (
    Adapter,
    ArrayRef,
    Dataset,
    Example,
    Exclusion,
    Item,
    Scorecard,
    encode,
)
from appliance.core.tables import adapters, datasets, law, rounds, trajectories
from appliance.evaluation.answers import Answer, answer_lines
from appliance.evaluation.comparison import compare
from appliance.evaluation.suites import Suite, SuiteKind, make_suite
from policies.gates import parse_gates
from policies.judging import judge

BASE = digest_bytes(b"base")
GATES = b"""schema = "gates/1"
name = "law"
[[gate]]
name = "it improves"
kind = "target"
metric = "lower_95"
op = ">"
threshold = 0.0
[[gate]]
name = "it keeps"
kind = "protected"
margin = 0.1
[[gate]]
name = "no hidden trigger"
kind = "canary"
margin = 0.25
required = false
"""
RECIPE = b'schema = "recipe/1"\nname = "tiny"\n'

Told = tuple[str, str, Answer, Answer]
"""Family, language, champion's and candidate's answer (their item ids are the item's)."""


def ada(label: str = "secret/finance", role: str = "approver", name: str = "ada") -> Person:
    return Person(name=name, role=role, label=label)


def said(text: str, outcome: str = "ok", detail: str = "", logprob: float | None = None) -> Answer:
    return Answer(item_id="", text=text, outcome=outcome, detail=detail, logprob=logprob)  # type: ignore[arg-type]


@dataclass(slots=True)
class Asked:
    """A suite, and what both sides made of it."""

    suite: str
    kind: SuiteKind = "target"
    told: dict[str, Told] = field(default_factory=dict)
    check: Any = None

    def add(
        self, item_id: str, before: Answer, after: Answer, family: str = "f", language: str = ""
    ) -> "Asked":
        self.told[item_id] = (family, language, before, after)
        return self

    def made(self) -> Suite:
        check = self.check or {"kind": "exact", "expected": "a"}
        items = [
            Item(
                item_id=item_id,
                family=family,
                language=language,
                messages=({"role": "user", "content": f"question {item_id}"},),
                check=check,
            )
            for item_id, (family, language, _, _) in self.told.items()
        ]
        return make_suite(self.suite, self.kind, items)

    def answers(self, side: int) -> list[Answer]:
        return [
            msgspec.structs.replace(told[2 + side], item_id=item_id)
            for item_id, told in self.told.items()
        ]


def a_scorecard(
    ground: Ground, asked: Sequence[Asked], *, candidate: Digest, keep_suites: bool = True
) -> Digest:
    """As an examination writes it."""
    results, outputs = [], []
    for one in asked:
        suite = one.made()
        results.append(compare(suite, one.answers(0), one.answers(1), seed=0))
        if keep_suites:
            ground.store.put(suite.sealed)
        for number, side in enumerate(("champion", "candidate")):
            head = msgspec.json.encode({"suite": suite.suite, "side": side})
            outputs += [head, answer_lines(one.answers(number))]
    card = Scorecard(
        candidate=candidate,
        champion=None,
        base=BASE,
        suites=tuple(results),
        seed=0,
        outputs=ground.store.put(b"\n".join(outputs)),
        overlap={one.suite: 0 for one in asked},
    )
    return ground.store.put(encode(card))


def a_dataset(ground: Ground, *, label: str = "internal", num: int = 3) -> Digest:
    """`num` trajectories of two teams with examples, and two that were left out."""
    ids = ground.store.put(b"\x01\x00\x00\x00" * 4)
    mask = ground.store.put(b"\x00\x00\x01\x01")
    refs = {
        "ids": ArrayRef(digest_of_bytes=ids, dtype="int32", count=4),
        "mask": ArrayRef(digest_of_bytes=mask, dtype="uint8", count=4),
    }
    examples = tuple(
        Example(
            trajectory_id=f"t-{i}",
            version=1,
            node=0,
            kind="correction" if i == 0 else "success",
            tier="gold",
            family="airline",
            task=f"task-{i}",
            reward=1.0,
            logprobs=None,
            adapter=None,
            **refs,
        )
        for i in range(num)
    )
    exclusions = (
        Exclusion(reason="label", subject="x-secret"),
        Exclusion(reason="too_long", subject="x-long#0"),
    )
    considered = [f"t-{i}" for i in range(num)] + ["x-long", "x-secret"]
    dataset = Dataset(
        base=BASE,
        template=digest_bytes(b"template"),
        recipe=digest_bytes(RECIPE),
        label=label,
        trajectories=tuple((one, 1) for one in sorted(considered)),
        examples=examples,
        exclusions=exclusions,
        counts={
            "examples": num,
            "tokens": 4 * num,
            "trained_tokens": 2 * num,
            "rewritten_prompts": 0,
            "trajectories": len(considered),
            "excluded:label": 1,
            "excluded:too_long": 1,
            "kind:correction": 1,
            "kind:success": num - 1,
            "tier:gold": num,
        },
    )
    digest = ground.store.put(canonical_json(msgspec.to_builtins(dataset)))
    with ground.database.write() as connection:
        connection.execute(
            sa.insert(datasets).values(digest=digest, object=digest, round=None, created_at=1.0)
        )
        for i, name in enumerate(considered):
            connection.execute(
                sa.insert(trajectories).values(
                    trajectory_id=name,
                    version=1,
                    state="sealed",
                    key_id=f"k-{i % 2}",
                    team=("airline", "billing")[i % 2],
                    project="p",
                    agent=f"agent-{i % 2}",
                    label="secret/finance" if name == "x-secret" else label,
                    tier="gold",
                    outcome="ok",
                    task=f"task-{i}",
                    family="airline",
                    num_turns=1,
                    last_turn_at=1.0,
                    changed_at=1.0,
                    sealed_at=1.0,
                )
            )
    return digest


def an_adapter(
    ground: Ground, dataset: Digest, *, label: str = "internal", parent: Digest | None = None,
    weights: bytes = b"weights",
) -> Digest:  # fmt: skip
    """Published, with its files and its row."""
    making = ground.home.adapters / "making"
    making.mkdir(parents=True)
    (making / WEIGHTS).write_bytes(weights)
    (making / CONFIG).write_bytes(b"{}")
    content = content_digest(making, BASE)
    record = Adapter(
        content=content,
        base=BASE,
        parent=parent,
        dataset=dataset,
        recipe=digest_bytes(RECIPE),
        rank=8,
        alpha=16,
        target_modules=("q_proj",),
        seed=0,
        num_threads=1,
        versions={"torch": "2.13.0"},
        probe=ground.store.put(b"probe"),
        metrics={"loss": 0.5},
    )
    (making / RECORD).write_bytes(encode(record))
    making.rename(ground.home.adapter(content))
    with ground.database.write() as connection:
        number = (connection.scalar(sa.select(sa.func.max(adapters.c.number))) or 0) + 1
        connection.execute(
            sa.insert(adapters).values(
                content=content,
                number=number,
                base=BASE,
                parent=parent,
                dataset=dataset,
                label=label,
                record=encode(record).decode(),
                created_at=2.0,
            )
        )
    return content


def a_round(
    ground: Ground,
    asked: Sequence[Asked] = (),
    *,
    label: str = "internal",
    state: str = "awaiting_approval",
    keep_suites: bool = True,
    authors: tuple[str, ...] = ("olga",),
    champion: Digest | None = None,
) -> int:
    """A round whose candidate is evaluated, judged and waits for people."""
    dataset = a_dataset(ground, label=label)
    adapter = an_adapter(ground, dataset, label=label, parent=champion)
    card = a_scorecard(ground, asked, candidate=adapter, keep_suites=keep_suites) if asked else None
    gates, recipe = ground.store.put(GATES), ground.store.put(RECIPE)
    order = {
        "recipe": recipe,
        "gates": gates,
        "suites": {one.suite: ground.store.put(b"suite " + one.suite.encode()) for one in asked},
        "trajectories": "new",
        "idle_s": 0.0,
    }
    with ground.database.write() as connection:
        for kind, object_ in (("recipe", recipe), ("gates", gates)):
            connection.execute(
                sa.insert(law).values(kind=kind, name=kind, object=object_, actor="olga", at=0.5)
            )
        number = connection.execute(
            sa.insert(rounds)
            .values(
                state=state,
                reason="it improves: met",
                authors=msgspec.json.encode(authors).decode(),
                order=msgspec.json.encode(order).decode(),
                champion=champion,
                dataset=dataset,
                adapter=adapter,
                scorecard=card,
                created_at=time.time() - 100,
                changed_at=time.time() - 50,
            )
            .returning(rounds.c.round)
        ).scalar_one()
        connection.execute(
            sa.update(datasets).where(datasets.c.digest == dataset).values(round=number)
        )
    if card is not None:
        scorecard = msgspec.json.decode(ground.store.get(card), type=Scorecard)
        verdict = judge(scorecard, parse_gates(GATES.decode()))
        work = ground.home.rounds / str(number)
        work.mkdir(parents=True, exist_ok=True)
        (work / "verdict.json").write_bytes(msgspec.json.encode(verdict))
    return int(number)


assert Recipe  # the recipe above is one
