"""What a reader leaves on a review: ticks, votes and comments. They decide nothing.

A vote or a comment is in the audit log; a tick is a reader's own bookmark, and is not.
"""

import time

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from appliance.control.identity import Person
from appliance.control.reading import blinding, candidate
from appliance.control.reading.marks import Comment, Mark
from appliance.control.reading.samples import index_of
from appliance.control.rounds import Rounds
from appliance.control.steps import Ground
from appliance.core import audit
from appliance.core.digests import Digest
from appliance.core.errors import UsageError
from appliance.core.tables import comments, marks
from policies.access import Act

COMMENT_MAX = 10_000


class Viewed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tick on a sample, or its removal."""

    viewed: bool = True


class Vote(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A vote on a sample: champion, candidate or tie; blind ones left, right or tie."""

    choice: str


class Said(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A comment."""

    body: str


def view(
    ground: Ground, person: Person, number: int, suite: str, item_id: str, ask: Viewed
) -> Mark:
    """Tick a sample as viewed, or take the tick away.

    Raises:
        ForbiddenError: the role or the label forbids it.
        NotFoundError: no such round or sample.
    """
    person.require(Act.COMMENT)
    scorecard = _require_sample(ground, person, number, suite, item_id)
    with ground.database.write() as connection:
        return _mark(connection, scorecard, person, (suite, item_id), viewed=ask.viewed)


def vote(ground: Ground, person: Person, number: int, suite: str, item_id: str, ask: Vote) -> Mark:
    """Vote on a sample, which also ticks it. The last vote of a person counts.

    Raises:
        ForbiddenError: the role or the label forbids it.
        NotFoundError: no such round or sample.
        UsageError: no such choice.
    """
    person.require(Act.COMMENT)
    scorecard = _require_sample(ground, person, number, suite, item_id)
    chosen = blinding.chosen(ground.home, person, scorecard, suite, item_id, ask.choice)
    with ground.database.write() as connection:
        audit.record(
            connection, actor=person.name, act="review.vote", subject=str(number), at=time.time(),
            scorecard=scorecard, suite=suite, item_id=item_id, vote=chosen,
        )  # fmt: skip
        return _mark(connection, scorecard, person, (suite, item_id), viewed=True, vote=chosen)


def comment(
    ground: Ground,
    person: Person,
    number: int,
    ask: Said,
    *,
    suite: str | None = None,
    item_id: str | None = None,
) -> Comment:
    """Say something about a round, or about one of its samples.

    Raises:
        ForbiddenError: the role or, for a sample, the label forbids it.
        NotFoundError: no such round or sample.
        UsageError: nothing was said, or too much.
    """
    person.require(Act.COMMENT)
    Rounds(ground.database).get(number)
    if suite is not None and item_id is not None:
        _require_sample(ground, person, number, suite, item_id)
    body = ask.body.strip()
    if not 0 < len(body) <= COMMENT_MAX:
        raise UsageError(f"a comment has 1 to {COMMENT_MAX} characters, got {len(body)}")
    at = time.time()
    row = {"round": number, "author": person.name, "body": body, "at": at}
    with ground.database.write() as connection:
        # The words are in the table; the log says whose they are, and where.
        audit.record(
            connection, actor=person.name, act="review.comment", subject=str(number), at=at,
            suite=suite, item_id=item_id, num_chars=len(body),
        )  # fmt: skip
        made = connection.execute(
            sa.insert(comments)
            .values(**row, suite=suite, item_id=item_id)
            .returning(comments.c.number)
        ).scalar_one()
    return Comment(number=made, author=person.name, body=body, suite=suite, item_id=item_id, at=at)


def _require_sample(
    ground: Ground, person: Person, number: int, suite: str, item_id: str
) -> Digest:
    index, scorecard = index_of(ground, candidate.of(ground, person, number))
    index.rank(suite, item_id)
    return scorecard


def _mark(
    connection: sa.Connection,
    scorecard: Digest,
    person: Person,
    sample: tuple[str, str],
    **changed: bool | str,
) -> Mark:
    key = {
        "scorecard": scorecard,
        "suite": sample[0],
        "item_id": sample[1],
        "person": person.name,
    }
    at = time.time()
    written = connection.execute(
        insert(marks)
        .values(**key, **{"viewed": False, **changed}, at=at)
        .on_conflict_do_update(index_elements=list(key), set_={**changed, "at": at})
        .returning(marks.c.viewed, marks.c.vote)
    ).one()
    return Mark(written.viewed, written.vote)
