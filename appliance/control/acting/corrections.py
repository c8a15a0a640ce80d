"""What people teach: how an answer should have been, and how a piece of work turned out.

Serving puts it into the event log, beside what agents say; the collectors take it from there. The
same words about the same turn are one feedback, however often they are sent.
"""

import time
from typing import Annotated, Any, Literal

import msgspec
import sqlalchemy as sa
from msgspec import Meta

from appliance.control import local_http
from appliance.control.identity import Person
from appliance.control.reading.trajectory import branch_of, tree_of
from appliance.control.reading.turn_views import text_of
from appliance.control.steps import Ground
from appliance.core import audit
from appliance.core.digests import digest_json
from appliance.core.errors import UsageError
from appliance.core.records import Feedback, decode
from appliance.core.tables import audit as audit_table
from appliance.core.tables import feedback
from policies.access import Act
from policies.teaching import may_teach

TEXT_MAX = 200_000

_Comment = Annotated[str, Meta(max_length=10_000)]
_Node = Annotated[int, Meta(ge=0, le=1 << 20)]


class Correction(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A correction: what the answer of a turn should have been."""

    node: _Node
    """The turn, by its index in the tree."""
    turn_id: str = ""
    """What was looked at; refused where the index means another turn by now."""
    text: Annotated[str, Meta(max_length=TEXT_MAX)]
    comment: _Comment = ""


class Judgement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A judgement: how a turn, or the whole, turned out."""

    outcome: Literal["ok", "failed", "unknown"]
    node: _Node | None = None
    """The turn, by its index in the tree; None is the whole trajectory."""
    turn_id: str = ""
    comment: _Comment = ""


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """What became of it."""

    feedback_id: str
    target: dict[str, str]
    teaches: bool
    """Whether curation may use it: what people try out in the console may not teach."""


def correct(ground: Ground, person: Person, trajectory_id: str, ask: Correction) -> Given:
    """Say what an answer should have been.

    Raises:
        NotFoundError: no such turn that this person may see.
        UsageError: no text, or what the model had said.
        UnavailableError: serving does not answer; send it again.
    """
    person.require(Act.CORRECT)
    if not ask.text.strip():
        raise UsageError(
            "a correction is the text that the answer should have been, got nothing",
            next_step="write the whole answer, or judge it as failed instead",
        )
    row, tree = tree_of(ground, person, trajectory_id)
    turn = branch_of(tree, ask.node).held
    _require_same(turn.turn_id, ask.turn_id, ask.node)
    if ask.text == text_of(turn.answer):
        raise UsageError(
            "the correction says what the model had said",
            next_step="change the text, or judge the answer as ok instead",
        )
    words = {"kind": "correction", "correction": ask.text, "comment": ask.comment.strip() or None}
    target = {"turn_id": turn.turn_id}
    teaches = may_teach(row.team, row.project)
    return _give(ground, person, trajectory_id, "feedback.correct", target, words, teaches=teaches)


def judge(ground: Ground, person: Person, trajectory_id: str, ask: Judgement) -> Given:
    """Say how a turn, or the whole, turned out. The last word counts.

    Raises:
        NotFoundError: no such trajectory or turn that this person may see.
        UnavailableError: serving does not answer; send it again.
    """
    person.require(Act.CORRECT)
    row, tree = tree_of(ground, person, trajectory_id)
    target = {"trajectory_id": trajectory_id}
    if ask.node is not None:
        turn_id = branch_of(tree, ask.node).held.turn_id
        _require_same(turn_id, ask.turn_id, ask.node)
        target = {"turn_id": turn_id}
    words = {"kind": "outcome", "outcome": ask.outcome, "comment": ask.comment.strip() or None}
    teaches = may_teach(row.team, row.project)
    return _give(ground, person, trajectory_id, "feedback.judge", target, words, teaches=teaches)


def _give(
    ground: Ground,
    person: Person,
    trajectory_id: str,
    act: str,
    target: dict[str, str],
    words: dict[str, Any],
    *,
    teaches: bool,
) -> Given:
    actor = f"person:{person.name}"
    said = {name: value for name, value in words.items() if value is not None}
    with ground.database.write() as connection:
        name = _name(connection, actor, target, said)
        # Not the words: the audit log is read by people of every label.
        if not _audited(connection, act, trajectory_id, name):
            audit.record(
                connection,
                actor=person.name,
                act=act,
                subject=trajectory_id,
                at=time.time(),
                feedback_id=name,
                target=target,
                outcome=said.get("outcome", ""),
            )
    body = {"actor": actor, "source": "human", "target": target, "feedback_id": name, **said}
    local_http.over_socket(ground.home.socket("serving"), "POST", "/feedback", body)
    return Given(feedback_id=name, target=target, teaches=teaches)


def _name(
    connection: sa.Connection, actor: str, target: dict[str, str], said: dict[str, Any]
) -> str:
    """The id of a feedback: the same for the same words, unless others came in between.

    A double click is one feedback; to say ok, then failed, then ok again is three.
    """
    ((column, value),) = target.items()
    given = connection.scalars(
        sa.select(feedback.c.record)
        .where(feedback.c[column] == value, feedback.c.kind == said["kind"])
        .order_by(feedback.c.at.desc())
    )
    mine = (one for one in (decode(record, Feedback) for record in given) if one.actor == actor)
    before = next((one.feedback_id for one in mine if not _says(one, said)), "")
    digest = digest_json({"actor": actor, "target": target, "said": said, "before": before})
    return f"console-{digest.removeprefix('sha256:')[:32]}"


def _says(one: Feedback, said: dict[str, Any]) -> bool:
    kind = said["kind"]
    return bool(getattr(one, kind) == said[kind] and one.comment == said.get("comment"))


def _audited(connection: sa.Connection, act: str, subject: str, name: str) -> bool:
    a = audit_table.c
    query = sa.select(a.sequence).where(a.act == act, a.subject == subject, a.detail.contains(name))
    return connection.execute(query.limit(1)).first() is not None


def _require_same(turn_id: str, wanted: str, node: int) -> None:
    if wanted and wanted != turn_id:
        raise UsageError(
            f"turn {node} is another one by now: work went on since the page was opened",
            next_step="open the trajectory again; what you wrote stands below",
        )
