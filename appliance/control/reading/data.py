"""The data of a review: which trajectories, corrections and tasks made the candidate, what was
left out and why, and whose work it was. Trajectories above the reader's label are only counted.
"""

import json
import threading
from collections import Counter
from typing import Any

import msgspec
import sqlalchemy as sa

from appliance.control.identity import Person
from appliance.control.reading import candidate
from appliance.control.rounds import Rounds
from appliance.control.steps import Ground, held_out_of
from appliance.core.digests import Digest
from appliance.core.errors import NotFoundError
from appliance.core.files import publish
from appliance.core.records import Dataset, decode
from appliance.core.tables import dataset_members, trajectories
from policies.access import Act

PAGE = 50
_TOP = 10
_TASKS = 20


class Filters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which trajectories are listed; an empty filter lets everything through."""

    reason: str = ""
    """Left out, or partly left out, for this."""
    team: str = ""
    label: str = ""
    kind: str = ""
    """``taken``, ``corrected`` or ``left_out``."""


class Group(msgspec.Struct, frozen=True):
    """Some of the dataset's trajectories, and what was taken from them."""

    name: str
    trajectories: int
    examples: int
    corrections: int
    left_out: int
    """Trajectories of which nothing was taken."""


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """A dataset in numbers."""

    label: str
    counts: dict[str, int]
    reasons: dict[str, int]
    """Why something was left out → how often; commonest first."""
    kinds: dict[str, int]
    tiers: dict[str, int]
    teams: list[Group]
    labels: list[Group]
    tasks: list[Group]
    """Those with most examples."""
    num_tasks: int
    agents: list[Group]
    """The agents (team/project/agent) with most examples."""
    keys: list[Group]
    """The keys with most examples."""


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A trajectory that the dataset looked at."""

    trajectory_id: str
    version: int
    num_examples: int
    num_corrections: int
    excluded: str
    team: str
    agent: str
    label: str
    task: str | None
    outcome: str


class Data(msgspec.Struct, frozen=True, kw_only=True):
    """The data tab."""

    dataset: Digest
    overview: Overview
    held_out: dict[str, int] | None
    """What was kept from training to judge by, in numbers."""
    members: list[Member]
    after: str | None
    """Ask for the next page with it."""
    num_hidden: int
    """Trajectories above the reader's label: counted, not listed."""


def find(ground: Ground, person: Person, number: int, filters: Filters, after: str = "") -> Data:
    """A round's data: its numbers, and a page of the trajectories whose id comes after `after`.

    Raises:
        NotFoundError: no such round, or it has no dataset yet.
        IntegrityError: the dataset is damaged on disk.
    """
    person.require(Act.VIEW)
    round_ = Rounds(ground.database).get(number)
    if round_.dataset is None:
        raise NotFoundError(
            f"round {number} has no dataset: it is {round_.state}",
            next_step="the round's page says how far it is",
        )
    overview = warm(ground, number, round_.dataset)
    if not person.sees(overview.label):
        # Names of tasks and agents say what the work was.
        overview = msgspec.structs.replace(overview, tasks=[], agents=[], keys=[])
    hidden = [group for group in overview.labels if not person.sees(group.name)]
    seen = [group.name for group in overview.labels if person.sees(group.name)]
    with ground.database.read() as connection:
        source = _members(ground, connection, round_.dataset)
        rows = connection.execute(_listed(source, filters, seen, after)).all()
    aside = held_out_of(ground.database, round_.dataset)
    members = [Member(**row._mapping) for row in rows[:PAGE]]
    return Data(
        dataset=round_.dataset,
        overview=overview,
        held_out=candidate.dataset_head(ground, aside).counts if aside else None,
        members=members,
        after=members[-1].trajectory_id if len(rows) > PAGE else None,
        num_hidden=sum(group.trajectories for group in hidden),
    )


def warm(ground: Ground, number: int, dataset: Digest) -> Overview:
    """The numbers of a round's dataset. They are counted once, and kept in the round's folder.

    With 100,000 trajectories that takes half a second: whoever has just curated can do it.
    """
    path = ground.home.rounds / str(number) / _FILE
    with _lock:
        stamp = ground.store.stamp(dataset)
        try:
            kept = msgspec.json.decode(path.read_bytes(), type=_Kept)
            if (kept.dataset, kept.stamp) == (dataset, stamp):
                return kept.overview
        except (OSError, msgspec.DecodeError):
            pass  # there is none yet, or an older version wrote it
        found = overview(ground, dataset)
        path.parent.mkdir(parents=True, exist_ok=True)
        publish(path, msgspec.json.encode(_Kept(dataset, stamp, found)))
    return found


class _Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    dataset: Digest
    stamp: tuple[int, int, int, int]
    overview: Overview


_FILE = "data.json"
_lock = threading.Lock()


def overview(ground: Ground, dataset: Digest) -> Overview:
    """Count a dataset.

    Raises:
        IntegrityError: it is damaged on disk.
    """
    head = candidate.dataset_head(ground, dataset)
    tally = _Tally()
    with ground.database.read() as connection:
        m = _members(ground, connection, dataset)
        for row in connection.execute(_counted(m)):
            tally.add(*row)
    tasks = tally.groups("task")
    return Overview(
        label=head.label,
        counts=head.counts,
        reasons=dict(Counter(_prefixed(head.counts, "excluded:")).most_common()),
        kinds=_prefixed(head.counts, "kind:"),
        tiers=_prefixed(head.counts, "tier:"),
        teams=tally.groups("team"),
        labels=tally.groups("label"),
        tasks=_taken(tasks)[:_TASKS],
        num_tasks=len(tasks),
        agents=_taken(tally.groups("agent"))[:_TOP],
        keys=_taken(tally.groups("key"))[:_TOP],
    )


class _Tally:
    """Sums by each thing that a trajectory is filed under, in one pass over them."""

    _BY = ("team", "label", "agent", "key", "task")

    def __init__(self) -> None:
        self._sums: dict[str, dict[str, list[int]]] = {by: {} for by in self._BY}

    def add(
        self, team: str, project: str, agent: str, key: str, label: str, task: str,
        num: int, examples: int, corrections: int, left_out: int,
    ) -> None:  # fmt: skip
        """Some trajectories that are filed alike."""
        names = (team, label, f"{team}/{project}/{agent}", key, task)
        for by, name in zip(self._BY, names, strict=True):
            sums = self._sums[by].setdefault(name, [0, 0, 0, 0])
            sums[0] += num
            sums[1] += examples
            sums[2] += corrections
            sums[3] += left_out

    def groups(self, by: str) -> list[Group]:
        """Those with most examples first."""
        found = [Group(name, *sums) for name, sums in self._sums[by].items()]
        return sorted(found, key=lambda group: (-group.examples, group.name))


def _taken(groups: list[Group]) -> list[Group]:
    return [group for group in groups if group.examples]


def _prefixed(counts: dict[str, int], prefix: str) -> dict[str, int]:
    return {k.removeprefix(prefix): n for k, n in counts.items() if k.startswith(prefix)}


def _members(ground: Ground, connection: sa.Connection, dataset: Digest) -> Any:
    """The dataset's rows; read from the dataset itself where they are not written yet."""
    m = dataset_members.c
    written = sa.select(m.trajectory_id).where(m.dataset == dataset).limit(1)
    if connection.execute(written).first():
        return sa.select(
            m.trajectory_id, m.version, m.num_examples, m.num_corrections, m.excluded
        ).where(m.dataset == dataset).subquery("m")  # fmt: skip
    rows = sa.func.json_each(json.dumps(_read(ground, dataset))).table_valued("value", name="rows")
    columns = ("trajectory_id", "version", "num_examples", "num_corrections", "excluded")
    value = rows.c.value
    return sa.select(
        *(sa.func.json_extract(value, f"$[{at}]").label(name) for at, name in enumerate(columns))
    ).subquery("m")


def _read(ground: Ground, dataset: Digest) -> list[tuple[str, int, int, int, str]]:
    sealed = decode(ground.store.get(dataset), Dataset)
    examples = Counter(one.trajectory_id for one in sealed.examples)
    corrected = Counter(one.trajectory_id for one in sealed.examples if one.kind == "correction")
    reasons: dict[str, set[str]] = {}
    for one in sealed.exclusions:
        # Its trajectory's id, with the turn's index where it is one turn.
        reasons.setdefault(one.subject.partition("#")[0], set()).add(one.reason)
    return [
        (name, version, examples[name], corrected[name], ", ".join(sorted(reasons.get(name, ()))))
        for name, version in sealed.trajectories
    ]


def _joined(m: Any) -> Any:
    """A dataset's rows beside the trajectories that they name."""
    t = trajectories.c
    return m.join(trajectories, (t.trajectory_id == m.c.trajectory_id) & (t.version == m.c.version))


def _counted(m: Any) -> Any:
    """Of each sort of trajectory how many there are, and what was taken from them."""
    t = trajectories.c
    filed = (
        t.team, t.project, t.agent, t.key_id, t.label,
        sa.func.coalesce(t.task, t.trajectory_id).label("filed_task"),
    )  # fmt: skip
    return (
        sa.select(
            *filed,
            sa.func.count(),
            sa.func.sum(m.c.num_examples),
            sa.func.sum(m.c.num_corrections),
            sa.func.sum(sa.case((m.c.num_examples == 0, 1), else_=0)),
        )
        .select_from(_joined(m))
        .group_by(*filed)
    )


def _listed(m: Any, filters: Filters, labels: list[str], after: str) -> Any:
    t = trajectories.c
    query = (
        sa.select(*m.c, t.team, t.agent, t.label, t.task, t.outcome)
        .select_from(_joined(m))
        .where(t.label.in_(labels), m.c.trajectory_id > after)
        .order_by(m.c.trajectory_id)
        .limit(PAGE + 1)
    )
    if filters.team:
        query = query.where(t.team == filters.team)
    if filters.label:
        query = query.where(t.label == filters.label)
    if filters.reason:
        among = sa.literal(", ") + m.c.excluded + ", "
        query = query.where(sa.func.instr(among, f", {filters.reason}, ") > 0)
    wanted = {
        "taken": m.c.num_examples > 0,
        "corrected": m.c.num_corrections > 0,
        "left_out": m.c.num_examples == 0,
    }
    if filters.kind in wanted:
        query = query.where(wanted[filters.kind])
    return query
