"""A suite's past: every change with its author, what it changed, and what is proposed."""

from collections.abc import Sequence
from functools import lru_cache

import msgspec
import sqlalchemy as sa

from appliance.control import law as articles
from appliance.control.identity import Person
from appliance.control.law import REPEALED
from appliance.control.reading.suites import PAGE, Shown, held_in, id_of, read, shown
from appliance.control.steps import Ground
from appliance.core.digests import Digest
from appliance.core.errors import NotFoundError
from appliance.core.objects import ObjectStore
from appliance.core.tables import law, proposals
from policies.access import Act

SHOWN_MAX = 40
"""Items of a difference that are shown; all of them are counted."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a suite's history."""

    sequence: int
    object: Digest
    """Empty: it was repealed."""
    before: Digest
    """The version that it took the place of; empty where there was none."""
    actor: str
    accepted_by: str | None
    at: float
    added: int
    removed: int
    changed: int


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """From one version to another: items, cut at `SHOWN_MAX` of each sort."""

    old: str
    new: str
    kind_before: str
    kind_after: str
    num_added: int
    num_removed: int
    num_changed: int
    added: list[Shown]
    removed: list[Shown]
    changed: list[tuple[Shown, Shown]]


class Proposal(msgspec.Struct, frozen=True, kw_only=True):
    """A change of a protected suite that takes somebody else."""

    number: int
    name: str
    replaces: Digest
    object: Digest
    reason: str
    proposer: str
    at: float
    state: str
    decided_by: str | None
    decided_at: float | None


def history(
    ground: Ground, person: Person, name: str, *, before: int | None = None
) -> list[Change]:
    """Up to `PAGE` changes, newest first, of sequence numbers below `before`.

    Raises:
        NotFoundError: there never was such a suite.
    """
    person.require(Act.VIEW)
    query = sa.select(law).where(law.c.kind == "suite", law.c.name == name)
    if before is not None:
        query = query.where(law.c.sequence < before)
    with ground.database.read() as connection:
        rows = connection.execute(query.order_by(law.c.sequence.desc()).limit(PAGE + 1)).all()
    if not rows and before is None:
        raise NotFoundError(f"there never was a suite named {name[:100]}", next_step="see /suites")
    changes = []
    for row, older in zip(rows[:PAGE], [*rows[1:], None], strict=False):
        previous = older.object if older is not None else REPEALED
        added, removed, changed = _counts(ground.store, previous, row.object)
        changes.append(
            Change(
                sequence=row.sequence,
                object=Digest(row.object),
                before=Digest(previous),
                actor=row.actor,
                accepted_by=row.accepted_by,
                at=row.at,
                added=added,
                removed=removed,
                changed=changed,
            )
        )
    return changes


def difference(ground: Ground, person: Person, name: str, old: str, new: str) -> Difference:
    """What changed between two versions; an empty digest is the suite that is not there.

    Raises:
        NotFoundError: one of them never was a version of this suite, nor was proposed as one.
        ForbiddenError: the endpoint's label is above the person's.
    """
    person.require(Act.VIEW)
    _require_versions(ground, name, {old, new} - {REPEALED})
    left, right = (read(ground, person, one) for one in (old, new))
    before, after = _by_id(left.lines), _by_id(right.lines)
    added = [item_id for item_id in after if item_id not in before]
    removed = [item_id for item_id in before if item_id not in after]
    changed = [i for i in after if i in before and before[i][1] != after[i][1]]
    return Difference(
        old=old,
        new=new,
        kind_before=left.kind,
        kind_after=right.kind,
        num_added=len(added),
        num_removed=len(removed),
        num_changed=len(changed),
        added=[shown(*after[i]) for i in added[:SHOWN_MAX]],
        removed=[shown(*before[i]) for i in removed[:SHOWN_MAX]],
        changed=[(shown(*before[i]), shown(*after[i])) for i in changed[:SHOWN_MAX]],
    )


def open_proposals(ground: Ground, person: Person, name: str | None = None) -> list[Proposal]:
    """Proposals that wait, oldest first; of one suite, or of all."""
    person.require(Act.VIEW)
    query = sa.select(proposals).where(proposals.c.state == "open").order_by(proposals.c.number)
    if name is not None:
        query = query.where(proposals.c.name == name)
    with ground.database.read() as connection:
        return [Proposal(**row._mapping) for row in connection.execute(query)]


def proposal(ground: Ground, person: Person, number: int) -> Proposal:
    """One proposal, whatever became of it.

    Raises:
        NotFoundError: there is none of that number.
    """
    person.require(Act.VIEW)
    with ground.database.read() as connection:
        row = connection.execute(sa.select(proposals).where(proposals.c.number == number)).first()
    if row is None:
        raise NotFoundError(f"no proposal {number}", next_step="see /suites")
    return Proposal(**row._mapping)


def still_stands(ground: Ground, found: Proposal) -> bool:
    """Whether the version that a proposal was made from is in force."""
    with ground.database.read() as connection:
        now = articles.in_force_now(connection, "suite", found.name)
    return now is not None and now.object == found.replaces


def _require_versions(ground: Ground, name: str, wanted: set[str]) -> None:
    past = sa.select(law.c.object).where(law.c.kind == "suite", law.c.name == name)
    proposed = sa.select(proposals.c.object).where(proposals.c.name == name)
    with ground.database.read() as connection:
        known = set(
            connection.scalars(
                sa.union(
                    past.where(law.c.object.in_(wanted)),
                    proposed.where(proposals.c.object.in_(wanted)),
                )
            )
        )
    for missing in sorted(wanted - known):
        raise NotFoundError(f"{missing[:80]} is no version of suite {name[:100]}")


@lru_cache(4096)
def _counts(store: ObjectStore, old: str, new: str) -> tuple[int, int, int]:
    left, right = (held_in(store, version).lines for version in (old, new))
    gone, come = set(left) - set(right), set(right) - set(left)
    before, after = ({id_of(line) for line in lines} for lines in (gone, come))
    both = len(before & after)
    return len(after) - both, len(before) - both, both


def _by_id(lines: Sequence[bytes]) -> dict[str, tuple[int, bytes]]:
    return {id_of(line): (at, line) for at, line in enumerate(lines)}
