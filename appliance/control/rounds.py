"""Rounds in the database: each transition is one transaction with its audit entry, under a lease.

A worker that lost its lease (it stalled, or was thought dead) cannot commit: its fencing token is
old. What a step makes is content-addressed, so doing it again after a crash makes the same thing.
"""

from collections.abc import Iterable
from typing import Any

import msgspec
import sqlalchemy as sa

from appliance.core import audit
from appliance.core.database import Database
from appliance.core.decisions import Candidate
from appliance.core.digests import Digest, digest_json
from appliance.core.errors import ConflictError, NotFoundError, RefusedError
from appliance.core.tables import rounds
from policies.lifecycle import State, move

LEASE_S = 10.0
"""What a kill of the worker costs at most, before the next one goes on."""


_IS_OPEN = rounds.c.state.in_([str(state) for state in State if not state.terminal])


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What a round was asked to do, sealed when it starts."""

    recipe: Digest
    gates: Digest
    suites: dict[str, Digest]
    trajectories: str = "new"
    """``new``: those that no earlier dataset holds; ``all``."""
    idle_s: float
    """Trajectories quiet for so long are sealed before curation."""

    @property
    def digest(self) -> Digest:
        """Of all of it."""
        return digest_json(msgspec.to_builtins(self))


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """One row."""

    round: int
    state: State
    verdict: str | None
    reason: str
    authors: tuple[str, ...]
    order: Order
    champion: Digest | None
    dataset: Digest | None
    adapter: Digest | None
    scorecard: Digest | None
    fencing: int
    created_at: float
    changed_at: float

    @property
    def candidate(self) -> Candidate | None:
        """What people sign for; None while nothing has been evaluated."""
        if self.adapter is None or self.scorecard is None:
            return None
        return Candidate(adapter=self.adapter, scorecard=self.scorecard, order=self.order.digest)


class Rounds:
    """The table of rounds, and the only code that writes it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, *, authors: tuple[str, ...], order: Order, actor: str, at: float) -> Round:
        """Start a round; a worker picks it up.

        Raises:
            ConflictError: another round is still under way (a round waiting for people counts).
        """
        row = {
            "state": State.CREATED,
            "reason": "",
            "authors": msgspec.json.encode(authors).decode(),
            "order": msgspec.json.encode(order).decode(),
            "lease_until": 0.0,
            "fencing": 0,
            "created_at": at,
            "changed_at": at,
        }
        with self._database.write() as connection:
            under_way = connection.execute(
                sa.select(rounds.c.round, rounds.c.state).where(_IS_OPEN)
            ).first()
            if under_way:
                raise ConflictError(
                    f"round {under_way.round} is still under way: {under_way.state}",
                    next_step=f"espalier review {under_way.round}, then approve or reject it"
                    if under_way.state == State.AWAITING_APPROVAL
                    else "espalier status shows how far it is; wait for its end",
                )
            number = connection.execute(
                sa.insert(rounds).values(row).returning(rounds.c.round)
            ).scalar_one()
            audit.record(
                connection,
                actor=actor,
                act="round.create",
                subject=str(number),
                at=at,
                authors=list(authors),
            )
        return self.get(number)

    @staticmethod
    def read(connection: sa.Connection, number: int) -> Round:
        """One round, as this transaction sees it.

        Raises:
            NotFoundError: there is none of that number.
        """
        row = connection.execute(sa.select(rounds).where(rounds.c.round == number)).first()
        if row is None:
            raise NotFoundError(f"no round {number}", next_step="espalier rounds")
        return _round(row)

    def get(self, number: int) -> Round:
        """One round.

        Raises:
            NotFoundError: there is none of that number.
        """
        with self._database.read() as connection:
            return self.read(connection, number)

    def all(self) -> list[Round]:
        """Every round, newest first."""
        return self.some()

    def some(self, *, before: int | None = None, limit: int | None = None) -> list[Round]:
        """Rounds newest first: at most `limit`, of numbers below `before`."""
        query = sa.select(rounds).order_by(rounds.c.round.desc()).limit(limit)
        if before is not None:
            query = query.where(rounds.c.round < before)
        with self._database.read() as connection:
            return [_round(row) for row in connection.execute(query).all()]

    def under_way(self) -> Round | None:
        """The round that is not over; there is at most one."""
        with self._database.read() as connection:
            row = connection.execute(sa.select(rounds).where(_IS_OPEN)).first()
        return _round(row) if row else None

    def lease(self, number: int, *, owner: str, at: float) -> Round | None:
        """Take the round for `LEASE_S`, with a new fencing token; None while another holds it."""
        with self._database.write() as connection:
            taken = connection.execute(
                sa.update(rounds)
                .where(
                    rounds.c.round == number,
                    sa.or_(rounds.c.lease_until < at, rounds.c.lease_owner == owner),
                )
                .values(lease_owner=owner, lease_until=at + LEASE_S, fencing=rounds.c.fencing + 1)
            ).rowcount
        return self.get(number) if taken else None

    def renew(self, round_: Round, *, at: float) -> None:
        """Hold the lease for another `LEASE_S`.

        Raises:
            ConflictError: somebody else took it in between.
        """
        with self._database.write() as connection:
            renewed = connection.execute(
                sa.update(rounds)
                .where(rounds.c.round == round_.round, rounds.c.fencing == round_.fencing)
                .values(lease_until=at + LEASE_S)
            ).rowcount
        if not renewed:
            raise ConflictError(f"round {round_.round}: another worker took the lease")

    def advance(
        self, round_: Round, to: State, *, actor: str, at: float, reason: str = "", **made: Any
    ) -> Round:
        """Move a round on, in one transaction with its audit entry.

        `made` sets columns (dataset, adapter, scorecard, champion). Without a new reason the last
        one stands.

        Raises:
            RefusedError: no such transition in the life cycle.
            ConflictError: the round is no longer in that state, or the lease was lost.
        """
        move(round_.state, to)
        values = {"state": str(to), "reason": reason or round_.reason, "changed_at": at, **made}
        if to.terminal:
            values["verdict"] = str(to)
        with self._database.write() as connection:
            moved = connection.execute(
                sa.update(rounds)
                .where(
                    rounds.c.round == round_.round,
                    rounds.c.state == str(round_.state),
                    rounds.c.fencing == round_.fencing,
                )
                .values(values)
            ).rowcount
            if not moved:
                raise ConflictError(
                    f"round {round_.round} moved on without this worker "
                    f"(fencing token {round_.fencing})"
                )
            audit.record(
                connection,
                actor=actor,
                act=f"round.{to}",
                subject=str(round_.round),
                at=at,
                reason=reason,
                **made,
            )
        return self.get(round_.round)

    def cancel(self, number: int, *, actor: str, at: float, reason: str) -> Round:
        """End a round before its verdict, whoever works on it: their fencing token is old now.

        Raises:
            RefusedError: it is over, or its release is being carried out.
        """
        with self._database.write() as connection:
            round_ = Rounds.read(connection, number)
            move(round_.state, State.CANCELLED)
            audit.record(
                connection, actor=actor, act="round.cancel", subject=str(number), at=at,
                reason=reason,
            )  # fmt: skip
            _set(
                connection, round_, at, state=State.CANCELLED, verdict=State.CANCELLED,
                reason=f"{actor}: {reason}",
            )  # fmt: skip
        return self.get(number)

    def revise(
        self, number: int, *, authors: Iterable[str], order: Order, actor: str, at: float, why: str
    ) -> Round:
        """Make a waiting candidate again under `order`: from curation where the recipe is another,
        else from evaluation. Decisions about the candidate before count for nothing any more.

        Raises:
            RefusedError: no candidate waits.
            ConflictError: `order` is what the candidate was made by.
        """
        with self._database.write() as connection:
            round_ = Rounds.read(connection, number)
            if round_.state is not State.AWAITING_APPROVAL:
                raise RefusedError(f"round {number} is {round_.state}: no candidate waits")
            if order == round_.order:
                raise ConflictError(
                    f"the law has not changed since round {number} was judged: the same candidate "
                    "would come out",
                    next_step="change the recipe, the gates or a suite first",
                )
            anew = order.recipe != round_.order.recipe
            to = State.CURATING if anew else State.EVALUATING
            move(round_.state, to)
            everybody = tuple(sorted({*round_.authors, *authors, actor}))
            audit.record(
                connection, actor=actor, act="round.revise", subject=str(number), at=at, to=str(to),
                reason=why, adapter=round_.adapter, scorecard=round_.scorecard,
                authors=list(everybody),
            )  # fmt: skip
            made = {"dataset": None, "adapter": None} if anew else {}
            _set(
                connection, round_, at, state=to, scorecard=None, reason=f"{actor}: {why}",
                authors=msgspec.json.encode(everybody).decode(),
                order=msgspec.json.encode(order).decode(), **made,
            )  # fmt: skip
        return self.get(number)


def _set(connection: sa.Connection, round_: Round, at: float, **values: Any) -> None:
    connection.execute(
        sa.update(rounds)
        .where(rounds.c.round == round_.round)
        .values(changed_at=at, fencing=rounds.c.fencing + 1, lease_until=0.0, **values)
    )


def _round(row: Any) -> Round:
    return Round(
        round=row.round,
        state=State(row.state),
        verdict=row.verdict,
        reason=row.reason,
        authors=tuple(msgspec.json.decode(row.authors)),
        order=msgspec.json.decode(row.order, type=Order),
        champion=row.champion,
        dataset=row.dataset,
        adapter=row.adapter,
        scorecard=row.scorecard,
        fencing=row.fencing,
        created_at=row.created_at,
        changed_at=row.changed_at,
    )
