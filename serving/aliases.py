"""The names that clients ask for: the endpoint's own, and those of teams.

Each has a journal, releases and a rollout of its own; the engine and its slots they share.
"""

import asyncio
from collections.abc import Iterator

from appliance.core.database import Database
from appliance.core.errors import EspalierError, NotFoundError
from appliance.core.records import Feedback
from appliance.core.settings import Settings
from appliance.engine.client import AsyncEngine
from serving.admission import Admission
from serving.canary import Canary
from serving.keys import Key
from serving.releases import Releases
from serving.routing import Router
from serving.shadow import Shadow
from serving.versions import Versions


class Alias:
    """One name, and all that decides what it means."""

    def __init__(self, name: str, team: str, releases: Releases, router: Router, canary: Canary):
        self.name = name
        self.team = team
        """Whose keys alone may address it; empty is everybody's."""
        self.releases = releases
        self.router = router
        self.canary = canary

    def may_address(self, key: Key) -> bool:
        """Whether it is for this key."""
        return self.team in ("", key.team)


class Aliases:
    """All of them; `main` is the endpoint's own."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        engine: AsyncEngine,
        versions: Versions,
        admission: Admission,
    ) -> None:
        shadow = Shadow(engine, versions)
        gateway = settings.gateway
        self._by_name: dict[str, Alias] = {}
        for name, team in {gateway.alias: "", **gateway.team_aliases}.items():
            releases = Releases(database, versions, admission, alias=name, rollout=settings.rollout)
            router = Router(releases, pin_sessions=gateway.pin_sessions)
            canary = Canary(releases, shadow, settings.rollout)
            self._by_name[name] = Alias(name, team, releases, router, canary)
        self.main = self._by_name[gateway.alias]

    def __iter__(self) -> Iterator[Alias]:
        return iter(self._by_name.values())

    def find(self, name: str) -> Alias | None:
        """The alias of this name."""
        return self._by_name.get(name)

    def get(self, name: str) -> Alias:
        """The alias of this name; empty is the endpoint's own.

        Raises:
            NotFoundError: there is none.
        """
        alias = self.find(name or self.main.name)
        if alias is None:
            raise NotFoundError(
                f"no alias {name[:100]!r}; there is {', '.join(map(repr, self._by_name))}",
                next_step="add it under [gateway.team_aliases] in espalier.toml",
            )
        return alias

    def heard(self, feedback: Feedback) -> None:
        """Tell the rollouts what was said."""
        for alias in self:
            alias.canary.heard(feedback)

    async def follow(self) -> None:
        """Bring what is served to what the journal says; one that cannot be served says why.

        Raises:
            EspalierError: the endpoint's own cannot.
        """
        problem = None
        for alias in self:
            try:
                await alias.releases.follow()
            except EspalierError as error:
                alias.releases.note(error)
                problem = error if alias is self.main else problem
        if problem is not None:
            raise problem

    async def run(self) -> None:
        """Carry the rollouts on, until cancelled."""
        await asyncio.gather(*(alias.canary.run() for alias in self))
