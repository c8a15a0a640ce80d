"""The law that governs rounds: recipe, gates, suites, schedule. Changed by command, never by file.

Each change is an entry with its author; the last entry of a (kind, name) is in force. A round seals
the digests in force when it starts, and everyone who wrote one of them is among its authors.
"""

import re
from typing import Any, Literal, get_args

import msgspec
import sqlalchemy as sa

from appliance.core import audit
from appliance.core.database import Database
from appliance.core.digests import Digest
from appliance.core.errors import ConflictError, NotFoundError, RecordError, UsageError
from appliance.core.objects import ObjectStore
from appliance.core.recipe import parse_recipe
from appliance.core.records import Item, decode
from appliance.core.tables import law, rounds
from policies.gates import parse_gates
from policies.suites import require_alone

Kind = Literal["recipe", "gates", "suite", "schedule"]

_SUITE_KINDS = ("target", "protected", "canary", "living")
SUITE_HELP = "see the suite file in docs/first-hour.md, and Item in docs/records.md"
# It becomes a file's name, of at most 255 bytes.
_NAME = re.compile(r"\w[\w .+-]{0,47}\Z")
REPEALED = Digest("")
"""What stands in place of the text's digest where an article was taken out of force."""
_EVERY = re.compile(r"every ([1-9][0-9]{0,5}) minutes\Z")


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One article of the law in force."""

    kind: Kind
    name: str
    object: Digest
    actor: str
    at: float
    accepted_by: str | None = None
    """Who accepted it, where it took somebody else (policies/suites.py)."""


def change(
    database: Database,
    store: ObjectStore,
    *,
    kind: str,
    name: str,
    text: bytes,
    actor: str,
    at: float,
    replaces: Digest | msgspec.UnsetType | None = msgspec.UNSET,
    **detail: str,
) -> Entry:
    """Put an article in force, after checking that it parses. `detail` goes into the audit log.

    With `replaces` (None: nothing is in force), only where that is what is in force.

    Raises:
        UsageError: an unknown kind, a name that no file can have, or a schedule that is not
            ``every N minutes`` (or ``never``).
        RecordError, PolicyError: the recipe, gate file or suite is malformed.
        RefusedError: it would change a protected suite: that takes an approver (acting/suites.py).
        ConflictError: something else than `replaces` is in force.
    """
    require_well_formed(kind, name, text)
    entry = Entry(kind=kind, name=name, object=store.put(text), actor=actor, at=at)  # type: ignore[arg-type] # checked above
    with database.write() as connection:
        before = in_force_now(connection, kind, name)
        if replaces is not msgspec.UNSET:
            require_in_force(before, replaces, name=name)
        require_alone(suite_kind(store, before), name=name)
        audit.record(
            connection,
            actor=actor,
            act="law.change",
            subject=f"{kind}/{name}",
            at=at,
            object=entry.object,
            **detail,
        )
        enact(connection, entry)
    return entry


def repeal(
    database: Database, store: ObjectStore, *, kind: str, name: str, actor: str, at: float
) -> None:
    """Take an article out of force. The entry stays on record.

    Raises:
        NotFoundError: no such article is in force.
        RefusedError: it is a protected suite: that takes an approver (acting/suites.py).
    """
    with database.write() as connection:
        before = in_force_now(connection, kind, name)
        if before is None:
            raise no_article(kind, name)
        require_alone(suite_kind(store, before), name=name)
        audit.record(connection, actor=actor, act="law.repeal", subject=f"{kind}/{name}", at=at)
        enact(connection, msgspec.structs.replace(before, object=REPEALED, actor=actor, at=at))


def enact(connection: sa.Connection, entry: Entry) -> None:
    """Write the entry; from here on it is in force, or repealed where its object is `REPEALED`.

    The caller has asked policies/suites.py, in this transaction, and writes the audit entry.
    """
    connection.execute(sa.insert(law).values(msgspec.to_builtins(entry)))


def require_well_formed(kind: str, name: str, text: bytes) -> None:
    """Raise unless this could be an article.

    Raises:
        UsageError, RecordError, PolicyError: as for `change`.
    """
    if kind not in get_args(Kind):
        raise UsageError(f"expected one of {', '.join(get_args(Kind))}, got {kind!r}")
    if not _NAME.match(name):
        raise UsageError(
            f"an article's name is 1 to 48 letters, digits, spaces and . + - _, got {name[:60]!r}",
            next_step="espalier law set KIND FILE --name NAME",
        )
    _check(kind, text)


def require_in_force(before: Entry | None, replaces: Digest | None, *, name: str) -> None:
    """Raise unless `replaces` (None: nothing) is what is in force.

    Raises:
        ConflictError: somebody changed it meanwhile.
    """
    if (before.object if before else None) != replaces:
        raise ConflictError(
            f"{name} was changed meanwhile, by {before.actor if before else 'whoever repealed it'}",
            next_step="look at it as it is now, and change that",
        )


def no_article(kind: str, name: str) -> NotFoundError:
    """That no such article is in force."""
    return NotFoundError(f"no {kind} named {name} is in force", next_step="espalier law show")


def in_force_now(connection: sa.Connection, kind: str, name: str) -> Entry | None:
    """The article as it is in force inside this transaction."""
    row = connection.execute(
        sa.select(law)
        .where(law.c.kind == kind, law.c.name == name)
        .order_by(law.c.sequence.desc())
        .limit(1)
    ).first()
    return None if row is None or row.object == REPEALED else _entry(row)


def suite_kind(store: ObjectStore, entry: Entry | None) -> str | None:
    """The kind in a suite's first line; None where the entry is no suite."""
    if entry is None or entry.kind != "suite":
        return None
    head = msgspec.json.decode(store.get(entry.object).split(b"\n", 1)[0])
    return str(head.get("kind", ""))


def in_force(database: Database) -> list[Entry]:
    """Every article in force, sorted by kind and name."""
    return in_force_and_authors(database)[0]


def in_force_and_authors(database: Database) -> tuple[list[Entry], set[str]]:
    """Every article in force, and the authors of it all, read at the same moment.

    They are whoever last changed each article, also by repealing it: taking a suite away is
    authorship. A suite grows test by test, so all who changed it since the last round that was
    judged are its authors, not only the last of them.
    """
    words = _last_words(database)
    entries = [word.entry for word in words if word.entry.object != REPEALED]
    return entries, {name for word in words for name in word.authors}


class _Word(msgspec.Struct, frozen=True):
    """The last entry of an article, and its authors."""

    entry: Entry
    authors: frozenset[str]


def history(database: Database, *, kind: str, name: str) -> list[Entry]:
    """Every version of an article, newest first; a repeal has an empty object."""
    query = (
        sa.select(law).where(law.c.kind == kind, law.c.name == name).order_by(law.c.sequence.desc())
    )
    with database.read() as connection:
        return [_entry(row) for row in connection.execute(query).all()]


def _last_words(database: Database) -> list[_Word]:
    last = sa.select(sa.func.max(law.c.sequence)).group_by(law.c.kind, law.c.name)
    query = sa.select(law).where(law.c.sequence.in_(last)).order_by(law.c.kind, law.c.name)
    judged = sa.select(sa.func.max(rounds.c.created_at)).where(rounds.c.scorecard.is_not(None))
    with database.read() as connection:
        entries = [_entry(row) for row in connection.execute(query)]
        since = connection.scalar(judged) or 0.0
        changes = sa.select(law.c.name, law.c.actor).where(law.c.kind == "suite", law.c.at > since)
        changed = {(row.name, row.actor) for row in connection.execute(changes.distinct())}
    return [_Word(entry, _authors(entry, changed)) for entry in entries]


def _authors(entry: Entry, changed: set[tuple[str, str]]) -> frozenset[str]:
    grows = entry.kind == "suite" and entry.object != REPEALED
    others = {actor for name, actor in changed if grows and name == entry.name}
    return frozenset({entry.actor, *others})


def _entry(row: Any) -> Entry:
    fields = {name: getattr(row, name) for name in Entry.__struct_fields__}
    return Entry(**{**fields, "object": Digest(row.object)})


def minutes_between_rounds(text: bytes) -> int | None:
    """``every 1440 minutes`` → 1440; ``never`` → None.

    Raises:
        UsageError: anything else.
    """
    words = text.decode(errors="replace").strip()
    if words == "never":
        return None
    if match := _EVERY.match(words):
        return int(match.group(1))
    raise UsageError(
        f"a schedule is `every N minutes` or `never`, got {words[:60]!r}",
        next_step='espalier law set schedule "every 1440 minutes"',
    )


def _check(kind: str, text: bytes) -> None:
    if kind == "recipe":
        parse_recipe(text.decode(errors="replace"))
    elif kind == "gates":
        parse_gates(text.decode(errors="replace"))
    elif kind == "schedule":
        minutes_between_rounds(text)
    elif kind == "suite":
        _check_suite(text)


def _check_suite(text: bytes) -> None:
    """A line that names the suite, then one item a line. Each check is read by evaluation (api)."""
    head, *items = text.splitlines() or [b""]
    try:
        name = msgspec.json.decode(head)
    except (msgspec.DecodeError, RecursionError) as error:
        raise RecordError(
            f"a suite's first line is JSON, got: {error}", next_step=SUITE_HELP
        ) from error
    if not isinstance(name, dict) or name.get("kind") not in _SUITE_KINDS:
        raise RecordError(
            f'a suite starts with {{"suite": NAME, "kind": one of {", ".join(_SUITE_KINDS)}}}',
            next_step=SUITE_HELP,
        )
    if not any(line.strip() for line in items):
        raise RecordError("the suite has no items, so it would prove nothing", next_step=SUITE_HELP)
    for number, line in enumerate(items, start=2):
        try:
            if line.strip():
                decode(line, Item)
        except RecordError as error:
            raise RecordError(
                f"the suite's line {number}: {error}", next_step=SUITE_HELP
            ) from error
