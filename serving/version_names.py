"""Versions as label values: an adapter's number, ``base``, or ``other``. Few at once."""

from collections.abc import Callable

import sqlalchemy as sa

from appliance.core.database import Database
from appliance.core.digests import Digest
from appliance.core.tables import adapters
from serving.versions import Versions

MAX_GUESTS = 16
"""Named beside the kept versions: champion, the one before it, candidate."""
MAX_NAMES = MAX_GUESTS + 3


class VersionNames:
    """A kept version always has a name; another has one while there is room."""

    def __init__(self, database: Database, versions: Versions) -> None:
        self.on_forget: Callable[[str], None] = lambda _: None
        """Told of a name that is used no more."""
        self._database = database
        self._versions = versions
        self._numbers: dict[Digest, int] = {}
        self._named: dict[Digest, str] = {}
        """The one named longest ago first."""
        self.reload()

    def reload(self) -> None:
        """Learn the numbers of adapters that were made since."""
        newer = sa.select(adapters.c.content, adapters.c.number).where(
            adapters.c.number > max(self._numbers.values(), default=-1)
        )
        with self._database.read() as connection:
            for row in connection.execute(newer).all():
                self._numbers[row.content] = row.number

    def name(self, adapter: Digest | None) -> str:
        """The label of a version; None is the base."""
        if adapter is None:
            return "base"
        if adapter in self._named:
            return self._named[adapter]
        if adapter not in self._numbers:
            return "other"
        kept = self._versions.kept
        guests = [named for named in self._named if named not in kept]
        if adapter not in kept and len(guests) >= MAX_GUESTS:
            return "other"
        if len(self._named) >= MAX_NAMES:
            if not guests:
                return "other"
            self.on_forget(self._named.pop(guests[0]))
        self._named[adapter] = str(self._numbers[adapter])
        return self._named[adapter]
