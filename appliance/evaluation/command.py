"""``python -m appliance.evaluation``: compare two adapters, or measure one on one suite."""

import argparse
import sys
from pathlib import Path

import msgspec

from appliance.core.digests import Digest, parse_digest
from appliance.core.errors import EspalierError, RecordError
from appliance.core.files import publish
from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.records import Dataset, Record, Scorecard, decode
from appliance.engine.client import Engine
from appliance.evaluation.answers import Answer, Examiner
from appliance.evaluation.examination import Examination
from appliance.evaluation.likelihood import likelihood_suite
from appliance.evaluation.suites import Suite, read_folder, read_suite


class Ran(Record, frozen=True, kw_only=True):
    """What `run` ends with."""

    scorecard: Digest
    overlap: dict[str, int]


class Checked(Record, frozen=True, kw_only=True):
    """What `check` ends with."""

    suite: str
    kind: str
    items: int


class Measured(Record, frozen=True, kw_only=True):
    """What `evaluate` ends with: one adapter on one suite."""

    suite: str
    kind: str
    adapter: str
    base: Digest
    items: int
    """Items that could be judged; void ones are in none of the other numbers."""
    passed: int
    rate: float
    void: int
    by_family: dict[str, tuple[int, int]]
    """Family → (judged items, passed)."""
    nats_per_token: float | None
    """Mean logprob per answer token, for a suite that is judged by likelihood."""


def main(arguments: list[str] | None = None) -> int:
    """Parse, do, and turn errors of ours into a message and an exit code."""
    order = _parser().parse_args(arguments)
    try:
        order.act(order)
    except EspalierError as error:
        print(f"espalier: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _run(order: argparse.Namespace) -> None:
    home = Home.existing(order.home)
    suites = read_folder(order.suites)
    store = ObjectStore(home.objects)
    if order.held_out is not None:
        held_out = decode(store.get(order.held_out), Dataset)
        suites.append(likelihood_suite("held-out successes", held_out))
    with Examiner(home, Engine(home.socket("engine"))) as examiner:
        examination = Examination(
            examiner,
            store,
            candidate=order.candidate,
            champion=order.champion,
            dataset=order.dataset,
            seed=order.seed,
            report=lambda line: print(line, file=sys.stderr, flush=True),
        )
        digest = examination.run(suites, num_spans=order.canary_spans, num_items=order.canary_items)
    data = store.get(digest)
    if order.work is not None:
        order.work.mkdir(parents=True, exist_ok=True)
        publish(order.work / "scorecard.json", data)
    scorecard = decode(data, Scorecard)
    made = Ran(scorecard=digest, overlap=scorecard.overlap)
    print(msgspec.json.encode(made).decode() if order.json else f"scorecard {digest}")


def _evaluate(order: argparse.Namespace) -> None:
    home = Home.existing(order.home)
    suite = read_suite(order.suite)
    with Examiner(home, Engine(home.socket("engine"))) as examiner:
        measured = measure(examiner, order.adapter, suite)
    if order.json:
        print(msgspec.json.encode(measured).decode())
        return
    void = f", {measured.void} void" if measured.void else ""
    print(f"{measured.suite}: {measured.passed} of {measured.items} ({measured.rate:.3f}){void}")
    for family, (num, passed) in measured.by_family.items():
        print(f"  {family}: {passed} of {num}")


def _check(order: argparse.Namespace) -> None:
    suite = read_suite(order.file)
    checked = Checked(suite=suite.suite, kind=suite.kind, items=len(suite.items))
    if order.json:
        print(msgspec.json.encode(checked).decode())
    else:
        print(f"{checked.suite}: {checked.items} items, each in order")


def measure(examiner: Examiner, adapter: Digest | None, suite: Suite) -> Measured:
    """One adapter (None: the base) on one suite, held-out ones too."""
    answers = examiner.answers(adapter, suite)
    judged = [(i, a) for i, a in zip(suite.items, answers, strict=True) if a.outcome != "void"]
    families: dict[str, list[Answer]] = {}
    for item, answer in judged:
        families.setdefault(item.family, []).append(answer)
    passed = sum(answer.outcome == "ok" for _, answer in judged)
    logprobs = [answer.logprob for _, answer in judged if answer.logprob is not None]
    return Measured(
        suite=suite.suite,
        kind=suite.kind,
        adapter=adapter or "base",
        base=examiner.base.digest,
        items=len(judged),
        passed=passed,
        rate=passed / len(judged) if judged else 0.0,
        void=len(suite.items) - len(judged),
        by_family={
            family: (len(held), sum(answer.outcome == "ok" for answer in held))
            for family, held in sorted(families.items())
        },
        nats_per_token=sum(logprobs) / len(logprobs) if logprobs else None,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m appliance.evaluation", description=__doc__)
    acts = parser.add_subparsers(required=True)

    run = acts.add_parser("run", help="candidate against champion on every suite: a scorecard")
    run.add_argument("--candidate", type=_digest, required=True, help="the adapter to judge")
    run.add_argument("--champion", type=_digest, help="the adapter to beat; default: the base")
    run.add_argument("--suites", type=Path, required=True, help="folder of suite files (*.jsonl)")
    run.add_argument("--dataset", type=_digest, required=True, help="what made the candidate")
    run.add_argument(
        "--held-out",
        type=_digest,
        help="a held-out dataset whose successes become a target suite, judged by likelihood",
    )
    run.add_argument("--canary-spans", type=_count, default=4, help="canary suites (default 4)")
    run.add_argument("--canary-items", type=_count, default=40, help="items of each (default 40)")
    run.add_argument("--seed", type=int, default=0)
    run.add_argument("--work", type=Path, help="folder for a copy of the scorecard")
    run.set_defaults(act=_run)

    evaluate = acts.add_parser(
        "evaluate", prog="espalier evaluate", help="one adapter on one suite"
    )
    evaluate.add_argument("adapter", type=_digest_or_base, help="an adapter's digest, or base")
    evaluate.add_argument("--suite", type=Path, required=True, help="suite file")
    evaluate.set_defaults(act=_evaluate)

    check = acts.add_parser("check", help="whether a suite file is in order")
    check.add_argument("file", type=Path, help="suite file")
    check.set_defaults(act=_check)

    for act in (run, evaluate, check):
        act.add_argument("--home", help="default: $ESPALIER_HOME, else ~/.espalier")
        act.add_argument("--json", action="store_true", help="one JSON object as the last line")
    return parser


def _digest(text: str) -> Digest:
    try:
        return parse_digest(text)
    except RecordError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _digest_or_base(text: str) -> Digest | None:
    return None if text == "base" else _digest(text)


def _count(text: str) -> int:
    try:
        number = int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}") from error
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {number}")
    return number
