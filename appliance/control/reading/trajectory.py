"""Reading one trajectory: its tree of turns, what was said about it, its versions.

Whoever may not see its label is told that there is no such trajectory.
"""

from typing import Any

import msgspec
import sqlalchemy as sa

from appliance.control.identity import Person
from appliance.control.reading.trajectories import COLUMNS, Row
from appliance.control.reading.turn_tree import Branch, Tree, read_tree
from appliance.control.reading.turn_views import TEXT_MAX, TURNS, TurnView, text_of, views
from appliance.control.steps import Ground
from appliance.core.digests import Digest
from appliance.core.errors import NotFoundError
from appliance.core.objects import ObjectStore
from appliance.core.records import Feedback, decode
from appliance.core.tables import feedback, trajectories, turns
from policies.access import Act

_t = trajectories.c
_FEEDBACK_MAX = 200


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a trajectory."""

    version: int
    state: str
    sealed_at: float | None
    object: Digest | None


class Opinion(msgspec.Struct, frozen=True, kw_only=True):
    """One feedback."""

    kind: str
    source: str
    actor: str
    outcome: str
    correction: str | None
    """Cut, like `comment`."""
    comment: str | None
    node: int | None
    """The turn that it is about; None is the whole."""
    tags: dict[str, str]
    at: float


class View(msgspec.Struct, frozen=True, kw_only=True):
    """One version, as far as a page shows it."""

    about: Row
    object: Digest | None
    versions: tuple[Version, ...]
    """The newest first."""
    num_turns: int
    turns: tuple[TurnView, ...]
    after: int | None
    """Where the next turns begin; None where there are none."""
    opinions: tuple[Opinion, ...]
    """Oldest first; the last `200`."""


def get(
    ground: Ground,
    person: Person,
    trajectory_id: str,
    version: int | None = None,
    *,
    after: int = 0,
    most: int = TURNS,
) -> View:
    """One version (the current one), its turns from index `after` on.

    Raises:
        NotFoundError: no such trajectory or version that this person may see.
    """
    with ground.database.read() as connection:
        rows, row = _visible(connection, person, trajectory_id, version)
        tree = read_tree(connection, ground.store, row)
        given = _given(connection, ground.store, row, tree)
    shown = views(tree, after=max(after, 0), most=most)
    end = shown[-1].node + 1 if shown else 0
    return View(
        about=Row(**{column.name: row._mapping[column.name] for column in COLUMNS}),
        object=row.object,
        versions=tuple(
            Version(version=r.version, state=r.state, sealed_at=r.sealed_at, object=r.object)
            for r in rows
        ),
        num_turns=len(tree.branches),
        turns=tuple(shown),
        after=end if shown and end < len(tree.branches) else None,
        opinions=tuple(_opinion(one, tree) for one in given[-_FEEDBACK_MAX:]),
    )


def tree_of(
    ground: Ground, person: Person, trajectory_id: str, version: int | None = None
) -> tuple[Row, Tree]:
    """All turns of one version, whole.

    Raises:
        NotFoundError: no such trajectory or version that this person may see.
    """
    with ground.database.read() as connection:
        _, row = _visible(connection, person, trajectory_id, version)
        tree = read_tree(connection, ground.store, row)
    return Row(**{column.name: row._mapping[column.name] for column in COLUMNS}), tree


def branch_of(tree: Tree, node: int) -> Branch:
    """One turn of the tree.

    Raises:
        NotFoundError: it has no such turn.
    """
    if not 0 <= node < len(tree.branches):
        raise NotFoundError(
            f"no turn {node}: this trajectory has {len(tree.branches)}",
            next_step="open the trajectory and choose a turn there",
        )
    return tree.branches[node]


def whole_text(
    ground: Ground,
    person: Person,
    trajectory_id: str,
    node: int,
    *,
    message: int | None = None,
    version: int | None = None,
) -> str:
    """All of an answer, or of one message of its prompt.

    Raises:
        NotFoundError: no such trajectory, turn or message.
    """
    _, tree = tree_of(ground, person, trajectory_id, version)
    branch = branch_of(tree, node)
    if message is None:
        return text_of(branch.held.answer)
    messages = branch.messages
    if not 0 <= message < len(messages):
        raise NotFoundError(f"no message {message}: turn {node} has {len(messages)}")
    return text_of(messages[message])


def as_json(
    ground: Ground, person: Person, trajectory_id: str, version: int | None = None
) -> tuple[bytes, int]:
    """The record as it is kept, and its version; while it is open, its turns so far.

    Raises:
        NotFoundError: no such trajectory or version that this person may see.
    """
    with ground.database.read() as connection:
        _, row = _visible(connection, person, trajectory_id, version)
        if row.object is not None:
            return ground.store.get(Digest(row.object)), row.version
        tree = read_tree(connection, ground.store, row)
    so_far = {"trajectory_id": trajectory_id, "state": row.state, "turns": tree.branches}
    return msgspec.json.encode(so_far), row.version


def require_visible(connection: sa.Connection, person: Person, trajectory_id: str) -> None:
    """Raise unless there is such a trajectory, and this person may see it.

    Raises:
        NotFoundError: there is not, or they may not.
    """
    _visible(connection, person, trajectory_id, None)


def _visible(
    connection: sa.Connection, person: Person, trajectory_id: str, version: int | None
) -> tuple[list[Any], Any]:
    """All versions, newest first, and the one asked for."""
    person.require(Act.VIEW)
    query = sa.select(trajectories).where(_t.trajectory_id == trajectory_id)
    rows = list(connection.execute(query.order_by(_t.version.desc())))
    found = [row for row in rows if version in (None, row.version)]
    # The current label counts for every version: it may have been found too low.
    if not found or not person.sees(rows[0].label) or not person.sees(found[0].label):
        which = "" if version is None else f", version {version}"
        raise NotFoundError(
            f"no trajectory {trajectory_id[:100]}{which}", next_step="look for it in the list"
        )
    return rows, found[0]


def _given(connection: sa.Connection, objects: ObjectStore, row: Any, tree: Tree) -> list[Feedback]:
    """What was said about it, oldest first."""
    if tree.feedback is not None:
        found = [decode(objects.get(digest), Feedback) for digest in tree.feedback]
    else:
        found = _said_so_far(connection, row, tree)
    return sorted(found, key=lambda one: (one.at, one.feedback_id))


def _said_so_far(connection: sa.Connection, row: Any, tree: Tree) -> list[Feedback]:
    """Of one that is open; sealing looks more closely, also at outside references."""
    taken = [branch.held for branch in tree.branches]
    names = sorted({turn.session for turn in taken if turn.session is not None})
    about = feedback.c.trajectory_id == row.trajectory_id
    for column, values in (
        (feedback.c.turn_id, [turn.turn_id for turn in taken][:500]),
        (feedback.c.session, names),
    ):
        about |= column.in_(values)
    records = connection.scalars(sa.select(feedback.c.record).where(about))
    found = [decode(record, Feedback) for record in records]
    keys = sa.select(turns.c.session).where(turns.c.session.in_(names)).group_by(turns.c.session)
    shared = keys.having(sa.func.count(turns.c.key_id.distinct()) > 1)
    several = set(connection.scalars(shared))
    # A session's name belongs to the key that used it.
    return [one for one in found if one.target.session not in several or one.actor == row.key_id]


def _opinion(one: Feedback, tree: Tree) -> Opinion:
    turn_id = one.target.turn_id
    return Opinion(
        kind=one.kind,
        source=one.source,
        actor=one.actor,
        outcome=one.outcome,
        correction=one.correction and one.correction[:TEXT_MAX],
        comment=one.comment and one.comment[:TEXT_MAX],
        node=None if turn_id is None else tree.index_of(turn_id),
        tags=one.tags,
        at=one.at,
    )
