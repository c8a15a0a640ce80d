"""How a version comes into the engine: for a release, by an exact name, or after a restart.

Whichever it is, it is intact and proven before anybody gets an answer from it. The checks
themselves: vetting.py.
"""

import asyncio
import re
import time
from collections.abc import Callable
from typing import Any

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
        versions.proof = self._prove

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
            incarnation = await self._versions.incarnation()
            gaps = await self._vetting.require_proof(request.adapter, champion=champion)
        except EspalierError as error:
            await asyncio.to_thread(self._record_refusal, request, error)
            raise
        self._versions.proved(request.adapter, incarnation)
        return gaps

    async def prove(self, adapter: Digest) -> None:
        """Make a version resident that was approved before, and prove it unless it is proven.

        Raises:
            EspalierError: a check says no.
        """
        await self._vetting.require_intact(adapter)
        await self._versions.ready(adapter)

    async def exact(self, name: str, aliases: tuple[str, ...]) -> Digest | None:
        """The version that a client of these aliases names, made resident: vetted, but not
        approved. ``base`` is the base (None); else an adapter's digest or its number.

        Raises:
            NotFoundError: nothing here has that name, or it was neither released nor a candidate.
            EspalierError: a check says no.
        """
        if name == "base":
            return None
        adapter = self._numbers.get(name)
        if adapter is None:
            adapter = await asyncio.to_thread(self._find, name)
        if not await self.may_name(adapter, aliases):
            raise NotFoundError(f"adapter {name!r} was neither released nor is it a candidate")
        if not self._versions.proven(adapter):
            await self._vetting.require_intact(adapter)
            await self._versions.ready(adapter, guest=True)
        return adapter

    async def may_name(self, adapter: Digest, aliases: tuple[str, ...]) -> bool:
        """Whether it was released for one of these aliases, or is a round's candidate that no
        other alias has had to do with.
        """
        return await asyncio.to_thread(self._is_of, adapter, aliases)

    async def _prove(self, adapter: Digest) -> None:
        await self._vetting.require_proof(adapter, champion=None)

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

    def _is_of(self, adapter: Digest, aliases: tuple[str, ...]) -> bool:
        own = releases.c.alias.in_(aliases)
        released = sa.select(releases.c.alias).where(releases.c.adapter == adapter, own)
        # Wherever an entry says it: released, replaced or tried out.
        elsewhere = sa.select(releases.c.alias).where(releases.c.record.contains(adapter), ~own)
        made = sa.select(rounds.c.round).where(rounds.c.adapter == adapter)
        known = sa.select(adapters.c.content).where(adapters.c.content == adapter)
        with self._database.read() as connection:

            def some(query: sa.Select[Any]) -> bool:
                return connection.execute(query.limit(1)).first() is not None

            return some(known) and (some(released) or (some(made) and not some(elsewhere)))

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
