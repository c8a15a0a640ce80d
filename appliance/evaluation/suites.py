"""Suite files: a line that names the suite, then one item a line.

A `held_out` suite is measured for people and read by no gate: a run passes it over. An item's
check is a program or an exact text (appliance/agent/checks.py), or a likelihood (likelihood.py);
one suite holds one sort.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

from appliance.agent.checks import parse_check
from appliance.core.digests import Digest, canonical_json, digest_json
from appliance.core.errors import RecordError
from appliance.core.files import publish
from appliance.core.records import Item, Json, Record, decode

SuiteKind = Literal["target", "protected", "canary", "living", "held_out"]


class Header(Record, frozen=True, kw_only=True):
    """The first line of a suite file."""

    suite: str
    kind: SuiteKind


class LikelihoodCheck(Record, frozen=True, kw_only=True):
    """How likely an answer is: given as a message or text, or as ids in the object store."""

    kind: Literal["likelihood"] = "likelihood"
    answer: Json = None
    """The assistant message, or its text, that follows the item's messages."""
    tools: tuple[Json, ...] = ()
    ids: Json = None
    mask: Json = None
    """ArrayRefs, as in a dataset's example: the whole row, and 1 on the answer's tokens."""


class Suite(Record, frozen=True, kw_only=True):
    """Items that belong together. Its digest is over all of them and their order."""

    suite: str
    kind: SuiteKind
    items: tuple[Item, ...]

    @property
    def by_likelihood(self) -> bool:
        """Whether answers are scored, not asked for."""
        return is_likelihood(self.items[0])

    @property
    def sealed(self) -> bytes:
        """Canonical JSON: as an object, it has the suite's digest, and says what was asked."""
        return canonical_json(msgspec.to_builtins(self))

    @property
    def items_digest(self) -> Digest:
        """Digest of the items alone: what a cached answer depends on, so not their language."""
        items = msgspec.to_builtins(self.items)
        return digest_json([{k: v for k, v in i.items() if k != "language"} for i in items])


def is_likelihood(item: Item) -> bool:
    """Whether the item's check is a likelihood."""
    return isinstance(item.check, dict) and item.check.get("kind") == "likelihood"


def read_suite(path: Path) -> Suite:
    """Read a suite file.

    Raises:
        RecordError: a line does not parse (the message names it), an item stands twice, a check
            is malformed, the sorts of checks are mixed, or there is no item.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise RecordError(f"suite {path}: {error.strerror}") from error
    if not lines:
        raise RecordError(f"suite {path} is empty; its first line must name suite and kind")
    try:
        header = decode(lines[0], Header)
    except RecordError as error:
        raise RecordError(f"suite {path}, line 1: {error}") from error
    items: dict[str, Item] = {}
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        where = f"suite {path}, line {number}"
        item = _read_item(line, where)
        if item.item_id in items:
            raise RecordError(f"{where}: item {item.item_id!r} stands there twice")
        items[item.item_id] = item
    return make_suite(header.suite, header.kind, items.values(), source=str(path))


def make_suite(name: str, kind: SuiteKind, items: Iterable[Item], *, source: str = "") -> Suite:
    """A suite of items, checked as a whole.

    Raises:
        RecordError: no item, or likelihoods mixed with other checks.
    """
    held = tuple(items)
    where = f"suite {source or name}"
    if not held:
        raise RecordError(f"{where} has no items; a suite without items proves nothing")
    if len({is_likelihood(item) for item in held}) > 1:
        raise RecordError(f"{where} mixes likelihoods with checks; put them in two suites")
    return Suite(suite=name, kind=kind, items=held)


def read_folder(folder: Path) -> list[Suite]:
    """Every suite of a folder (``*.jsonl``), by name.

    Raises:
        RecordError: no suite there, one that does not parse, or two of one name.
    """
    suites = [read_suite(path) for path in sorted(folder.glob("*.jsonl"))]
    if not suites:
        raise RecordError(f"no suite (*.jsonl) in {folder}")
    names = [suite.suite for suite in suites]
    if len(set(names)) < len(names):
        raise RecordError(f"two suites in {folder} have the same name: {', '.join(sorted(names))}")
    return sorted(suites, key=lambda suite: suite.suite)


def write_suite(path: Path, suite: Suite) -> None:
    """Write a suite file, in one step."""
    header = Header(suite=suite.suite, kind=suite.kind)
    lines = [msgspec.json.encode(line) for line in (header, *suite.items)]
    publish(path, b"\n".join(lines) + b"\n")


def _read_item(line: bytes, where: str) -> Item:
    try:
        item = decode(line, Item)
        if is_likelihood(item):
            msgspec.convert(item.check, LikelihoodCheck)
        else:
            parse_check(item.check)
    except (RecordError, msgspec.ValidationError) as error:
        raise RecordError(f"{where}: {error}") from error
    if not item.messages and not is_likelihood(item):
        raise RecordError(f"{where}: item {item.item_id!r} has no messages")
    return item
