"""Ticks, votes and comments of a review."""

from collections.abc import Collection

import msgspec
import sqlalchemy as sa

from appliance.core.digests import Digest
from appliance.core.tables import comments, marks

Key = tuple[str, str]
"""Suite and item."""


class Mark(msgspec.Struct, frozen=True):
    """One person's tick and vote on a sample."""

    viewed: bool = False
    vote: str | None = None
    """``champion``, ``candidate`` or ``tie``."""


class Comment(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody said about a round, or about one of its samples."""

    number: int
    author: str
    body: str
    suite: str | None
    item_id: str | None
    at: float


NONE = Mark()


def of_person(
    connection: sa.Connection, scorecard: Digest, person: str, samples: Collection[Key]
) -> dict[Key, Mark]:
    """This person's marks on these samples."""
    m = marks.c
    suites, items = {suite for suite, _ in samples}, {item_id for _, item_id in samples}
    query = sa.select(m.suite, m.item_id, m.viewed, m.vote).where(
        m.scorecard == scorecard, m.suite.in_(suites), m.item_id.in_(items), m.person == person
    )
    rows = connection.execute(query)
    return {(row.suite, row.item_id): Mark(row.viewed, row.vote) for row in rows}


def viewed_by(connection: sa.Connection, scorecard: Digest, person: str) -> set[Key]:
    """The samples that this person has ticked."""
    m = marks.c
    query = sa.select(m.suite, m.item_id).where(
        m.scorecard == scorecard, m.person == person, m.viewed
    )
    return {(row.suite, row.item_id) for row in connection.execute(query)}


def votes(
    connection: sa.Connection, scorecard: Digest, sample: Key | None = None
) -> dict[str, int]:
    """Everybody's votes: how many for each choice, on one sample or on all."""
    return ticks_and_votes(connection, scorecard, "", sample)[1]


def ticks_and_votes(
    connection: sa.Connection, scorecard: Digest, person: str, sample: Key | None = None
) -> tuple[int, dict[str, int]]:
    """How many samples this person has ticked, and everybody's votes by choice."""
    m = marks.c
    mine = sa.func.sum(sa.case((sa.and_(m.person == person, m.viewed), 1), else_=0))
    query = (
        sa.select(m.vote, sa.func.count().label("num"), mine.label("ticked"))
        .where(m.scorecard == scorecard)
        .group_by(m.vote)
    )
    if sample is not None:
        query = query.where(m.suite == sample[0], m.item_id == sample[1])
    rows = connection.execute(query).all()
    counted = {row.vote: row.num for row in rows}
    choices = {choice: counted.get(choice, 0) for choice in ("candidate", "champion", "tie")}
    return sum(row.ticked for row in rows), choices


def viewers(connection: sa.Connection, scorecard: Digest) -> dict[str, int]:
    """How many samples each person has ticked."""
    m = marks.c
    query = (
        sa.select(m.person, sa.func.count().label("num"))
        .where(m.scorecard == scorecard, m.viewed)
        .group_by(m.person)
        .order_by(m.person)
    )
    return {row.person: row.num for row in connection.execute(query)}


def comments_on(
    connection: sa.Connection, number: int, sample: Key | None = None, *, limit: int = 500
) -> list[Comment]:
    """The newest `limit` comments on a round and its samples, or on one sample; oldest first."""
    c = comments.c
    fields = Comment.__struct_fields__
    query = sa.select(*(c[name] for name in fields)).where(c.round == number)
    if sample is not None:
        query = query.where(c.suite == sample[0], c.item_id == sample[1])
    rows = connection.execute(query.order_by(c.number.desc()).limit(limit)).all()
    return [Comment(**row._mapping) for row in reversed(rows)]
