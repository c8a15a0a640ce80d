"""Finding trajectories: by what they are, or by their words, newest first, 50 at a time.

Only current versions, only what flows to the person's label. What is not here: reading one
(trajectory.py), and what became of it (lineage.py).
"""

import time
from typing import Any, Literal

import msgspec
import sqlalchemy as sa

from appliance.control.identity import Person
from appliance.control.reading import visible
from appliance.control.steps import Ground
from appliance.core.errors import UsageError
from appliance.core.folding import fold
from appliance.core.tables import trajectories, trajectory_texts
from policies.access import Act

PAGE = 50
BASE = "base"
TEXT_MAX = 200

_SEARCH_S = 0.02
"""After so long a search stops for breath."""
_AT_A_TIME = 200
_PHRASE_MAX = 16
"""Characters that the index is asked for; the rest is looked for in what it found. A long phrase
has the index go through the places of each of its trigrams."""
_NUMBERS_END = 2**62
_WORDS = 160
_PLAIN = ("team", "project", "agent", "outcome", "tier")

_t = trajectories.c
_texts = trajectory_texts.c
_search = sa.table("trajectory_search", sa.column("rowid", sa.Integer), sa.column("body", sa.Text))
_MATCHING = sa.text(
    "SELECT rowid FROM trajectory_search WHERE trajectory_search MATCH :phrase "
    "AND rowid < :before ORDER BY rowid DESC"
)
_NUMBERED = trajectory_texts.join(_search, _search.c.rowid == _texts.number).join(
    trajectories, _t.trajectory_id == _texts.trajectory_id
)
_SOME: sa.BindParameter[int] = sa.bindparam("some", expanding=True)
COLUMNS = (
    *(_t.trajectory_id, _t.version, _t.state, _t.team, _t.project, _t.agent, _t.label, _t.tier),
    *(_t.outcome, _t.task, _t.family, _t.num_turns, _t.adapter, _t.last_turn_at, _t.sealed_at),
)
_later = trajectories.alias("later")
_IS_CURRENT = ~sa.exists().where(
    _later.c.trajectory_id == _t.trajectory_id, _later.c.version > _t.version
)


class Filters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is looked for; what is empty is not asked."""

    team: str = ""
    project: str = ""
    agent: str = ""
    adapter: str = ""
    """Of the last turn that one answered: a full digest, or ``base``."""
    outcome: Literal["", "ok", "failed", "unknown"] = ""
    tier: Literal["", "gold", "silver", "bronze"] = ""
    state: Literal["", "open", "ending", "sealed"] = ""
    text: str = ""
    """A part of what the user or the assistant said, or of task, family or agent."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One trajectory, as its current version stands."""

    trajectory_id: str
    version: int
    state: str
    team: str
    project: str
    agent: str
    label: str
    tier: str
    outcome: str
    task: str | None
    family: str | None
    num_turns: int
    adapter: str | None
    last_turn_at: float
    sealed_at: float | None
    words: str = ""
    """How it begins, or what stands around the text that was looked for."""


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Some of what was found."""

    rows: tuple[Row, ...]
    after: str | None
    """Where the next page begins; None where there is none. With fewer than 50 rows, a search has
    not come to its end yet: it stops for breath."""


def find(ground: Ground, person: Person, filters: Filters, after: str = "") -> Page:
    """What the filters let through, newest first; by text, what was sealed last first.

    Raises:
        UsageError: a text under three characters, or no cursor of ours.
    """
    person.require(Act.VIEW)
    clauses = _clauses(filters, visible.labels(ground, person))
    text = _sought(filters.text) if filters.text.strip() else ""
    place = _number(after.partition("_")[0]) if after else None
    if not visible.may_hold(ground, person, _known(filters)):
        return Page(rows=(), after=None)
    if text:
        return _by_text(ground, clauses, text, place)
    return _by_time(ground, clauses, place, after.partition("_")[2])


def convert_filters(values: dict[str, str]) -> Filters:
    """Filters from the words of an address.

    Raises:
        UsageError: a value that the filter cannot have.
    """
    try:
        return msgspec.convert(values, Filters)
    except msgspec.ValidationError as error:
        raise UsageError(
            f"not a filter: {error}", next_step="choose one of the values that the form offers"
        ) from error


def _clauses(filters: Filters, labels: list[str]) -> list[sa.ColumnElement[bool]]:
    clauses = [_IS_CURRENT, _t.label.in_(labels), _t.state != "merged"]
    asked = {name: getattr(filters, name) for name in _PLAIN}
    clauses += [_t[name] == value for name, value in asked.items() if value]
    if filters.adapter:
        wanted = None if filters.adapter == BASE else filters.adapter
        clauses.append(_t.adapter.is_(None) if wanted is None else _t.adapter == wanted)
    if filters.state == "sealed":
        # Nearly all are: SQLite must not believe that its index by state helps.
        clauses.append(_t.state.not_in(("open", "ending")))
    elif filters.state:
        clauses.append(_t.state == filters.state)
    return clauses


def _known(filters: Filters) -> dict[str, str | None]:
    """The values asked for in columns whose values are known."""
    values = {name: getattr(filters, name) for name in ("team", "project", "agent", "adapter")}
    return {
        name: None if (name, value) == ("adapter", BASE) else value
        for name, value in values.items()
        if value
    }


def _by_time(
    ground: Ground, clauses: list[sa.ColumnElement[bool]], at: float | None, trajectory_id: str
) -> Page:
    query = sa.select(*COLUMNS).where(*clauses)
    if at is not None:
        place = sa.tuple_(_t.last_turn_at, _t.trajectory_id)
        query = query.where(place < sa.tuple_(sa.literal(at), sa.literal(trajectory_id)))
    query = query.order_by(_t.last_turn_at.desc(), _t.trajectory_id.desc()).limit(PAGE + 1)
    with ground.database.read() as connection:
        found = connection.execute(query).all()
        rows = found[:PAGE]
        words = _words(connection, [row.trajectory_id for row in rows])
    end = f"{rows[-1].last_turn_at!r}_{rows[-1].trajectory_id}" if len(found) > PAGE else None
    return Page(
        rows=tuple(_row(row, words.get(row.trajectory_id, "")[:_WORDS]) for row in rows), after=end
    )


def _by_text(
    ground: Ground, clauses: list[sa.ColumnElement[bool]], text: str, place: float | None
) -> Page:
    """From the last number down, some at a time, until the page is full or time is up."""
    query = sa.select(_texts.number, *COLUMNS, _search.c.body).select_from(_NUMBERED)
    query = query.where(_texts.number.in_(_SOME), *clauses).order_by(_texts.number.desc())
    before = _NUMBERS_END if place is None else int(place)
    matching = {"phrase": _phrase(text[:_PHRASE_MAX]), "before": before}
    deadline = time.monotonic() + _SEARCH_S
    found: list[Any] = []
    with ground.database.read() as connection:
        numbers = connection.execute(_MATCHING, matching).scalars()
        while len(found) <= PAGE:
            some = numbers.fetchmany(_AT_A_TIME)
            rows = connection.execute(query, {"some": some}).all()
            found += [row for row in rows if text.casefold() in row.body.casefold()]
            if len(some) < _AT_A_TIME:
                break
            if len(found) <= PAGE and time.monotonic() > deadline:
                return _found_by_text(found, text, after=some[-1])
    full = len(found) > PAGE
    return _found_by_text(found[:PAGE], text, after=found[PAGE - 1].number if full else None)


def _found_by_text(found: list[Any], text: str, *, after: int | None) -> Page:
    rows = tuple(_row(row, _around(row.body, text)) for row in found)
    return Page(rows=rows, after=None if after is None else str(after))


def _sought(text: str) -> str:
    """The text, made ready as those were that are kept."""
    folded = fold(text)
    if not 3 <= len(folded) <= TEXT_MAX:
        longer = len(folded) < 3
        raise UsageError(
            f"a text to look for has 3 to {TEXT_MAX} characters, got {len(folded)}",
            next_step=f"type a {'longer' if longer else 'shorter'} part of it",
        )
    return folded


def _phrase(text: str) -> str:
    """One phrase of FTS5's query language: nothing in it is an operator."""
    return '"' + text.replace('"', '""') + '"'


def _words(connection: sa.Connection, ids: list[str]) -> dict[str, str]:
    query = (
        sa.select(_texts.trajectory_id, _search.c.body)
        .select_from(trajectory_texts.join(_search, _search.c.rowid == _texts.number))
        .where(_texts.trajectory_id.in_(ids))
    )
    return {row.trajectory_id: row.body for row in connection.execute(query)} if ids else {}


def _around(body: str, wanted: str) -> str:
    """What stands around the first place where the text was found."""
    place = body.casefold().find(wanted.casefold())
    start = max(0, place - _WORDS // 3)
    return ("… " if start else "") + body[start : start + max(_WORDS, len(wanted) + _WORDS // 3)]


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    # NaN is not between anything either.
    if not -1e15 < number < 1e15:
        raise UsageError(
            f"not a place in this list: {text[:40]!r}", next_step="begin at the first page"
        )
    return number


def _row(row: Any, words: str) -> Row:
    fields = row._mapping
    return Row(**{column.name: fields[column] for column in COLUMNS}, words=words)
