"""How a version comes into the engine: for a release, by an exact name, or after a restart.

Whichever it is, it is intact and proven before anybody gets an answer from it. The checks
themselves: vetting.py.
"""

import asyncio
import re
import time
from collections.abc import Callable

import msgspec
import sqlalchemy as sa

from appliance.core import audit
from appliance.core.database import Database
from appliance.core.digests import Digest, parse_digest
from appliance.core.errors import EspalierError, NotFoundError, RecordError
from appliance.core.tables import adapters, releases, rounds
from serving.versions import Versions
from serving.vetting import Vetting

_NUMBER = re.compile("[1-9][0-9]{0,8}", re.ASCII)


class ReleaseRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the control plane asks for. `expected_generation` makes a stale approval fail."""

    round: int
    adapter: Digest
    expected_generation: int
    approvals: tuple[Digest, ...]
    actor: str
    alias: str = ""
    """Empty is the endpoint's own."""


class Admission:
    """What all aliases share."""

    def __init__(
        self,
        database: Database,
        versions: Versions,
        vetting: Vetting,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._versions = versions
        self._vetting = vetting
        self._clock = clock
        self._numbers: dict[str, Digest] = {}

    def label_of(self, adapter: Digest) -> str:
        """The label of an adapter that is served, which what it writes cannot be below."""
        return self._vetting.label_of(adapter)

    async def approve(
        self, request: ReleaseRequest, *, champion: Digest | None
    ) -> dict[str, float]:
        """Make an approved version resident; returns the proof's gaps. Hold its lease meanwhile.

        Raises:
            EspalierError: a check says no; it is audited as ``alias.refused``.
        """
        try:
            await self._vetting.require_intact(request.adapter)
            await self._vetting.require_approved(
                request.round, request.adapter, request.approvals, at=self._clock()
            )
            await self._versions.prepare(request.adapter)
            return await self._vetting.require_proof(request.adapter, champion=champion)
        except EspalierError as error:
            await asyncio.to_thread(self._record_refusal, request, error)
            raise

    async def prove(self, adapter: Digest) -> None:
        """Make a version resident that was approved before.

        Raises:
            EspalierError: a check says no.
        """
        await self._vetting.require_intact(adapter)
        await self._versions.prepare(adapter)
        await self._vetting.require_proof(adapter, champion=None)

    async def exact(self, name: str) -> Digest | None:
        """The version that a client names, made resident: vetted, but not approved. ``base`` is
        the base (None); else an adapter's digest or its number.

        Raises:
            NotFoundError: nothing here has that name, or it was neither released nor a candidate.
            EspalierError: a check says no.
        """
        if name == "base":
            return None
        adapter = self._numbers.get(name)
        if adapter is None:
            adapter = await asyncio.to_thread(self._find, name)
        if adapter not in self._versions.resident:
            if not await asyncio.to_thread(self._is_ours, adapter):
                raise NotFoundError(f"adapter {name!r} was neither released nor is it a candidate")
            await self._admit(adapter)
        return adapter

    async def _admit(self, adapter: Digest) -> None:
        await self._vetting.require_intact(adapter)
        with self._versions.lease(adapter):
            await self._versions.prepare(adapter, guest=True)
            try:
                await self._vetting.require_proof(adapter, champion=None)
            except EspalierError:
                self._versions.drop(adapter)
                raise

    def _find(self, name: str) -> Digest:
        if not _NUMBER.fullmatch(name):
            try:
                return parse_digest(name)
            except RecordError as error:
                raise NotFoundError(f"{name[:100]!r} is no digest, number or ``base``") from error
        with self._database.read() as connection:
            found: Digest | None = connection.scalar(
                sa.select(adapters.c.content).where(adapters.c.number == int(name))
            )
        if found is None:
            raise NotFoundError(f"no adapter has number {name}")
        # A number is given once.
        self._numbers[name] = found
        return found

    def _is_ours(self, adapter: Digest) -> bool:
        """Whether it was released once, or is a round's candidate."""
        with self._database.read() as connection:
            known = sa.select(adapters.c.content).where(adapters.c.content == adapter)
            named = sa.union_all(
                sa.select(releases.c.adapter).where(releases.c.adapter == adapter),
                sa.select(rounds.c.adapter).where(rounds.c.adapter == adapter),
            )
            return connection.scalar(known) is not None and connection.scalar(named) is not None

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
