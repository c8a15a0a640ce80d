"""What rounds brought: the target suites' gain, per attempt and per token of training."""

from collections.abc import Iterable
from functools import lru_cache

import msgspec
import sqlalchemy as sa

from appliance.control.rounds import Round
from appliance.control.steps import Ground
from appliance.core.digests import Digest
from appliance.core.errors import IntegrityError, NotFoundError
from appliance.core.objects import ObjectStore
from appliance.core.records import Adapter, Scorecard, decode
from appliance.core.tables import adapters, dataset_members


class Gain(msgspec.Struct, frozen=True, kw_only=True):
    """One round's gain, and what it cost. None is what the round did not get to."""

    round: int
    state: str
    at: float
    target: float | None
    """Share of target items passed: candidate minus champion."""
    protected: float | None
    attempts: int | None
    """Trajectories that its dataset looked at."""
    examples: int | None
    tokens: float | None
    """Tokens of training."""

    @property
    def per_attempt(self) -> float | None:
        """Gain of the target suites, in points, per 100 attempts."""
        return _per(self.target, self.attempts, 100)

    @property
    def per_token(self) -> float | None:
        """Gain of the target suites, in points, per 100,000 tokens of training."""
        return _per(self.target, self.tokens, 100_000)


def gains_of(ground: Ground, rounds: Iterable[Round]) -> list[Gain]:
    """One for each round, in their order."""
    past = list(rounds)
    members = _members(ground, [one.dataset for one in past if one.dataset])
    tokens = _tokens(ground, [one.adapter for one in past if one.adapter])
    found = []
    for one in past:
        target, protected = _deltas(ground.store, one.scorecard) if one.scorecard else (None, None)
        attempts, examples = members.get(one.dataset or "", (None, None))
        found.append(
            Gain(
                round=one.round,
                state=one.state,
                at=one.changed_at,
                target=target,
                protected=protected,
                attempts=attempts,
                examples=examples,
                tokens=tokens.get(one.adapter or ""),
            )
        )
    return found


@lru_cache(4096)
def _deltas(store: ObjectStore, scorecard: Digest) -> tuple[float | None, float | None]:
    """Over all pass-or-fail suites of a kind: candidate minus champion."""
    try:
        suites = decode(store.get(scorecard), Scorecard).suites
    except (NotFoundError, IntegrityError):
        return None, None
    found: list[float | None] = []
    for kind in ("target", "protected"):
        held = [s for s in suites if s.kind == kind and s.metric == "pass" and s.num_items]
        items = sum(s.num_items for s in held)
        won = sum(s.candidate_passed - s.champion_passed for s in held)
        found.append(won / items if items else None)
    return found[0], found[1]


def _members(ground: Ground, datasets: list[Digest]) -> dict[str, tuple[int, int]]:
    m = dataset_members.c
    query = (
        sa.select(m.dataset, sa.func.count(), sa.func.sum(m.num_examples))
        .where(m.dataset.in_(datasets))
        .group_by(m.dataset)
    )
    with ground.database.read() as connection:
        return {row[0]: (int(row[1]), int(row[2])) for row in connection.execute(query)}


def _tokens(ground: Ground, contents: list[Digest]) -> dict[str, float]:
    query = sa.select(adapters.c.content, adapters.c.record).where(adapters.c.content.in_(contents))
    with ground.database.read() as connection:
        rows = connection.execute(query).all()
    return {row.content: decode(row.record, Adapter).metrics.get("tokens", 0.0) for row in rows}


def _per(gain: float | None, cost: float | None, unit: int) -> float | None:
    return gain * 100 / cost * unit if gain is not None and cost else None
