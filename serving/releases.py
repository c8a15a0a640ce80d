"""What an alias means, and how it moves: start, rollout, release, rollback, kill switch.

The journal says what should be served; this room makes the engine agree and only then lets new
requests see it. Requests under way keep the version that they began with. When a rollout goes on
or is stopped: canary.py. Which version a request gets: routing.py.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from typing import Any

import msgspec

from appliance.core.database import Database
from appliance.core.decisions import MOVES, Release, Rollout
from appliance.core.digests import Digest, short
from appliance.core.errors import ConflictError, EspalierError, UnavailableError
from appliance.core.settings import Rollout as RolloutSettings
from policies.releasing import require_another, require_generation, require_nothing_tried
from serving import journal
from serving.admission import Admission, ReleaseRequest
from serving.versions import Versions

SYSTEM = "system"
_log = logging.getLogger("espalier.releases")


class Releases:
    """One alias. Lives on the gateway's event loop; one move at a time, one version proven at a
    time. What loads or proves waits for the engine, so it never holds up a rollback or a kill.
    """

    def __init__(
        self,
        database: Database,
        versions: Versions,
        admission: Admission,
        *,
        alias: str,
        rollout: RolloutSettings,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.alias = alias
        self._database = database
        self._versions = versions
        self._admission = admission
        self._rollout = rollout
        self._clock = clock
        self._entry: Release | None = None
        self._last_move: Release | None = None
        self._problem = "the gateway is starting"
        self._moving = asyncio.Lock()
        """For the journal's next entry alone: nothing waits for the engine while holding it."""
        self._proving = asyncio.Lock()

    @property
    def ready(self) -> bool:
        """Whether the alias can be served."""
        return self._entry is not None

    @property
    def problem(self) -> str:
        """Why not, while it cannot."""
        return "" if self.ready else self._problem

    def entry(self) -> Release:
        """The journal entry in force.

        Raises:
            UnavailableError: what it says is not loaded and proven yet.
        """
        if self._entry is None:
            raise UnavailableError(f"{self.alias} cannot be served yet: {self._problem}")
        return self._entry

    def champion(self) -> Digest | None:
        """The adapter that the alias means; None is the base.

        Raises:
            UnavailableError: it is not loaded and proven yet.
        """
        return self.entry().adapter

    def stands(self, adapter: Digest | None) -> bool:
        """Whether a session that has this version may keep it: the champion, the candidate, and
        the one that was replaced. Not what a rollback, a stop or a kill has taken away.
        """
        entry = self.entry()
        if adapter == entry.adapter:
            return True
        if entry.trying is not None and adapter == entry.trying.candidate:
            return True
        return self._was_released and adapter == entry.previous

    def note(self, error: EspalierError) -> None:
        """Say why the alias cannot be served, while it cannot."""
        self._problem = error.message

    async def history(self) -> list[Release]:
        """The journal's latest entries, newest first."""
        return await asyncio.to_thread(journal.history, self._database, self.alias)

    async def follow(self) -> None:
        """Serve what the journal says: at the start, and where it is ahead of us.

        Raises:
            EspalierError: it cannot be served. What was served goes on, and this tries again.
        """
        if self._proving.locked():
            return
        async with self._proving:
            entry = await self._written()
            if entry == self._entry:
                return
            trying = entry.trying
            candidate = trying.candidate if trying is not None else None
            self._versions.keep(self.alias, entry.adapter, entry.previous, candidate)
            if entry.adapter is not None:
                await self._admission.prove(entry.adapter)
            await self._prepare_previous(entry)
            unfit = "" if candidate is None else await self._unfit(candidate)
            async with self._moving:
                if await self._written() != entry:
                    return  # a kill or a rollback was first
                self._last_move = await asyncio.to_thread(
                    journal.last_move, self._database, self.alias
                )
                if unfit:
                    await self._stop(entry, SYSTEM, unfit)
                else:
                    self._entry = entry

    async def release(self, request: ReleaseRequest) -> dict[str, Any]:
        """Move the alias to an approved adapter, or begin to try it out where settings say so.

        In this order: digests, static checks, approvals, loading, proof, compare-and-set. Until
        the last one nothing changes for anybody.

        Raises:
            EspalierError: a check says no (audited as ``alias.refused``), or somebody was first.
        """
        began = time.perf_counter()
        async with self._proving:
            now = self._may_release(request)
            # Held from here on, so that no other request's end releases it before it is kept.
            with self._versions.lease(request.adapter):
                gaps = await self._admission.approve(request, champion=now.adapter)
                said: dict[str, Any] = {"approvals": request.approvals, "actor": request.actor}
                async with self._moving:
                    now = self._may_release(request)
                    if self._rollout.staged:
                        said |= _try_out(self._first_stage(request.adapter))
                    else:
                        said |= {"reason": "release", "adapter": request.adapter}
                    moved = await self._move(now, **said)
        return {"release": msgspec.to_builtins(moved), "probe": gaps, "ms": _since(began)}

    async def advance(self, seen: Release) -> None:
        """The candidate has done well for so long: a larger share, or the release.

        Does nothing where the alias has moved since `seen`.
        """
        async with self._moving:
            now, trying = self.entry(), self.entry().trying
            if now.generation != seen.generation or trying is None:
                return
            share = next((one for one in self._rollout.stages if one > trying.share), None)
            if share is None:
                await self._move(now, reason="release", adapter=trying.candidate, actor=SYSTEM)
            else:
                grown = msgspec.structs.replace(trying, share=share)
                await self._move(now, **_try_out(grown), actor=SYSTEM)

    async def stop(self, seen: Release, why: str, **detail: Any) -> None:
        """Take the candidate away; the champion answers everybody. See `advance`."""
        async with self._moving:
            now = self.entry()
            if now.generation == seen.generation and now.trying is not None:
                await self._stop(now, SYSTEM, why, **detail)

    async def rollback(self, *, actor: str, reason: str) -> dict[str, Any]:
        """Undo the newest change: a candidate that is being tried out is taken away, else the
        alias means the adapter before the last release. That is resident, so nothing is loaded.

        Raises:
            ConflictError: there is nothing to go back to, or it was gone back to already.
        """
        began = time.perf_counter()
        before = self.entry()
        if before.trying is None:
            self._require_released()
            if before.previous is not None and not self._versions.proven(before.previous):
                await self._admission.prove(before.previous)
        async with self._moving:
            now = self.entry()
            if now.trying is not None:
                moved = await self._stop(now, actor, reason)
            else:
                self._require_released()
                # Else nobody looked at what it would go back to.
                require_generation(now, before.generation)
                moved = await self._move(
                    now, reason="rollback", adapter=now.previous, actor=actor, comment=reason
                )
        return {"release": msgspec.to_builtins(moved), "ms": _since(began)}

    async def kill(self, *, actor: str, reason: str) -> dict[str, Any]:
        """Serve the base from now on. Needs nothing but the journal. Twice is once more written."""
        began = time.perf_counter()
        async with self._moving:
            last = await asyncio.to_thread(journal.current, self._database, self.alias)
            # The base needs no adapter, so this works also while the alias cannot be served.
            now = last or self.entry()
            moved = await self._move(now, reason="kill", adapter=None, actor=actor, comment=reason)
        return {"release": msgspec.to_builtins(moved), "ms": _since(began)}

    @property
    def _was_released(self) -> bool:
        return self._last_move is not None and self._last_move.reason == "release"

    def _may_release(self, request: ReleaseRequest) -> Release:
        now = self.entry()
        require_generation(now, request.expected_generation)
        require_nothing_tried(now)
        require_another(now, request.adapter)
        return now

    def _require_released(self) -> None:
        # Back from a rollback or a kill would be forward, to what somebody just took away.
        if not self._was_released:
            last = self._last_move.reason if self._last_move else "start"
            raise ConflictError(
                f"{self.alias} was last moved by {last!r}, not by a release: "
                "there is nothing to roll back",
                next_step="espalier release N serves an approved round's adapter again",
            )

    async def _stop(self, now: Release, actor: str, why: str, **detail: Any) -> Release:
        candidate = now.trying.candidate if now.trying else None
        return await self._move(
            now, reason="stop", actor=actor, comment=why, detail={"candidate": candidate, **detail}
        )

    async def _move(
        self,
        now: Release,
        *,
        comment: str = "",
        detail: dict[str, Any] | None = None,
        **changes: Any,
    ) -> Release:
        """Write the entry after `now`. What `changes` does not name stays as it is."""
        if changes["reason"] in ("stop", "rollback", "kill"):
            changes["approvals"] = ()
        if "adapter" in changes:
            changes["previous"] = now.adapter
        changes = {"rollout": msgspec.UNSET, **changes}
        moved = msgspec.structs.replace(
            now, schema="release/2", generation=now.generation + 1, at=self._clock(), **changes
        )
        moved = await self._write(moved, comment=comment, **(detail or {}))
        # From this line on new requests get the new version.
        self._entry = moved
        if moved.reason in MOVES:
            self._last_move = moved
        trying = moved.trying
        self._versions.keep(
            self.alias, moved.adapter, moved.previous, trying.candidate if trying else None
        )
        _log.info(
            "%s is now %s (%s%s)",
            self.alias,
            short(moved.adapter or "base"),
            moved.reason,
            f", {trying.share} % for {short(trying.candidate)}" if trying else "",
        )
        return moved

    async def _write(self, entry: Release, *, comment: str = "", **detail: Any) -> Release:
        return await asyncio.to_thread(
            journal.append, self._database, entry, comment=comment, **detail
        )

    async def _written(self) -> Release:
        """The journal's last entry; its first is written where there is none."""
        entry = await asyncio.to_thread(journal.current, self._database, self.alias)
        return entry or await self._write(
            Release(
                alias=self.alias, generation=1, adapter=None, previous=None,
                reason="start", approvals=(), actor=SYSTEM, at=self._clock(),
            )
        )  # fmt: skip

    async def _prepare_previous(self, entry: Release) -> None:
        """The rollback target; without it the alias is served all the same."""
        if entry.previous is None:
            return
        try:
            await self._admission.prove(entry.previous)
        except EspalierError as error:
            _log.warning("no rollback target: %s", error)

    async def _unfit(self, candidate: Digest) -> str:
        """Why the version that was being tried out cannot be any more; empty where it can."""
        try:
            await self._admission.prove(candidate)
        except UnavailableError:
            raise
        except EspalierError as error:
            return f"not fit to be loaded again: {error.message}"
        return ""

    def _first_stage(self, candidate: Digest) -> Rollout:
        stages = self._rollout.stages
        shadow = self._rollout.shadow_requests > 0 or not stages
        salt = secrets.token_hex(16)
        return Rollout(candidate=candidate, share=0 if shadow else stages[0], salt=salt)


def _try_out(rollout: Rollout) -> dict[str, Any]:
    return {"reason": "canary" if rollout.share else "shadow", "rollout": rollout}


def _since(began: float) -> float:
    return round((time.perf_counter() - began) * 1000, 3)
