"""The consumer of the event log: take a batch in, commit, seal what is due, publish it."""

import fcntl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import sqlalchemy as sa

from appliance.core.database import Database
from appliance.core.errors import ConflictError, UnavailableError
from appliance.core.event_log import Entry, EventLog
from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.open_log import open_log
from appliance.core.settings import Settings
from appliance.core.tables import trajectories
from collectors import search_index
from collectors.assembly import Applied, Assembly
from collectors.curation.members import mend_members
from collectors.lake import Lake
from collectors.sealing import BATCH, num_due, seal

GROUP = "collectors"

_MAX_RECORDS = 512
_SILENCE_MAX_S = 30.0


class Flushed(msgspec.Struct, frozen=True, kw_only=True):
    """What a flush did, and where it leaves the log."""

    events: int
    sealed: int
    open: int
    position: dict[int, int]
    end: dict[int, int]


class Collector:
    """One per home: whoever holds `collecting`. Thread-safe."""

    def __init__(self, home: Home, settings: Settings, *, log: EventLog | None = None) -> None:
        self.totals = Applied()
        self.num_sealed = 0
        self._log = log or open_log(home, settings)
        self._database = Database.open(home.database)
        objects = ObjectStore(home.objects)
        self._objects = objects
        self._assembly = Assembly(self._database, objects)
        self._lake = Lake(home, self._database, objects)
        self._held: list[Entry] = []
        self._lock = threading.RLock()
        self._lake.mend()

    def step(self, *, timeout_s: float) -> int:
        """Take one batch in; returns how many events it had.

        Raises:
            UnavailableError: the disk is full or the log cannot be read; the batch is kept and
                taken first at the next call.
        """
        with self._lock:
            if not self._held:
                self._held = self._log.read(GROUP, max_records=_MAX_RECORDS, timeout_s=timeout_s)
            if not self._held:
                return 0
            applied = self._assembly.apply(self._held, now=time.time())
            self._log.commit(GROUP)
            self._held = []
            for name in applied.__struct_fields__:
                setattr(self.totals, name, getattr(self.totals, name) + getattr(applied, name))
            return applied.events

    def mend(self) -> Iterator[int]:
        """Look-ups that an earlier version of Espalier did not write: a batch at each step.

        Raises:
            UnavailableError: the disk is full; what is missing is written at the next start.
        """
        yield from search_index.mend(self._database, self._objects)
        yield from mend_members(self._database, self._objects)

    def seal(self, idle_s: float | None) -> int:
        """Seal what has ended, and what was quiet for `idle_s`; returns how many versions."""
        count = 0
        now = time.time()
        with self._lock:
            while True:
                due = self._due(idle_s, now)
                sealed = seal(self._database, self._objects, idle_s=idle_s, now=now)
                self._lake.add(sealed)
                count += len(sealed)
                if due <= BATCH:
                    self.num_sealed += count
                    return count

    def flush(self, idle_s: float | None) -> Flushed:
        """Take in everything that is in the log now, then seal.

        Raises:
            UnavailableError: the log cannot be read to its end.
        """
        with self._lock:
            end = self._log.end()
            events = 0
            heard = time.monotonic()
            while not self._reached(end):
                if taken := self.step(timeout_s=0.5):
                    events += taken
                    heard = time.monotonic()
                    continue
                # What is left may be damaged places only: move past them.
                self._log.commit(GROUP)
                if time.monotonic() - heard > _SILENCE_MAX_S:
                    raise UnavailableError(
                        f"the event log gave nothing for {_SILENCE_MAX_S:.0f} s, "
                        f"at {self._log.position(GROUP)} of {end}"
                    )
            sealed = self.seal(idle_s)
            return Flushed(
                events=events,
                sealed=sealed,
                open=self.num_open(),
                position=self._log.position(GROUP),
                end=end,
            )

    def where(self) -> dict[str, dict[str, int]]:
        """Position and end of the log, by partition."""
        places = {"position": self._log.position(GROUP), "end": self._log.end()}
        return {name: {str(p): n for p, n in by.items()} for name, by in places.items()}

    def num_open(self) -> int:
        """Trajectories that are not sealed."""
        query = sa.select(sa.func.count()).where(trajectories.c.state.in_(("open", "ending")))
        with self._database.read() as connection:
            return int(connection.execute(query).scalar_one())

    def close(self) -> None:
        """Let go of the log and the database."""
        self._log.close()
        self._database.close()

    def _due(self, idle_s: float | None, now: float) -> int:
        with self._database.read() as connection:
            return num_due(connection, idle_s=idle_s, now=now)

    def _reached(self, end: dict[int, int]) -> bool:
        position = self._log.position(GROUP)
        return all(position.get(partition, 0) >= offset for partition, offset in end.items())


@contextmanager
def collecting(home: Home) -> Iterator[None]:
    """Be the one process that takes events in.

    Raises:
        ConflictError: another process is.
    """
    with (home.run / "collectors.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError(f"another process collects for {home.root}") from None
        yield
