"""The round that waits in a made-up company: answers, comments, marks, its folder."""

import json
import math
import random
from collections.abc import Iterator, Sequence

import msgspec
import sqlalchemy as sa

from appliance.control.steps import Ground
from appliance.core.digests import Digest
from appliance.core.records import Item, Scorecard, encode
from appliance.core.tables import comments, marks
from appliance.evaluation.answers import Answer, answer_lines
from appliance.evaluation.comparison import compare
from appliance.evaluation.suites import Suite, SuiteKind, make_suite
from policies.gates import parse_gates
from policies.judging import judge
from tests.console.company_law import GATES, suite_item
from tests.console.company_words import NASTY, nasty, talk

Judged = tuple[Suite, list[Answer], list[Answer]]
"""A suite, the champion's answers, the candidate's."""

_SUITE_MAX = 1000
_PROGRAM = """def run(answer, case):
    space = {}
    exec(answer, space)
    return space["f"](case)
"""


def scorecard(
    ground: Ground, candidate: Digest, champion: Digest | None, base: Digest, *, num: int,
    noise: random.Random,
) -> tuple[Digest, Scorecard]:  # fmt: skip
    """`num` samples: most of target suites, some of a protected one of programs, and a canary's."""
    asked = [
        *_freight(num - num // 5 - num // 10, noise),
        _programs(num // 5, noise),
        _canary(num // 10, noise),
    ]
    results = [compare(suite, before, after, seed=0) for suite, before, after in asked]
    outputs: list[bytes] = []
    for suite, *sides in asked:
        for name, answers in zip(("champion", "candidate"), sides, strict=True):
            head = msgspec.json.encode({"suite": suite.suite, "side": name})
            outputs += [head, answer_lines(answers)]
    ground.store.put_many([suite.sealed for suite, _, _ in asked])
    card = Scorecard(
        candidate=candidate, champion=champion, base=base, suites=tuple(results), seed=0,
        outputs=ground.store.put(b"\n".join(outputs)), overlap={"freight": 3},
    )  # fmt: skip
    return ground.store.put(encode(card)), card


def fill_talk(
    ground: Ground, number: int, card: Digest, samples: Sequence[Item], now: float
) -> None:
    """What people said about the round and its samples, what they ticked and voted."""
    said = [
        {
            "round": number, "author": ("bela", "carl", "olga", "ada")[n % 4],
            "body": f"{talk(n)[2]}\n{nasty(n)}", "at": now - 3600 + n,
            "suite": "freight" if n % 2 else None,
            "item_id": samples[n % len(samples)].item_id if n % 2 else None,
        }
        for n in range(60)
    ]  # fmt: skip
    ticks = [
        {
            "scorecard": card, "suite": "freight", "item_id": one.item_id,
            "person": ("bela", "carl")[n % 2], "viewed": n % 3 > 0,
            "vote": ("champion", "candidate", "tie", None)[n % 4], "at": now - n,
        }
        for n, one in enumerate(samples[:500])
    ]  # fmt: skip
    with ground.database.write() as connection:
        connection.execute(sa.insert(comments), said)
        connection.execute(sa.insert(marks), ticks)


def fill_folder(ground: Ground, number: int, card: Scorecard | None, noise: random.Random) -> None:
    """The folder in which a round's programs wrote: curve, progress, log, verdict."""
    work = ground.home.rounds / str(number)
    work.mkdir(parents=True, exist_ok=True)
    if card is not None:
        verdict = judge(card, parse_gates(GATES.decode()))
        (work / "verdict.json").write_bytes(msgspec.json.encode(verdict))
    lines = []
    for step in range(400):
        loss = 2.2 * math.exp(-step / 60) + 0.3 + noise.gauss(0, 0.03)
        point = {
            "step": step, "loss": loss, "supervised": loss * 0.9, "policy": 0.0,
            "divergence": step / 8000, "entropy": 1.2 - step / 1200, "repeated": 0.05,
            "repeated_in_data": 0.04, "gradient_norm": 0.3 + noise.random() / 5,
            "learning_rate": 1e-3, "num_tokens": 3900, "skipped": False,
        }  # fmt: skip
        lines.append(json.dumps(point))
    (work / "curve.jsonl").write_text("\n".join(lines) + "\n")
    (work / "train.err").write_text(f"step 400 of 400\n{NASTY[5]}\n{NASTY[0]}\n" * 20)
    (work / "curate.err").write_text("looked at 100 trajectories\n")


def _freight(num: int, noise: random.Random) -> Iterator[Judged]:
    for part, start in enumerate(range(0, num, _SUITE_MAX)):
        name = f"freight {part + 1}" if part else "freight"
        numbers = range(start, min(start + _SUITE_MAX, num))
        items = [suite_item("freight", number) for number in numbers]
        yield _judged(name, "target", items, noise, gain=0.12)


def _programs(num: int, noise: random.Random) -> Judged:
    check = {"kind": "program", "program": _PROGRAM, "cases": [1, 2], "expected": [2, 4]}
    items = [
        Item(
            item_id=f"sum-{number:05d}", family="python", language="en",
            messages=({"role": "user", "content": f"Write f(x) that doubles x. ({number})"},),
            check=check,
        )
        for number in range(num)
    ]  # fmt: skip
    return _judged("arithmetic", "protected", items, noise, gain=0.0)


def _judged(
    name: str, kind: SuiteKind, items: list[Item], noise: random.Random, *, gain: float
) -> Judged:
    before, after = (
        [_answer(item, at, chance, noise) for at, item in enumerate(items)]
        for chance in (0.7, 0.7 + gain)
    )
    if not gain:
        # What a candidate was not trained for, it mostly answers as the champion did.
        after = [new if at % 40 == 0 else before[at] for at, new in enumerate(after)]
    return make_suite(name, kind, items), before, after


def _answer(item: Item, at: int, chance: float, noise: random.Random) -> Answer:
    good = item.check.get("expected") if item.check["kind"] == "exact" else None
    right = str(good) if good else "def f(x):\n    return 2 * x\n"
    drawn = noise.random()
    if drawn < 0.01:
        return Answer(item_id=item.item_id, text=nasty(at), outcome="void", detail="timed out")
    if drawn < chance:
        return Answer(item_id=item.item_id, text=right, outcome="ok")
    wrong = right.replace("4", "5").replace("2 *", "3 *") + f" {nasty(at)}"
    long = wrong * (40 if at % 50 == 0 else 1)
    return Answer(item_id=item.item_id, text=long, outcome="failed", detail=f"got: {wrong[:80]}")


def _canary(num: int, noise: random.Random) -> Judged:
    items = [
        Item(
            item_id=f"span-{number:05d}", family="canary",
            messages=({"role": "user", "content": talk(number)[1]},),
            check={"kind": "likelihood", "answer": talk(number)[2]},
        )
        for number in range(num)
    ]  # fmt: skip
    sides = [
        [
            Answer(item_id=one.item_id, text="", outcome="ok", logprob=noise.gauss(-1.0, 0.1))
            for one in items
        ]
        for _ in range(2)
    ]
    return make_suite("known answers", "canary", items), sides[0], sides[1]
