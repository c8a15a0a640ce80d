"""What a person may see of the trajectories, as sets: labels, teams, projects, agents, adapters.

Going through every row for them would take longer than a page may. All of it is read once; from
then on only what has changed since.
"""

import threading
from weakref import WeakKeyDictionary

import msgspec
import sqlalchemy as sa

from appliance.control.identity import Person
from appliance.control.steps import Ground
from appliance.core.database import Database
from appliance.core.tables import adapters, trajectories

NUM_ADAPTERS = 100

_NAMES = ("team", "project", "agent", "adapter")
_SLACK_S = 60.0
"""A batch of the collectors bears the time at which it began."""

_t = trajectories.c
_NEWEST = sa.select(
    sa.select(sa.func.max(_t.changed_at)).scalar_subquery(),
    sa.select(sa.func.max(sa.literal_column("rowid"))).select_from(trajectories).scalar_subquery(),
)
# Made once: building a statement takes longer than running it.
_PAIRS = {
    name: sa.select(_t.label, _t[name]).where(_t.changed_at >= sa.bindparam("since")).distinct()
    for name in _NAMES
}


class Facets(msgspec.Struct, frozen=True, kw_only=True):
    """What trajectories can be filtered by."""

    teams: tuple[str, ...]
    projects: tuple[str, ...]
    agents: tuple[str, ...]
    adapters: tuple[str, ...]
    """Full digests, the newest ones first, at most `NUM_ADAPTERS`."""


class _Known:
    """The pairs of label and value that stand in a database's trajectories."""

    def __init__(self) -> None:
        self._pairs: dict[str, set[tuple[str, str | None]]] = {name: set() for name in _NAMES}
        self._since = -1.0
        self._seen: tuple[float, int] | None = None
        self._lock = threading.Lock()

    def pairs(self, database: Database) -> dict[str, set[tuple[str, str | None]]]:
        with self._lock, database.read() as connection:
            newest, last = connection.execute(_NEWEST).one()
            # Never older than the database: browsers keep pages by the database's version.
            if newest is not None and (newest, last) != self._seen:
                for name, query in _PAIRS.items():
                    found = connection.execute(query, {"since": self._since}).all()
                    self._pairs[name] |= {(row[0], row[1]) for row in found}
                self._seen, self._since = (newest, last), newest - _SLACK_S
            return {name: set(pairs) for name, pairs in self._pairs.items()}


_known: WeakKeyDictionary[Database, _Known] = WeakKeyDictionary()
_lock = threading.Lock()


def warm(ground: Ground) -> None:
    """Read what is kept between requests, so that nobody waits for it."""
    _pairs(ground)


def labels(ground: Ground, person: Person) -> list[str]:
    """The labels of trajectories that flow to this person's."""
    return sorted(one for one in _all_labels(_pairs(ground)) if person.sees(one))


def facets(ground: Ground, person: Person) -> Facets:
    """Filters that show this person something."""
    pairs = _pairs(ground)
    seen = {label for label in _all_labels(pairs) if person.sees(label)}
    values = {
        name: sorted({value for label, value in pairs[name] if label in seen and value})
        for name in _NAMES
    }
    return Facets(
        teams=tuple(values["team"]),
        projects=tuple(values["project"]),
        agents=tuple(values["agent"]),
        adapters=tuple(_newest(ground, set(values["adapter"]))),
    )


def may_hold(ground: Ground, person: Person, values: dict[str, str | None]) -> bool:
    """Whether this person may see something with each of these: column → value, None for none.

    What says no here need not be looked for in every row.
    """
    pairs = _pairs(ground)
    return all(
        any(person.sees(label) for label, known in pairs[name] if known == value)
        for name, value in values.items()
    )


def _pairs(ground: Ground) -> dict[str, set[tuple[str, str | None]]]:
    with _lock:
        known = _known.setdefault(ground.database, _Known())
    return known.pairs(ground.database)


def _all_labels(pairs: dict[str, set[tuple[str, str | None]]]) -> set[str]:
    return {label for label, _ in pairs["team"]}


def _newest(ground: Ground, digests: set[str]) -> list[str]:
    with ground.database.read() as connection:
        made = connection.scalars(sa.select(adapters.c.content).order_by(adapters.c.number.desc()))
        found = [one for one in made if one in digests]
    # Those of another home, in imported work, have no number here.
    return [*found, *sorted(digests - set(found))][:NUM_ADAPTERS]
