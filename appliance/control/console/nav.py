"""The rooms of the console, and how much waits in each."""

import msgspec
import sqlalchemy as sa

from appliance.control.steps import Ground
from appliance.core.tables import proposals, rounds
from policies.lifecycle import State


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the navigation."""

    href: str
    label: str
    icon: str
    current: bool = False
    count: int = 0


_ROOMS = (
    ("/", "Overview", "overview"),
    ("/rounds", "Rounds", "rounds"),
    ("/talk", "Talk", "talk"),
    ("/trajectories", "Trajectories", "trajectories"),
    ("/suites", "Suites", "data"),
    ("/releases", "Releases", "releases"),
    ("/law", "Law", "law"),
    ("/people", "People", "people"),
    ("/audit", "Audit log", "audit"),
)


def links(ground: Ground, path: str) -> list[Link]:
    """The navigation on the page at `path`."""
    waiting = _waiting(ground)
    return [
        Link(
            href=href,
            label=label,
            icon=icon,
            current=path == href or (href != "/" and path.startswith(f"{href}/")),
            count=waiting.get(href, 0),
        )
        for href, label, icon in _ROOMS
    ]


def _waiting(ground: Ground) -> dict[str, int]:
    def count(table: sa.Table, state: str) -> sa.ScalarSelect[int]:
        return (
            sa.select(sa.func.count())
            .select_from(table)
            .where(table.c.state == state)
            .scalar_subquery()
        )

    query = sa.select(count(rounds, State.AWAITING_APPROVAL), count(proposals, "open"))
    with ground.database.read() as connection:
        waiting, proposed = connection.execute(query).one()
    return {"/rounds": waiting, "/suites": proposed}
