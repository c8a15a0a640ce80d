"""Everything that is asked about an adapter before it may answer anybody.

It reads the adapter's files, the database's approvals and the engine's logprobs; the judgements
themselves are rules without I/O (adapter_check, policies.quorum, probe).
"""

import asyncio

import msgspec
import sqlalchemy as sa

from appliance.core.adapters import RECORD
from appliance.core.database import Database
from appliance.core.decisions import Approval, Candidate
from appliance.core.digests import Digest, digest_json, short
from appliance.core.errors import AdapterError, NotApprovedError, NotFoundError, RefusedError
from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.records import Adapter, Probe, decode
from appliance.core.settings import Settings
from appliance.core.signers import signers
from appliance.core.tables import adapters, approvals, rounds
from appliance.engine.bases import Base
from appliance.engine.client import AsyncEngine
from policies.access import Act, roles_that
from policies.gates import parse_gates
from policies.labels import flows_to
from policies.quorum import require_quorum
from serving import probe
from serving.adapter_check import base_config, verify_adapter


class Vetting:
    """One base's engine, and the records of what was trained for it."""

    def __init__(
        self, home: Home, settings: Settings, database: Database, engine: AsyncEngine, base: Base
    ) -> None:
        self._home = home
        self._settings = settings
        self._database = database
        self._objects = ObjectStore(home.objects)
        self._engine = engine
        self._base = base
        self._labels: dict[Digest, str] = {}

    def label_of(self, adapter: Digest) -> str:
        """The label of an adapter that was found intact: of all that it was trained on."""
        return self._labels[adapter]

    async def require_intact(self, adapter: Digest) -> None:
        """Raise unless the files are what the digest says and are fit to be loaded.

        Raises:
            NotFoundError: we never trained it.
            AdapterError: with the reason.
            RefusedError: its label is above this endpoint's.
        """
        await asyncio.to_thread(self._require_intact, adapter)

    async def require_approved(
        self, number: int, adapter: Digest, cited: tuple[Digest, ...], *, at: float
    ) -> None:
        """Raise unless enough people approved exactly this adapter, of this round.

        Raises:
            NotApprovedError: they did not, or an approval that was cited is not in the database.
        """
        await asyncio.to_thread(self._require_approved, number, adapter, cited, at)

    async def require_proof(self, adapter: Digest, *, champion: Digest | None) -> dict[str, float]:
        """Raise unless the engine's logprobs prove that it holds what was trained; see probe.

        Raises:
            AdapterError: they do not.
        """
        recorded = await asyncio.to_thread(self._probe_of, adapter)
        served = await self._engine.score(adapter, recorded.ids, every_replica=True)
        base = await self._engine.score(None, recorded.ids, every_replica=True)
        other = None
        if champion not in (None, adapter):
            other = await self._engine.score(champion, recorded.ids)
        tolerance = probe.TOLERANCE[self._settings.engine.dtype]
        return probe.require_proof(recorded, served, base=base, champion=other, tolerance=tolerance)

    def _require_intact(self, adapter: Digest) -> None:
        record, label = self._record_of(adapter)
        if record.base != self._base.digest:
            raise AdapterError(
                "wrong_base",
                f"adapter {short(adapter)} was trained on base {short(record.base)}, "
                f"this engine serves {short(self._base.digest)}",
            )
        if not flows_to(label, self._settings.gateway.label):
            raise RefusedError(
                f"adapter {short(adapter)} has label {label!r}, above this endpoint's, "
                f"{self._settings.gateway.label!r}"
            )
        folder = self._home.adapter(adapter)
        verify_adapter(folder, self._base.digest, base_config(self._base.path), expected=adapter)
        if decode((folder / RECORD).read_bytes(), Adapter) != record:
            raise AdapterError(
                "digest_mismatch", f"{folder.name}: {RECORD} is not what the trainer registered"
            )
        self._labels[adapter] = label

    def _require_approved(
        self, number: int, adapter: Digest, cited: tuple[Digest, ...], at: float
    ) -> None:
        with self._database.read() as connection:
            row = connection.execute(sa.select(rounds).where(rounds.c.round == number)).first()
            cast = connection.execute(
                sa.select(approvals.c.record)
                .where(approvals.c.round == number)
                .order_by(approvals.c.number)
            ).all()
            able = signers(connection, roles_that(Act.APPROVE))
        if row is None or row.adapter != adapter:
            raise NotApprovedError(f"round {number} did not make adapter {short(adapter)}")
        records = [decode(entry.record, Approval) for entry in cast]
        known = {record.digest for record in records}
        if missing := [digest for digest in cited if digest not in known]:
            raise NotApprovedError(f"approval {short(missing[0])} is not in the database")
        order = msgspec.json.decode(row.order)
        gates = parse_gates(self._objects.get(order["gates"]).decode())
        require_quorum(
            records,
            candidate=Candidate(adapter=adapter, scorecard=row.scorecard, order=digest_json(order)),
            authors=msgspec.json.decode(row.authors, type=list[str]),
            signers=able,
            needed=gates.quorum,
            now=at,
            valid_s=self._settings.round.approval_hours * 3600,
        )

    def _probe_of(self, adapter: Digest) -> Probe:
        record, _ = self._record_of(adapter)
        return decode(self._objects.get(record.probe), Probe)

    def _record_of(self, adapter: Digest) -> tuple[Adapter, str]:
        with self._database.read() as connection:
            row = connection.execute(
                sa.select(adapters.c.record, adapters.c.label).where(adapters.c.content == adapter)
            ).first()
        if row is None:
            raise NotFoundError(f"adapter {short(adapter)} was not trained here")
        return decode(row.record, Adapter), row.label
