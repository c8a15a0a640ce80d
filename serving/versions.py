"""Which adapters are resident in the engine for the gateway, and who is using them.

What is resident answers only once it is proven, and what is loaded again is proven again. A proof
is good for one incarnation of the engine: after its restart somebody else may have had the same
adapter loaded, which proves nothing.

A request leases its version from the moment the alias is resolved until its last byte. A version
is released when no request holds it and no alias keeps it: as its champion, the one before that,
or the candidate that is being tried out.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType

from appliance.core.digests import Digest, short
from appliance.core.errors import EspalierError, UnavailableError
from appliance.engine.client import AsyncEngine
from appliance.engine.wire import Health

HOLDER = "serving"
_log = logging.getLogger("espalier.versions")


class Versions:
    """Lives on the gateway's event loop: plain counters, no locks around them."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self.proof: Callable[[Digest], Awaitable[object]] = _no_proof
        """Raises unless the engine holds what was trained. Admission sets it."""
        self._uses: dict[Digest, int] = {}
        self._resident: dict[Digest, None] = {}
        self._proven: dict[Digest, str] = {}
        """The engine's incarnation in which each was proven."""
        self._loading: dict[Digest, asyncio.Task[str]] = {}
        self._guests: set[Digest] = set()
        """Addressed by digest; they stay until somebody needs the room."""
        self._kept: dict[str, set[Digest]] = {}
        """By alias."""
        self._changing = asyncio.Lock()
        self._releasing: set[asyncio.Task[None]] = set()

    @property
    def resident(self) -> list[Digest]:
        """What the gateway has prepared."""
        return list(self._resident)

    @property
    def uses(self) -> dict[Digest, int]:
        """Requests under way by version."""
        return dict(self._uses)

    @property
    def kept(self) -> set[Digest]:
        """What some alias keeps."""
        return set().union(*self._kept.values())

    def lease(self, adapter: Digest | None) -> "Lease":
        """Hold a version for one request, from now until the lease is left."""
        if adapter is not None:
            self._uses[adapter] = self._uses.get(adapter, 0) + 1
        return Lease(self, adapter)

    def give_back(self, adapter: Digest) -> None:
        """What a lease does at its end."""
        self._uses[adapter] -= 1
        if not self._uses[adapter]:
            del self._uses[adapter]
            self._release_unused()

    async def prepare(self, adapter: Digest, *, guest: bool = False) -> None:
        """Make a version resident; idle guests make room for it.

        Raises:
            AdapterError: it is not fit to be loaded.
            ConflictError: every slot is held.
            UnavailableError: the engine does not answer.
        """
        if adapter in self._resident:
            if not guest:
                self._guests.discard(adapter)
            return
        async with self._changing:
            kept = self.kept
            for idle in [g for g in self._guests if g not in self._uses and g not in kept]:
                await self._engine.release(idle, HOLDER)
                self._forget(idle)
            await self._engine.prepare(adapter, HOLDER)
            self._resident[adapter] = None
            if guest:
                self._guests.add(adapter)

    def proven(self, adapter: Digest | None) -> bool:
        """Whether it may answer: it is resident, and was proven since it was loaded."""
        return adapter is None or (adapter in self._proven and adapter in self._resident)

    async def incarnation(self) -> str:
        """The engine's, to be asked for before a proof: one that is started anew meanwhile is not
        the one that the proof is good for.
        """
        return (await self._engine.health()).incarnation

    def proved(self, adapter: Digest, incarnation: str) -> None:
        """A proof of what is resident was good. What was lost meanwhile is proven again."""
        if adapter in self._resident:
            self._proven[adapter] = incarnation

    async def ready(self, adapter: Digest, *, guest: bool = False) -> str:
        """Make a version resident and proven. All who ask at once wait for the same proof.

        Returns:
            The engine's incarnation in which it was proven.

        Raises:
            EspalierError: as `prepare` and `proof`.
        """
        if self.proven(adapter):
            return self._proven[adapter]
        task = self._loading.get(adapter)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._load(adapter, guest))
            self._loading[adapter] = task
            task.add_done_callback(lambda done: self._loaded(adapter, done))
        return await asyncio.shield(task)

    async def require_ready(self, adapter: Digest | None) -> str:
        """Before a request that was routed to it: what it waits for is the engine's business.

        Returns:
            The incarnation to name in the request; empty for the base, which needs no proof.

        Raises:
            UnavailableError: it is not proven, and cannot be now.
        """
        if adapter is None:
            return ""
        try:
            return await self.ready(adapter)
        except EspalierError as error:
            raise UnavailableError(
                f"adapter {short(adapter)} cannot answer: {error.message}"
            ) from error

    async def load_again(self, adapter: Digest, *, refused: str) -> None:
        """Load and prove a version that this incarnation of the engine says it does not have.

        Raises:
            UnavailableError: it cannot be now.
        """
        # Else somebody is at it, or has done it.
        if self.proven(adapter) and self._proven[adapter] == refused:
            self._lose(adapter)
        await self.require_ready(adapter)

    async def restore(self, health: Health) -> None:
        """Load what should be resident and, as the engine says, is not, or not by our doing."""
        lost = [
            adapter
            for adapter in self._resident
            if self.proven(adapter)
            and (adapter not in health.resident or self._proven[adapter] != health.incarnation)
        ]
        for adapter in lost:
            self._lose(adapter)
        for adapter in lost:
            _log.warning("the engine lost adapter %s: loading it again", short(adapter))
            try:
                await self.require_ready(adapter)
            except UnavailableError as error:
                _log.warning("%s", error.message)

    def keep(self, alias: str, *adapters: Digest | None) -> None:
        """From now on `alias` keeps these resident; a version that no alias keeps goes when its
        last request ends.
        """
        self._kept[alias] = {adapter for adapter in adapters if adapter is not None}
        self._guests -= self._kept[alias]
        self._release_unused()

    async def _load(self, adapter: Digest, guest: bool) -> str:
        with self.lease(adapter):
            await self.prepare(adapter, guest=guest)
            try:
                incarnation = await self.incarnation()
                await self.proof(adapter)
            except EspalierError:
                # Whoever asks again has it loaded from its files again.
                async with self._changing:
                    self._forget(adapter)
                    with suppress(EspalierError):
                        await self._engine.release(adapter, HOLDER)
                raise
            self.proved(adapter, incarnation)
        return incarnation

    def _loaded(self, adapter: Digest, task: "asyncio.Task[str]") -> None:
        del self._loading[adapter]
        if not task.cancelled():
            task.exception()  # whoever waited has it

    async def settle(self) -> None:
        """Return once the releases that were begun are done."""
        while self._releasing:
            await asyncio.gather(*self._releasing)

    def _release_unused(self) -> None:
        stays = self.kept | self._guests
        for adapter in list(self._resident):
            if adapter not in stays and adapter not in self._uses:
                self._forget(adapter)
                task = asyncio.get_running_loop().create_task(self._release(adapter))
                self._releasing.add(task)
                task.add_done_callback(self._releasing.discard)

    async def _release(self, adapter: Digest) -> None:
        async with self._changing:
            if adapter in self._resident or adapter in self._uses:
                return  # somebody wanted it again meanwhile
            try:
                await self._engine.release(adapter, HOLDER)
            except EspalierError as error:
                _log.warning("adapter %s stays in the engine: %s", short(adapter), error)

    def _forget(self, adapter: Digest) -> None:
        self._lose(adapter)
        self._guests.discard(adapter)

    def _lose(self, adapter: Digest) -> None:
        self._resident.pop(adapter, None)
        self._proven.pop(adapter, None)


async def _no_proof(adapter: Digest) -> None:
    raise UnavailableError(f"nobody can prove adapter {short(adapter)} here")


class Lease:
    """One request's hold on a version. It begins when it is made: no await can come between
    resolving the alias and holding what it meant.
    """

    def __init__(self, versions: Versions, adapter: Digest | None) -> None:
        self._versions = versions
        self._adapter = adapter

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._adapter is not None:
            self._versions.give_back(self._adapter)
            self._adapter = None
