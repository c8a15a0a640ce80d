"""`espalier tail`: trajectories as they arrive, and again as they change."""

import time
from collections.abc import Iterator

import msgspec
import sqlalchemy as sa

from appliance.core.database import Database
from appliance.core.tables import trajectories

_POLL_S = 0.5


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A trajectory as tail shows it."""

    trajectory_id: str
    version: int
    state: str
    team: str
    project: str
    agent: str
    tier: str
    num_turns: int
    adapter: str | None
    outcome: str
    task: str | None
    family: str | None
    label: str
    changed_at: float


def latest(database: Database, count: int) -> list[Line]:
    """The `count` trajectories that changed last, oldest first."""
    return _lines(database, since=0.0, limit=count)


def follow(database: Database, shown: list[Line]) -> Iterator[Line]:
    """What changes after the lines already shown, for ever."""
    known = set(shown)
    since = max((line.changed_at for line in shown), default=time.time())
    while True:
        # From the same moment on again: two changes may share it.
        for line in _lines(database, since=since, limit=10_000):
            if line not in known:
                known.add(line)
                yield line
                since = max(since, line.changed_at)
        known = {line for line in known if line.changed_at >= since}
        time.sleep(_POLL_S)


def show(line: Line) -> str:
    """One line of text."""
    clock = time.strftime("%H:%M:%S", time.localtime(line.changed_at))
    adapter = line.adapter.removeprefix("sha256:")[:12] if line.adapter else "base"
    who = f"{line.team}/{line.project}/{line.agent}"
    what = line.task or line.family or ""
    name = f"{line.trajectory_id[:14]} v{line.version}"
    turns = f"{line.num_turns} turn{'s' if line.num_turns != 1 else ''}"
    return (
        f"{clock}  {name:<18} {line.state:<7} {who:<28} {turns:<9} "
        f"{line.tier:<6} {adapter:<12} {line.outcome:<7} {what}"
    ).rstrip()


def _lines(database: Database, *, since: float, limit: int) -> list[Line]:
    columns = [trajectories.c[name] for name in Line.__struct_fields__]
    query = (
        sa.select(*columns)
        .where(trajectories.c.changed_at >= since, trajectories.c.state != "merged")
        .order_by(trajectories.c.changed_at.desc(), trajectories.c.trajectory_id.desc())
        .limit(limit)
    )
    with database.read() as connection:
        rows = connection.execute(query).all()
    return [Line(**row._mapping) for row in reversed(rows)]
