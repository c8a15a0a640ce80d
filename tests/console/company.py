"""A home filled with a made-up company: the same for the same seed and sizes, times aside.

Written through the database and the object store directly, because a year of real rounds is too
slow; every record is one that the programs would read.
"""

import random
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from appliance.control import law
from appliance.control.steps import Ground
from appliance.core.database import Database
from appliance.core.digests import Digest
from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.settings import load_settings
from tests.console import company_review as review
from tests.console.company_base import register_base
from tests.console.company_law import fill_law, fill_people, fill_proposals, suite_item
from tests.console.company_rounds import ENDS, Past
from tests.console.company_work import fill_work, name_of, sealed_kinds

_LOOKED_AT = 10_000
_HOUR = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much there is of what."""

    trajectories: int = 600
    rounds: int = 70
    samples: int = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Company:
    """A filled home, and what to look at in it."""

    home: Home
    size: Size
    waiting: int
    """The round that waits for approval: its review is full."""
    released: int
    """A round that was released."""
    failed: int
    """One that failed early."""
    candidate: Digest
    champion: Digest
    dataset: Digest
    suite: str = "freight"
    item: str = "freight-00000"
    trajectory: str = name_of(0)
    many_turns: str = name_of(1)
    long: str = name_of(2)
    proposal: int = 1
    repeal: int = 2
    change: str
    """Two versions of the suite ``arithmetic``, as a query."""
    now: float


def fill(root: Path, size: Size, *, seed: int = 0, now: float | None = None) -> Company:
    """Make the home and fill it."""
    home = Home(root)
    home.create()
    database = Database.open(home.database)
    ground = Ground(home, load_settings(home, {}), database, ObjectStore(home.objects))
    try:
        return _fill(ground, size, random.Random(seed), time.time() if now is None else now)
    finally:
        database.close()


def _fill(ground: Ground, size: Size, noise: random.Random, now: float) -> Company:
    base = register_base(ground.home)
    fill_people(ground, now=now)
    in_force = fill_law(ground, now=now, noise=noise)
    fill_proposals(ground, in_force, now=now)
    past = Past(ground, base, in_force, alias=ground.settings.gateway.alias, noise=noise)
    number, share = size.rounds, max(1, size.trajectories // size.rounds)
    for one in range(1, number):
        members = range((one - 1) * share, one * share)
        past.add(one, _end(one, number), members, at=now - (number - one) * _HOUR)
    champion = past.champion
    assert champion is not None
    company = _waiting(ground, past, base, size, in_force, now=now, noise=noise)
    past.write()
    kinds = sealed_kinds(ground, base, now=now, noise=noise)
    fill_work(ground, kinds, past.served, num=size.trajectories, now=now, noise=noise)
    for one in (number - 1, number - 2):
        review.fill_folder(ground, one, None, noise)
    return company


def _waiting(
    ground: Ground, past: Past, base: Digest, size: Size, in_force: dict[str, Digest], *,
    now: float, noise: random.Random,
) -> Company:  # fmt: skip
    """The last round: made again once, so that an earlier decision was dismissed."""
    number, at = size.rounds, now - _HOUR
    champion = past.champion
    assert champion is not None
    dataset = past.dataset(number, range(min(size.trajectories, _LOOKED_AT)), at=at)
    first = past.adapter(number, dataset, at=at)
    stale = past.scorecard(number, first)
    past.decide(number, "carl", "request_changes", first, stale, "Freight twice.", at=now - 1800)
    candidate = past.adapter(number, dataset, at=at + 1, again=1)
    card, read = review.scorecard(ground, candidate, champion, base, num=size.samples, noise=noise)
    past.round_(number, "awaiting_approval", dataset, candidate, card, at=at)
    past.decide(number, "bela", "approve", candidate, card, "I tried twenty.", at=now - 600)
    samples = [suite_item("freight", n) for n in range(min(size.samples // 2, 500))]
    review.fill_talk(ground, number, card, samples, now)
    review.fill_folder(ground, number, read, noise)
    return Company(
        home=ground.home, size=size, waiting=number, released=number - 1, failed=number - 2,
        candidate=candidate, champion=champion, dataset=dataset, now=now,
        change=urlencode({"old": _first_arithmetic(ground), "new": in_force["suite/arithmetic"]}),
    )  # fmt: skip


def _first_arithmetic(ground: Ground) -> str:
    return law.history(ground.database, kind="suite", name="arithmetic")[-1].object


def _end(number: int, last: int) -> str:
    return {last - 1: "released", last - 2: "failed"}.get(number, ENDS[number % len(ENDS)])
