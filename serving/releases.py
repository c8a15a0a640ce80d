"""What the alias means, and how it moves: release, rollback, kill switch, start.

The journal says what should be served; this room makes the engine agree and only then lets new
requests see it. Requests under way keep the version that they began with.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Literal

import msgspec
import sqlalchemy as sa

from appliance.core import audit
from appliance.core.database import Database
from appliance.core.digests import Digest, short
from appliance.core.errors import (
    ConflictError,
    EspalierError,
    RefusedError,
    UnavailableError,
)
from appliance.core.records import Release
from appliance.core.tables import adapters, releases, rounds
from serving import journal
from serving.versions import Versions
from serving.vetting import Vetting

_log = logging.getLogger("espalier.releases")


class ReleaseRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the control plane asks for. `expected_generation` makes a stale approval fail."""

    round: int
    adapter: Digest
    expected_generation: int
    approvals: tuple[Digest, ...]
    actor: str


class Releases:
    """Lives on the gateway's event loop; one move at a time."""

    def __init__(
        self,
        database: Database,
        versions: Versions,
        vetting: Vetting,
        *,
        alias: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._versions = versions
        self._vetting = vetting
        self._alias = alias
        self._clock = clock
        self._entry: Release | None = None
        self._problem = "the gateway is starting"
        self._moving = asyncio.Lock()

    @property
    def ready(self) -> bool:
        """Whether the alias can be served."""
        return self._entry is not None

    @property
    def problem(self) -> str:
        """Why not, while it cannot."""
        return "" if self.ready else self._problem

    def champion(self) -> Digest | None:
        """The adapter that new requests get; None is the base.

        Raises:
            UnavailableError: it is not loaded and proven yet.
        """
        if self._entry is None:
            raise UnavailableError(f"{self._alias} cannot be served yet: {self._problem}")
        return self._entry.adapter

    def label_of(self, adapter: Digest) -> str:
        """The label of an adapter that is served, which what it writes cannot be below."""
        return self._vetting.label_of(adapter)

    def note(self, error: EspalierError) -> None:
        """Say why the alias cannot be served, while it cannot."""
        self._problem = error.message

    async def history(self) -> list[Release]:
        """The journal's latest entries, newest first."""
        return await asyncio.to_thread(journal.history, self._database, self._alias)

    def entry(self) -> Release:
        """The journal entry in force.

        Raises:
            UnavailableError: the alias cannot be served yet.
        """
        self.champion()
        if self._entry is None:
            raise UnavailableError(self._problem)
        return self._entry

    async def start(self) -> None:
        """Replay the journal: load and prove what it says, then serve it.

        Raises:
            EspalierError: it cannot be served. The gateway stays up, not ready, and tries again.
        """
        async with self._moving:
            entry = await asyncio.to_thread(journal.current, self._database, self._alias)
            if entry is None:
                entry = await self._write(None, None, "start", (), "system", 0)
            self._versions.keep(entry.adapter, entry.previous)
            if entry.adapter is not None:
                await self._prepare_proven(entry.adapter)
            await self._prepare_previous(entry)
            self._entry = entry

    async def release(self, request: ReleaseRequest) -> dict[str, Any]:
        """Move the alias to an approved adapter.

        In this order: digests, static checks, approvals, loading, proof, compare-and-set. Until
        the last one nothing changes for anybody.

        Raises:
            EspalierError: a check says no (audited as ``alias.refused``), or somebody was first.
        """
        began = time.perf_counter()
        async with self._moving:
            now = self.entry()
            _require_generation(now, request.expected_generation)
            _require_another(now, request.adapter)
            # Held from here on, so that no other request's end releases it before it is champion.
            with self._versions.lease(request.adapter):
                try:
                    await self._vetting.require_intact(request.adapter)
                    await self._vetting.require_approved(
                        request.round, request.adapter, request.approvals, at=self._clock()
                    )
                    await self._versions.prepare(request.adapter)
                    gaps = await self._vetting.require_proof(request.adapter, champion=now.adapter)
                except EspalierError as error:
                    await asyncio.to_thread(self._record_refusal, request, error)
                    raise
                moved = await self._move(
                    now, request.adapter, "release", request.approvals, request.actor
                )
        return {"release": msgspec.to_builtins(moved), "probe": gaps, "ms": _since(began)}

    async def rollback(self, *, actor: str, reason: str) -> dict[str, Any]:
        """Back to the adapter before the last release. It is resident, so nothing is loaded.

        Raises:
            ConflictError: there is nothing to go back to, or it was gone back to already.
        """
        began = time.perf_counter()
        async with self._moving:
            now = self.entry()
            # Back from a rollback or a kill would be forward, to what somebody just took away.
            if now.reason != "release":
                raise ConflictError(
                    f"{self._alias} was last moved by {now.reason!r}, not by a release: "
                    "there is nothing to roll back",
                    next_step="espalier release N serves an approved round's adapter again",
                )
            if now.previous is not None and now.previous not in self._versions.resident:
                await self._prepare_proven(now.previous)
            moved = await self._move(now, now.previous, "rollback", (), actor, comment=reason)
        return {"release": msgspec.to_builtins(moved), "ms": _since(began)}

    async def kill(self, *, actor: str, reason: str) -> dict[str, Any]:
        """Serve the base from now on. Needs nothing but the journal. Twice is once more written."""
        began = time.perf_counter()
        async with self._moving:
            last = await asyncio.to_thread(journal.current, self._database, self._alias)
            # The base needs no adapter, so this works also while the alias cannot be served.
            now = self._entry or last or self.entry()
            moved = await self._move(now, None, "kill", (), actor, comment=reason)
        return {"release": msgspec.to_builtins(moved), "ms": _since(began)}

    def is_ours(self, adapter: Digest) -> bool:
        """Whether an adapter was released once, or is a round's candidate. Reads the database."""
        with self._database.read() as connection:
            known = sa.select(adapters.c.content).where(adapters.c.content == adapter)
            named = sa.union_all(
                sa.select(releases.c.adapter).where(releases.c.adapter == adapter),
                sa.select(rounds.c.adapter).where(rounds.c.adapter == adapter),
            )
            return connection.scalar(known) is not None and connection.scalar(named) is not None

    async def admit(self, adapter: Digest) -> None:
        """Make a version that a client named by its digest resident: vetted, but not approved.

        Raises:
            EspalierError: a check says no.
        """
        await self._vetting.require_intact(adapter)
        with self._versions.lease(adapter):
            await self._versions.prepare(adapter, guest=True)
            try:
                await self._vetting.require_proof(adapter, champion=None)
            except EspalierError:
                self._versions.drop(adapter)
                raise

    async def _move(
        self,
        now: Release,
        adapter: Digest | None,
        reason: Literal["release", "rollback", "kill"],
        approvals: tuple[Digest, ...],
        actor: str,
        *,
        comment: str = "",
    ) -> Release:
        moved = await self._write(
            adapter, now.adapter, reason, approvals, actor, now.generation, comment
        )
        # From this line on new requests get the new version.
        self._entry = moved
        self._versions.keep(moved.adapter, moved.previous)
        _log.info("%s is now %s (%s)", self._alias, short(adapter or "base"), reason)
        return moved

    async def _write(
        self,
        adapter: Digest | None,
        previous: Digest | None,
        reason: Literal["release", "rollback", "kill", "start"],
        approvals: tuple[Digest, ...],
        actor: str,
        generation: int,
        comment: str = "",
    ) -> Release:
        entry = Release(
            alias=self._alias,
            generation=generation + 1,
            adapter=adapter,
            previous=previous,
            reason=reason,
            approvals=approvals,
            actor=actor,
            at=self._clock(),
        )
        return await asyncio.to_thread(journal.append, self._database, entry, comment=comment)

    async def _prepare_proven(self, adapter: Digest) -> None:
        await self._vetting.require_intact(adapter)
        await self._versions.prepare(adapter)
        await self._vetting.require_proof(adapter, champion=None)

    async def _prepare_previous(self, entry: Release) -> None:
        """The rollback target; without it the alias is served all the same."""
        if entry.previous is None:
            return
        try:
            await self._prepare_proven(entry.previous)
        except EspalierError as error:
            _log.warning("no rollback target: %s", error)

    def _record_refusal(self, request: ReleaseRequest, error: EspalierError) -> None:
        with self._database.write() as connection:
            audit.record(
                connection,
                actor=request.actor,
                act="alias.refused",
                subject=request.adapter,
                at=self._clock(),
                round=request.round,
                why=error.message,
            )


def _require_generation(now: Release, expected: int) -> None:
    if now.generation != expected:
        raise ConflictError(
            f"{now.alias} is at generation {now.generation}, expected generation {expected}",
            next_step="look at what is served now, then decide again",
        )


def _require_another(now: Release, adapter: Digest) -> None:
    # It would stand before itself, and a rollback would go back to itself.
    if now.adapter == adapter:
        raise RefusedError(
            f"{now.alias} serves adapter {short(adapter)} already",
            next_step="espalier status says what is served, and since when",
        )


def _since(began: float) -> float:
    return round((time.perf_counter() - began) * 1000, 3)
