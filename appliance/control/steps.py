"""What a round does in each state. A step may run again after a crash: what it makes is addressed
by its content, so it makes the same thing, or finds it made.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import sqlalchemy as sa

from appliance.control import local_http, programs, releasing
from appliance.control.budget import Budget
from appliance.control.programs import ProgramError
from appliance.control.rounds import Round
from appliance.core.database import Database
from appliance.core.decisions import Approval
from appliance.core.digests import Digest, short
from appliance.core.errors import NotApprovedError
from appliance.core.files import publish
from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.records import Scorecard, decode
from appliance.core.settings import Settings
from appliance.core.signers import signers
from appliance.core.tables import approvals, datasets, releases
from policies.access import Act, roles_that
from policies.gates import Gates, parse_gates
from policies.judging import judge
from policies.lifecycle import State
from policies.quorum import require_quorum

SYSTEM = "espalier"
"""The actor of what nobody in particular did."""


@dataclass(frozen=True, slots=True)
class Next:
    """Where a step leads: the state, why, and what it made."""

    state: State
    reason: str = ""
    made: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Ground:
    """What steps work on."""

    home: Home
    settings: Settings
    database: Database
    store: ObjectStore

    def work(self, round_: Round) -> Path:
        """The round's folder: its law as files, its programs' output, checkpoints."""
        work = self.home.rounds / str(round_.round)
        work.mkdir(parents=True, exist_ok=True)
        return work


def collect(ground: Ground, round_: Round, on_wait: Callable[[], None]) -> Next:
    """Seal what has been quiet long enough, once everything in the log has been taken in."""
    on_wait()
    local_http.over_socket(
        ground.home.socket("collectors"), "POST", "/flush", {"idle_s": round_.order.idle_s}
    )
    return Next(State.CURATING, made={"champion": serving_now(ground)})


def curate(ground: Ground, round_: Round, on_wait: Callable[[], None]) -> Next:
    """Seal the dataset; with it, where the gates ask for one, what is held out to judge by."""
    share = gates_of(ground, round_).hold_out_share
    made = _run(
        ground,
        round_,
        on_wait,
        "collectors",
        "curate",
        "--recipe",
        str(_law_file(ground, round_, round_.order.recipe, "recipe.toml")),
        "--trajectories",
        round_.order.trajectories,
        "--round",
        str(round_.round),
        "--hold-out-share",
        str(share),
    )
    if made["examples"] == 0:
        why = ", ".join(f"{n} {reason}" for reason, n in sorted(made["excluded"].items()))
        return Next(State.FAILED, f"nothing to train on: {why or _nothing_sealed(ground, round_)}")
    return Next(State.TRAINING, made={"dataset": made["dataset"]})


def train(ground: Ground, round_: Round, on_wait: Callable[[], None]) -> Next:
    """Grow the adapter from the champion."""
    parent = ["--parent", round_.champion] if round_.champion else []
    with Budget(ground.settings.gpu, ground.home.socket("engine")) as budget:
        made = _run(
            ground,
            round_,
            on_wait,
            "adapter_training",
            "train",
            "--dataset",
            str(round_.dataset),
            "--recipe",
            str(_law_file(ground, round_, round_.order.recipe, "recipe.toml")),
            "--work",
            str(ground.work(round_)),
            *parent,
            may_run=budget.may_run,
        )
    return Next(State.EVALUATING, made={"adapter": made["adapter"]})


def evaluate(ground: Ground, round_: Round, on_wait: Callable[[], None]) -> Next:
    """Compare with the champion on every suite, and let the gates judge."""
    suites = ground.work(round_) / "suites"
    suites.mkdir(exist_ok=True)
    for name, digest in round_.order.suites.items():
        _law_file(ground, round_, digest, f"suites/{name}.jsonl")
    champion = ["--champion", round_.champion] if round_.champion else []
    aside = held_out_of(ground.database, round_.dataset)
    held_out = ["--held-out", aside] if aside else []
    gates = gates_of(ground, round_)
    made = _run(
        ground,
        round_,
        on_wait,
        "appliance.evaluation",
        "run",
        "--candidate",
        str(round_.adapter),
        "--suites",
        str(suites),
        "--dataset",
        str(round_.dataset),
        "--work",
        str(ground.work(round_)),
        "--canary-spans",
        str(gates.canary_spans),
        *champion,
        *held_out,
    )
    scorecard = decode(ground.store.get(made["scorecard"]), Scorecard)
    verdict = judge(scorecard, gates)
    publish(ground.work(round_) / "verdict.json", msgspec.json.encode(verdict))
    state = {
        "pass": State.AWAITING_APPROVAL,
        "refused": State.REFUSED,
        "inconclusive": State.INCONCLUSIVE,
    }[verdict.verdict]
    return Next(state, verdict.reason, made={"scorecard": made["scorecard"]})


def await_approval(ground: Ground, round_: Round, on_wait: Callable[[], None]) -> Next | None:
    """None while people are still thinking."""
    on_wait()
    cast = approvals_of(ground.database, round_.round)
    if rejected := [a for a in cast if a.decision == "reject"]:
        return Next(State.REJECTED, f"{rejected[0].approver}: {rejected[0].comment}")
    try:
        require_release(ground, round_, at=time.time())
    except NotApprovedError as error:
        if time.time() - round_.changed_at > ground.settings.round.approval_hours * 3600:
            return Next(State.FAILED, f"nobody decided in time: {error.message}")
        return None
    return Next(State.RELEASING)


def release(ground: Ground, round_: Round, on_wait: Callable[[], None]) -> Next | None:
    """Ask serving to verify, prepare, probe and move the alias; None while it tries it out."""
    on_wait()
    if released_already(ground, round_):
        return Next(State.RELEASED)
    if trial := trial_of(ground, round_):
        return None if trial.under_way else Next(State.FAILED, trial.ended)
    now = serving_now(ground)
    # Whoever killed, rolled back or released meanwhile made the scorecard speak of the past.
    if now != round_.champion:
        before, after = (short(one or "base") for one in (round_.champion, now))
        return Next(State.FAILED, f"it was compared with {before}, now {after} is served")
    moved = ask_release(ground, round_, actor=SYSTEM)["release"]
    return Next(State.RELEASED) if moved["reason"] == "release" else None


STEPS: dict[State, Callable[[Ground, Round, Callable[[], None]], Next | None]] = {
    State.CREATED: lambda *_: Next(State.COLLECTING),
    State.COLLECTING: collect,
    State.CURATING: curate,
    State.TRAINING: train,
    State.EVALUATING: evaluate,
    State.AWAITING_APPROVAL: await_approval,
    State.RELEASING: release,
}


def is_waiting(ground: Ground, round_: Round) -> bool:
    """Whether there is nothing to do until people have decided, or serving has tried it out."""
    if round_.state is State.AWAITING_APPROVAL:
        return await_approval(ground, round_, lambda: None) is None
    trial = trial_of(ground, round_) if round_.state is State.RELEASING else None
    return trial is not None and trial.under_way


def require_release(ground: Ground, round_: Round, *, at: float) -> list[Approval]:
    """The approvals of this round's adapter, if they are enough.

    Raises:
        NotApprovedError: they are not.
    """
    if round_.candidate is None:
        raise NotApprovedError(f"round {round_.round} has no evaluated adapter")
    cast = approvals_of(ground.database, round_.round)
    with ground.database.read() as connection:
        able = signers(connection, roles_that(Act.APPROVE))
    require_quorum(
        cast,
        candidate=round_.candidate,
        authors=round_.authors,
        signers=able,
        needed=gates_of(ground, round_).quorum,
        now=at,
        valid_s=ground.settings.round.approval_hours * 3600,
    )
    return cast


def ask_release(ground: Ground, round_: Round, *, actor: str, alias: str = "") -> dict[str, Any]:
    """One release request to serving, which checks everything again before traffic. An empty
    `alias` is the endpoint's own.
    """
    cast = require_release(ground, round_, at=time.time())
    route = f"/releases?alias={quote(alias)}" if alias else "/releases"
    current = local_http.over_socket(ground.home.socket("serving"), "GET", route)
    answer: dict[str, Any] = local_http.over_socket(
        ground.home.socket("serving"),
        "POST",
        "/release",
        {
            "round": round_.round,
            "adapter": round_.adapter,
            "expected_generation": current["generation"],
            "approvals": [a.digest for a in cast if a.decision == "approve"],
            "actor": actor,
            "alias": alias,
        },
        timeout_s=300.0,
    )
    return answer


def approvals_of(database: Database, number: int) -> list[Approval]:
    """Every decision about this round, in the order in which they were made."""
    query = sa.select(approvals.c.record).where(approvals.c.round == number)
    with database.read() as connection:
        rows = connection.execute(query.order_by(approvals.c.number)).all()
    return [decode(row.record, Approval) for row in rows]


def held_out_of(database: Database, dataset: Digest | None) -> Digest | None:
    """What curation kept from training beside this dataset, if anything."""
    with database.read() as connection:
        row = connection.execute(
            sa.select(datasets.c.held_out).where(datasets.c.digest == dataset)
        ).first()
    return row.held_out if row else None


def serving_now(ground: Ground, alias: str = "") -> Digest | None:
    """The adapter that the alias means, empty the endpoint's own; None is the base."""
    with ground.database.read() as connection:
        row = connection.execute(
            sa.select(releases.c.adapter)
            .where(releases.c.alias == (alias or ground.settings.gateway.alias))
            .order_by(releases.c.generation.desc())
            .limit(1)
        ).first()
    return row.adapter if row else None


def released_already(ground: Ground, round_: Round) -> bool:
    """Whether the alias moved on this round's approvals, and a kill came before we could say so.

    Moved once more, it would have itself as the version before, with nothing to roll back to; and
    it would undo what a person did to it in the meantime.
    """
    cast = approvals_of(ground.database, round_.round)
    alias = ground.settings.gateway.alias
    moves = releasing.entries_citing(ground.database, alias, cast, "release")
    return any(move.adapter == round_.adapter for move in moves)


def trial_of(ground: Ground, round_: Round) -> releasing.Trial | None:
    """How serving's trial of this round's adapter goes; None where it was never begun."""
    cast = approvals_of(ground.database, round_.round)
    return releasing.trial_of(ground.database, ground.settings.gateway.alias, round_.adapter, cast)


def _nothing_sealed(ground: Ground, round_: Round) -> str:
    health = local_http.over_socket(ground.home.socket("collectors"), "GET", "/health")
    return (
        f"no new sealed trajectories; {health['open']} are open until they have been quiet for "
        f"{round_.order.idle_s:g} s ([assembly] idle_s, or --idle-s 0 for now)"
    )


def gates_of(ground: Ground, round_: Round) -> Gates:
    """The gates that were in force when the round began."""
    return parse_gates(ground.store.get(round_.order.gates).decode())


def _law_file(ground: Ground, round_: Round, digest: Digest, name: str) -> Path:
    path = ground.work(round_) / name
    path.write_bytes(ground.store.get(digest))
    return path


def _run(
    ground: Ground,
    round_: Round,
    on_wait: Callable[[], None],
    module: str,
    verb: str,
    *rest: str,
    may_run: Callable[[], bool] = lambda: True,
) -> dict[str, Any]:
    threads = ground.settings.gpu.trainer_threads if module == "adapter_training" else 1
    made = programs.run(
        module,
        verb,
        "--home",
        str(ground.home.root),
        "--json",
        *rest,
        home=ground.home,
        work=ground.work(round_),
        name=verb,
        threads=threads,
        on_wait=on_wait,
        may_run=may_run,
    )
    if not made:
        raise ProgramError(f"{module} {verb} made nothing: {json.dumps(made)}")
    return made
