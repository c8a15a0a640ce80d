"""Where a candidate comes from: the chain of digests from trajectories to the release.

Every link's bytes are checked against its digest; what does not fit is shown as damaged. The page
does not refuse for it: whoever reviews has to see the break.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import msgspec
import sqlalchemy as sa

from appliance.control.identity import Person
from appliance.control.reading import candidate
from appliance.control.reading.head import size_of
from appliance.control.rounds import Round, Rounds
from appliance.control.steps import Ground
from appliance.core.adapters import FILES, content_digest
from appliance.core.decisions import Approval, Release
from appliance.core.digests import Digest
from appliance.core.errors import EspalierError, IntegrityError, NotFoundError
from appliance.core.records import Adapter, Scorecard, decode
from appliance.core.tables import adapters, approvals, law, releases
from policies.access import Act

State = Literal["intact", "damaged", "missing", "none"]
Facts = list[tuple[str, str]]

THIS = "this candidate"
_ANCESTORS = 12


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """One link of the chain."""

    what: str
    digest: Digest | None
    state: State
    """Whether its bytes are what its digest says; ``none`` where there is nothing (yet)."""
    facts: Facts = []
    problem: str = ""


class Article(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the law that the round was sealed with."""

    kind: str
    name: str
    digest: Digest
    state: State
    author: str
    at: float | None
    accepted_by: str | None


class Provenance(msgspec.Struct, frozen=True, kw_only=True):
    """The chain, oldest first."""

    dataset: Link
    parent: Link
    """What the candidate was grown from."""
    ancestors: list[Link]
    """Of the parent: the parent's parent first."""
    adapter: Link
    scorecard: Link
    approvals: list[Link]
    release: Link
    law: list[Article]
    manifest: dict[str, Any] | None
    """The adapter's record: everything that made it."""

    @property
    def damaged(self) -> list[Link | Article]:
        """What does not fit its digest, or is gone."""
        chain = [self.dataset, self.parent, *self.ancestors, self.adapter, self.scorecard]
        every: list[Link | Article] = [*chain, *self.approvals, self.release, *self.law]
        return [one for one in every if one.state in ("damaged", "missing")]


def of(ground: Ground, person: Person, number: int) -> Provenance:
    """The chain of a round.

    Raises:
        NotFoundError: no such round.
    """
    person.require(Act.VIEW)
    round_ = Rounds(ground.database).get(number)
    row = candidate.row_of(ground, round_.adapter)
    grown = list(_ancestors(ground, row.parent if row else None))
    base = Link(what="base", digest=row.base if row else None, state="none")
    return Provenance(
        dataset=_dataset(ground, round_),
        parent=grown[0] if grown else base,
        ancestors=grown[1:],
        adapter=_adapter(ground, "candidate", round_.adapter),
        scorecard=_scorecard(ground, round_),
        approvals=_approvals(ground, round_),
        release=_release(ground, round_),
        law=list(_law(ground, round_)),
        manifest=msgspec.to_builtins(decode(row.record, Adapter)) if row else None,
    )


def _checked(what: str, digest: Digest | None, read: Callable[[Digest], Facts]) -> Link:
    """A link, as far as it can be read."""
    if digest is None:
        return Link(what=what, digest=None, state="none")
    try:
        return Link(what=what, digest=digest, state="intact", facts=read(digest))
    except (NotFoundError, FileNotFoundError):
        return Link(what=what, digest=digest, state="missing", problem="it is not here")
    except EspalierError as error:
        return Link(what=what, digest=digest, state="damaged", problem=error.message)


def _dataset(ground: Ground, round_: Round) -> Link:
    def read(digest: Digest) -> Facts:
        head = candidate.dataset_head(ground, digest)
        return [
            ("trajectories", f"{head.counts.get('trajectories', 0):,}"),
            ("examples", f"{head.counts.get('examples', 0):,}"),
            ("label", head.label),
        ]

    return _checked("dataset", round_.dataset, read)


def _adapter(ground: Ground, what: str, content: Digest | None) -> Link:
    def read(digest: Digest) -> Facts:
        row = candidate.row_of(ground, digest)
        if row is None:
            raise NotFoundError("no such adapter")
        folder = ground.home.adapter(digest)
        stamps = tuple(_stamp(folder / name) for name in FILES[:2])
        if _content(folder, row.base, stamps) != digest:
            raise IntegrityError("its files are not what its digest says")
        size = size_of(ground.home, digest) or 0
        return [("number", str(row.number)), ("label", row.label), ("bytes", f"{size:,}")]

    return _checked(what, content, read)


@lru_cache(64)
def _content(folder: Path, base: Digest, stamps: tuple[Any, ...]) -> Digest:
    """The folder's digest, made again whenever a file looks otherwise than last time."""
    del stamps  # they are the key
    return content_digest(folder, base)


def _stamp(file: Path) -> tuple[int, int, int, int]:
    found = file.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _ancestors(ground: Ground, content: Digest | None) -> Iterator[Link]:
    """What an adapter was grown from, and so on, back to the base."""
    for _ in range(_ANCESTORS):
        if content is None:
            return
        yield _adapter(ground, "parent", content)
        with ground.database.read() as connection:
            content = connection.scalar(
                sa.select(adapters.c.parent).where(adapters.c.content == content)
            )


def _scorecard(ground: Ground, round_: Round) -> Link:
    def read(digest: Digest) -> Facts:
        scorecard = decode(ground.store.get(digest), Scorecard)
        if scorecard.outputs is not None:
            candidate.require_intact(ground, scorecard.outputs)
        kept = sum(ground.store.has(suite.suite_digest) for suite in scorecard.suites)
        items = sum(suite.num_items for suite in scorecard.suites)
        return [
            ("suites", f"{len(scorecard.suites)}, {kept} of them kept"),
            ("judged pairs", f"{items:,}"),
        ]

    return _checked("scorecard", round_.scorecard, read)


def _approvals(ground: Ground, round_: Round) -> list[Link]:
    with ground.database.read() as connection:
        rows = connection.execute(
            sa.select(approvals.c.digest, approvals.c.record)
            .where(approvals.c.round == round_.round)
            .order_by(approvals.c.number)
        ).all()
    return [_checked("decision", row.digest, _approval_reader(round_, row)) for row in rows]


def _approval_reader(round_: Round, row: Any) -> Callable[[Digest], Facts]:
    def read(digest: Digest) -> Facts:
        approval = decode(row.record, Approval)
        if approval.digest != digest:
            raise IntegrityError("the record is not what its digest says")
        current = approval.candidate == round_.candidate
        return [
            ("by", approval.approver),
            ("decision", approval.decision.replace("_", " ")),
            ("counts for", THIS if current else "another candidate: dismissed"),
        ]

    return read


def _release(ground: Ground, round_: Round) -> Link:
    """The journal's entry that cites this round's approvals."""
    with ground.database.read() as connection:
        cast = set(
            connection.scalars(
                sa.select(approvals.c.digest).where(approvals.c.round == round_.round)
            )
        )
        records = connection.scalars(
            sa.select(releases.c.record)
            .where(releases.c.adapter == round_.adapter)
            .order_by(releases.c.generation.desc())
        ).all()
    for entry in (decode(record, Release) for record in records):
        if entry.approvals and set(entry.approvals) <= cast:
            facts = [
                ("alias", entry.alias),
                ("generation", str(entry.generation)),
                ("by", entry.actor),
            ]
            return Link(what="release", digest=entry.digest, state="intact", facts=facts)
    return Link(what="release", digest=None, state="none")


def _law(ground: Ground, round_: Round) -> Iterator[Article]:
    def read(digest: Digest) -> Facts:
        candidate.require_intact(ground, digest)
        return []

    order = round_.order
    sealed = [("recipe", "recipe", order.recipe), ("gates", "gates", order.gates)]
    sealed += [("suite", name, digest) for name, digest in sorted(order.suites.items())]
    for kind, name, digest in sealed:
        with ground.database.read() as connection:
            entry = connection.execute(
                sa.select(law)
                .where(law.c.kind == kind, law.c.object == digest, law.c.at <= round_.changed_at)
                .order_by(law.c.sequence.desc())
                .limit(1)
            ).first()
        yield Article(
            kind=kind,
            name=name,
            digest=digest,
            state=_checked(kind, digest, read).state,
            author=entry.actor if entry else "",
            at=entry.at if entry else None,
            accepted_by=entry.accepted_by if entry else None,
        )
