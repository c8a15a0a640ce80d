"""The law that governs rounds: recipe, gates, suites, schedule. Changed by command, never by file.

Each change is an entry with its author; the last entry of a (kind, name) is in force. A round seals
the digests in force when it starts, and everyone who wrote one of them is among its authors.
"""

import re
from typing import Literal, get_args

import msgspec
import sqlalchemy as sa

from appliance.core import audit
from appliance.core.database import Database
from appliance.core.digests import Digest
from appliance.core.errors import NotFoundError, RecordError, UsageError
from appliance.core.objects import ObjectStore
from appliance.core.recipe import parse_recipe
from appliance.core.records import Item, decode
from appliance.core.tables import law
from policies.gates import parse_gates

Kind = Literal["recipe", "gates", "suite", "schedule"]

SUITE_HELP = "see the suite file in docs/first-hour.md, and Item in docs/records.md"
# It becomes a file's name, of at most 255 bytes.
_NAME = re.compile(r"\w[\w .+-]{0,47}\Z")
_EVERY = re.compile(r"every ([1-9][0-9]{0,5}) minutes\Z")


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One article of the law in force."""

    kind: Kind
    name: str
    object: Digest
    actor: str
    at: float


def change(
    database: Database,
    store: ObjectStore,
    *,
    kind: str,
    name: str,
    text: bytes,
    actor: str,
    at: float,
) -> Entry:
    """Put an article in force, after checking that it parses.

    Raises:
        UsageError: an unknown kind, a name that no file can have, or a schedule that is not
            ``every N minutes`` (or ``never``).
        RecordError, PolicyError: the recipe, gate file or suite is malformed.
    """
    if kind not in get_args(Kind):
        raise UsageError(f"expected one of {', '.join(get_args(Kind))}, got {kind!r}")
    if not _NAME.match(name):
        raise UsageError(
            f"an article's name is 1 to 48 letters, digits, spaces and . + - _, got {name[:60]!r}",
            next_step="espalier law set KIND FILE --name NAME",
        )
    _check(kind, text)
    entry = Entry(kind=kind, name=name, object=store.put(text), actor=actor, at=at)  # type: ignore[arg-type] # checked above
    with database.write() as connection:
        audit.record(
            connection,
            actor=actor,
            act="law.change",
            subject=f"{kind}/{name}",
            at=at,
            object=entry.object,
        )
        connection.execute(sa.insert(law).values(msgspec.to_builtins(entry)))
    return entry


def repeal(database: Database, *, kind: str, name: str, actor: str, at: float) -> None:
    """Take an article out of force. The entry stays on record.

    Raises:
        NotFoundError: no such article is in force.
    """
    if not any((entry.kind, entry.name) == (kind, name) for entry in in_force(database)):
        raise NotFoundError(f"no {kind} named {name} is in force")
    row = {"kind": kind, "name": name, "object": "", "actor": actor, "at": at}
    with database.write() as connection:
        audit.record(connection, actor=actor, act="law.repeal", subject=f"{kind}/{name}", at=at)
        connection.execute(sa.insert(law).values(row))


def in_force(database: Database) -> list[Entry]:
    """Every article in force, sorted by kind and name."""
    return in_force_and_authors(database)[0]


def in_force_and_authors(database: Database) -> tuple[list[Entry], set[str]]:
    """Every article in force, and who last changed each one, read at the same moment.

    Whoever repealed one is an author too: taking a suite away is authorship.
    """
    words = _last_words(database)
    return [entry for entry in words if entry.object], {entry.actor for entry in words}


def _last_words(database: Database) -> list[Entry]:
    last = sa.select(sa.func.max(law.c.sequence)).group_by(law.c.kind, law.c.name)
    query = sa.select(law).where(law.c.sequence.in_(last)).order_by(law.c.kind, law.c.name)
    with database.read() as connection:
        rows = connection.execute(query).all()
    return [
        Entry(kind=row.kind, name=row.name, object=Digest(row.object), actor=row.actor, at=row.at)
        for row in rows
    ]


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
    except msgspec.DecodeError as error:
        raise RecordError(
            f"a suite's first line is JSON, got: {error}", next_step=SUITE_HELP
        ) from error
    if not isinstance(name, dict) or name.get("kind") not in ("target", "protected", "canary"):
        raise RecordError(
            'a suite starts with {"suite": NAME, "kind": "target" | "protected" | "canary"}',
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
